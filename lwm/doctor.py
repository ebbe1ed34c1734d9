"""``lwm doctor``: is a data set or a model folder what it says it is?"""

from pathlib import Path

from lwm.console import say
from lwm.errors import ConfigError

DATASET, MODEL = "manifest.json", "config.json"


def kind_of(path: Path) -> str:
    """``"dataset"``, ``"model"`` or ``"capture"``, by what stands at ``path``.

    Raises:
        ConfigError: nothing is there, or a folder that is neither a data set nor a model.
    """
    if (path / DATASET).is_file():
        return "dataset"
    if (path / MODEL).is_file():
        return "model"
    if path.is_dir():
        raise ConfigError(f"folder {path} has no {DATASET} and no {MODEL}", "a data set or a model folder")
    if path.exists() or path.with_name(path.name + ".sigmf-meta").exists():
        return "capture"
    raise ConfigError(f"{path} does not exist", "a capture, a data set or a model folder")


def doctor(path: str) -> int:
    """Check every hash, size and range of a data set, or hashes, weights and golden outputs of a model folder.

    Args:
        path: folder of a data set or of a model.

    Returns:
        0 when nothing is wrong, 1 otherwise; each problem is printed with its remedy.
    """
    place = Path(path)
    kind = kind_of(place)
    if kind == "dataset":
        from lwm.data.check import check_dataset

        problems = check_dataset(place)
    elif kind == "model":
        from lwm.hub import check_model

        problems = check_model(place)
    else:
        raise ConfigError(f"{place} is a file", "a data set or a model folder", "lwm inspect shows a capture")
    for problem in problems:
        say(f"- {problem}")
    say(f"{place}: {len(problems)} problem(s)" if problems else f"{place}: sound")
    return 1 if problems else 0
