"""Turn jsonargparse's paragraphs into one line that names the key and the keys that exist."""

import inspect
import re
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from pytorch_lightning import Trainer

from lwm.errors import ConfigError

_TOP = ("seed_everything", "trainer", "model", "data", "ckpt_path", "out", "resume", "overwrite", "config")


def explain(error: Exception, command: str) -> ConfigError:
    """The ConfigError a user reads for a jsonargparse error of ``command``."""
    text = str(error)
    remedy = f"see {command} --help"
    option = re.search(r"Option '([^']+)' is not accepted", text)
    owner = re.search(r"Problem with given class_path '([^']+)'", text)
    if option and owner:
        return _unknown(command, option[1].split(".")[0], _parameters(_locate(owner[1])), f"of {owner[1]}")
    outside = re.search(r"does not accept option '([^']+)'", text)
    if outside:
        head, _, rest = outside[1].partition(".")
        if head == "trainer" and rest:
            return _unknown(command, f"trainer.{rest}", [f"trainer.{name}" for name in _parameters(Trainer)])
        return _unknown(command, head, list(_TOP))
    unknown = re.search(r"unrecognized arguments: (\S+)", text)
    if unknown:
        flag = unknown[1].lstrip("-")
        known = [*_TOP, *(f"trainer.{name}" for name in _parameters(Trainer))]
        return _unknown(command, flag, known if flag.startswith("trainer") else list(_TOP))
    missing = re.search(r"arguments are required: (.+)", text)
    if missing:
        return ConfigError(f"{command} without {missing[1]}", "--config FILE that sets them", remedy)
    return ConfigError(f"{command}: {_compress(text)}", remedy=remedy)


def _unknown(command: str, key: str, known: list[str], where: str = "") -> ConfigError:
    near = get_close_matches(key, known, n=1)
    remedy = f"did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"{command}: no key {key!r} {where}".strip(), f"one of {sorted(known)}", remedy)


def _locate(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module), name)


def _parameters(owner: Any) -> list[str]:
    return [name for name in inspect.signature(owner.__init__).parameters if name != "self"]


def _compress(text: str) -> str:
    """Keep the key, the first reason and the value of a message about a Union."""
    key = re.search(r'Parser key "([^"]+)"', text)
    value = re.search(r"Given value: (.+)", text)
    if key and value:
        reasons = re.findall(r"- (.+)", text) or [text.splitlines()[-1]]
        nested = re.search(r"class_path '[^']+':\s*\n\s*(.+)", text)
        reason = nested[1] if nested else reasons[0]
        return f"{key[1]} = {value[1]}: {reason}"
    return " ".join(text.split())
