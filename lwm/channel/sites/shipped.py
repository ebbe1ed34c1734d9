"""Sites by name or by path: the tables in this package, a table file, a DeepMIMO scenario folder."""

from functools import lru_cache
from os import PathLike
from pathlib import Path

from lwm.channel.sites.deepmimo import read_deepmimo
from lwm.channel.sites.table import SiteTable, load_table
from lwm.errors import ConfigError

SITES = ("munich", "etoile", "florence", "san_francisco", "simple_street_canyon")
"""Names of the tables in this package: four cities and one simple street canyon."""

DATA = Path(__file__).with_name("data")


def site_table(name_or_path: str | PathLike[str]) -> SiteTable:
    """Table of a site, read once, and again after its file or a file of its folder has changed.

    Args:
        name_or_path: a name in :data:`SITES`, the path of an ``.npz`` table, or a DeepMIMO scenario folder.

    Raises:
        ConfigError: neither a name nor a path that exists.
        DatasetError: a file or folder that is no usable table.
    """
    expected = f"one of {list(SITES)}, the path of an .npz table or a DeepMIMO scenario folder"
    wrong = ConfigError(f"no site {name_or_path!r}", expected, "trace one with `lwm trace-site`")
    if not isinstance(name_or_path, str | PathLike):
        raise wrong
    path = DATA / f"{name_or_path}.npz" if name_or_path in SITES else Path(name_or_path)
    try:
        parts = sorted(path.iterdir()) if path.is_dir() else [path]
        found = [(str(part), part.stat()) for part in parts]
    except (OSError, ValueError) as error:
        raise wrong from error
    return _read(path.absolute(), tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found))


@lru_cache(maxsize=64)
def _read(path: Path, state: tuple[tuple[str, int, int], ...]) -> SiteTable:
    """Table at a path; ``state`` are names, times and sizes of what was read, which make it another entry when new."""
    return read_deepmimo(path) if path.is_dir() else load_table(path)
