"""Settings files: a short YAML read into frozen dataclasses, every key and value checked against their annotations."""

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from lwm.errors import ConfigError
from lwm.shipped import config_path

Settings = TypeVar("Settings")


def load_settings(kind: type[Settings], config: str) -> Settings:
    """Settings in a YAML file, or in the one that ships under a name such as ``generate/demo``.

    Raises:
        ConfigError: no such file or name, not YAML, or a key that does not exist or has an impossible value.
    """
    return read_settings(kind, load_plain(config, kind), config)


def load_plain(config: str, kind: type) -> Any:
    """What YAML makes of a file, or of the one that ships under a name.

    Args:
        config: path or name.
        kind: settings whose keys an error lists.

    Raises:
        ConfigError: no such file or name, or not YAML.
    """
    text = config_path(config).read_text(errors="replace")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{config} is not YAML ({error})", f"the keys {_names(kind)}") from error


def read_settings(kind: type[Settings], plain: Any, origin: str, key: str = "") -> Settings:
    """Dataclass ``kind`` from a plain mapping; unknown and missing keys and values of another type are errors.

    Read are numbers, texts, booleans, Literals, tuples (from lists), dicts with text keys, other dataclasses and
    optional values. YAML 1.1 reads ``5e6`` as text, so numbers may be texts.

    Args:
        kind: dataclass whose annotations decide.
        plain: what YAML or JSON gave.
        origin: name of the file in errors.
        key: where in the file this mapping stands.
    """
    where = f"{key}." if key else ""
    if not isinstance(plain, Mapping):
        raise ConfigError(f"{origin}: {key or 'the file'} is {plain!r}", f"a mapping with keys {_names(kind)}")
    unknown = [f"{where}{name}" for name in plain if name not in _names(kind)]
    if unknown:
        raise ConfigError(f"{origin}: no key {', '.join(unknown)}", f"keys among {_names(kind)}")
    missing = [f"{where}{field.name}" for field in _fields(kind) if _needed(field) and field.name not in plain]
    if missing:
        raise ConfigError(f"{origin}: key {', '.join(missing)} is missing", f"keys {_names(kind)}")
    hints = get_type_hints(kind)
    return kind(**{name: _read(value, hints[name], origin, f"{where}{name}") for name, value in plain.items()})


def to_plain(value: Any) -> Any:
    """Settings as JSON gives them back: tuples as lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in _fields(type(value))}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _fields(kind: Any) -> tuple["Field[Any]", ...]:
    return fields(kind)


def _names(kind: Any) -> list[str]:
    return [field.name for field in _fields(kind)]


def _needed(field: "Field[Any]") -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _read(value: Any, hint: Any, origin: str, key: str) -> Any:
    """``value`` as what ``hint`` says."""
    outer, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if is_dataclass(hint) and isinstance(hint, type):
        return read_settings(hint, value, origin, key)
    if outer in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _read(value, next(choice for choice in inner if choice is not type(None)), origin, key)
    wrong = ConfigError(f"{origin}: {key} is {value!r}", _wanted(hint))
    if outer is Literal:
        if value not in inner:
            raise wrong
        return value
    if outer is tuple:
        return _read_tuple(value, inner, origin, key, wrong)
    if outer in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise wrong
        return {str(name): _read(item, inner[1], origin, f"{key}.{name}") for name, item in value.items()}
    return _scalar(value, hint, wrong)


def _read_tuple(value: Any, inner: tuple[Any, ...], origin: str, key: str, wrong: ConfigError) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise wrong
    kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
    if len(kinds) != len(value):
        raise wrong
    return tuple(_read(item, kind, origin, key) for item, kind in zip(value, kinds, strict=True))


def _scalar(value: Any, kind: Any, wrong: ConfigError) -> Any:
    if kind in (bool, str):
        if not isinstance(value, kind):
            raise wrong
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise wrong
    try:
        number = float(value)
    except ValueError:
        raise wrong from None
    if not math.isfinite(number) or (kind is int and not number.is_integer()):
        raise wrong
    return int(number) if kind is int else number


_WORDS = {float: "number", int: "whole number", str: "text", bool: "true or false"}


def _wanted(hint: Any) -> str:
    """An annotation in words."""
    outer, inner = get_origin(hint), get_args(hint)
    if outer is Literal:
        return f"one of {list(inner)}"
    if outer is tuple:
        word = _WORDS.get(inner[0], "value")
        return f"a list of {word}s" if inner[-1] is Ellipsis else f"{len(inner)} {word}s"
    if outer in (dict, Mapping):
        return f"a mapping from names to: {_wanted(inner[1])}"
    word = _WORDS.get(hint, str(hint))
    return word if hint is bool else f"a {word}"
