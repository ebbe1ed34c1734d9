"""The YAML files that ship with the package, found by path or by name."""

from importlib.resources import files
from pathlib import Path

from lwm.errors import ConfigError


def shipped_configs(kind: str = "") -> list[str]:
    """Names such as ``pretrain/lte`` of the shipped YAML files, those under ``kind`` only when given."""
    root = Path(str(files("configs")))
    found = (path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))
    return sorted(name for name in found if name.startswith(kind))


def config_path(name: str | Path) -> Path:
    """The YAML file at a path, or the shipped one of that name (``pretrain/lte`` or ``configs/pretrain/lte.yaml``).

    Raises:
        ConfigError: there is neither; the message lists what ships.
    """
    given = Path(name)
    if given.is_file():
        return given
    bare = given.with_suffix("").as_posix().removeprefix("configs/")
    shipped = Path(str(files("configs"))) / f"{bare}.yaml"
    if bare in shipped_configs():
        return shipped
    raise ConfigError(f"no config file {str(name)!r}", f"a path or one of {shipped_configs()}")
