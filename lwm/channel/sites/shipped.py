"""Sites by name or by path: the tables in this package, a table file, a DeepMIMO scenario folder."""

from functools import lru_cache
from pathlib import Path

from lwm.channel.sites.deepmimo import read_deepmimo
from lwm.channel.sites.table import SiteTable, load_table
from lwm.errors import ConfigError

SITES = ("munich", "etoile", "florence", "san_francisco", "simple_street_canyon")
"""Names of the tables in this package: four cities and one simple street canyon."""

DATA = Path(__file__).with_name("data")


@lru_cache(maxsize=16)
def site_table(name_or_path: str) -> SiteTable:
    """Table of a site, read once.

    Args:
        name_or_path: a name in :data:`SITES`, the path of an ``.npz`` table, or a DeepMIMO scenario folder.

    Raises:
        ConfigError: neither a name nor a path that exists.
        DatasetError: a file or folder that is no usable table.
    """
    if name_or_path in SITES:
        return load_table(DATA / f"{name_or_path}.npz")
    path = Path(name_or_path)
    if path.is_dir():
        return read_deepmimo(path)
    if path.is_file():
        return load_table(path)
    expected = f"one of {list(SITES)}, the path of an .npz table or a DeepMIMO scenario folder"
    raise ConfigError(f"no site {name_or_path!r}", expected, "trace one with `lwm trace-site`")
