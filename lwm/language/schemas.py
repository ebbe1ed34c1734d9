"""The JSON Schema that answers are held to: a file, or the summary that the tuning data teach."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lwm.errors import ConfigError
from lwm.language.constrain import MOST_SCHEMA_BYTES, check_schema
from lwm.language.facts import CANNOT_TELL
from lwm.language.templates import library_text

BUILTIN = "builtin"
"""Name of the schema of the summary."""


def builtin_schema(labels: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The summary's schema, its technology and link one of the labels that a model was tuned on, or "cannot tell".

    Args:
        labels: by kind of question, as the model keeps them.
    """
    schema: dict[str, Any] = json.loads(library_text("summary.schema.json"))
    for name, part in schema["properties"].items():
        if labels.get(name):
            schema["properties"][name] = part | {"enum": [*dict.fromkeys([*labels[name], CANNOT_TELL])]}
    return schema


def read_schema(name: str | Path, labels: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The schema in a file, or with ``name`` "builtin" the summary's.

    Args:
        name: file, or :data:`BUILTIN`.
        labels: see :func:`builtin_schema`.

    Raises:
        ConfigError: no such file, a larger one than :data:`~lwm.language.constrain.MOST_SCHEMA_BYTES`, or no schema.
    """
    if str(name) == BUILTIN:
        return builtin_schema(labels)
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"no file {path}", f'a JSON Schema, or "{BUILTIN}"', "check the name")
    if path.stat().st_size > MOST_SCHEMA_BYTES:
        raise ConfigError(f"{path} has {path.stat().st_size} bytes", f"at most {MOST_SCHEMA_BYTES}")
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON ({error})", "a JSON Schema") from None
    check_schema(schema)
    return dict(schema)
