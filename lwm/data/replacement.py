"""``--overwrite``: what of a folder belongs to a data set, and may therefore be deleted."""

import re
from pathlib import Path

from lwm.data.card import CARD, SHEET
from lwm.data.index import FILE_NAME as INDEX
from lwm.data.journal import FILE_NAME as JOURNAL
from lwm.data.journal import Journal
from lwm.data.lock import FILE_NAME as LOCK
from lwm.data.manifest import FILE_NAME, SPLITS, Manifest
from lwm.data.scenes import SCENE
from lwm.errors import DatasetError, OutputError
from lwm.output import disk_errors, is_partial, remove_partial

_NAMED = 3
"""Strange files that a refusal names; the others are counted."""


def require_replaceable(root: Path) -> list[Path]:
    """The files of the data set in ``root`` in the order in which to delete them, the manifest last.

    As long as the manifest is there, a deletion that was cut short can be done again.

    Raises:
        OutputError: ``root`` is a file, or a folder with something in it that no data set's manifest accounts for.
    """
    if root.is_file():
        raise OutputError(f"{root} is a file", "a data set to overwrite", "choose another --out")
    there = [path for path in sorted(root.iterdir()) if path.name != LOCK] if root.is_dir() else []
    if all(is_partial(path) for path in there):
        return []
    try:
        manifest = Manifest.load(root, incomplete=True)
    except DatasetError as error:
        raise OutputError(
            f"{root} is no data set that can be overwritten ({error})", "a data set", "delete it yourself"
        ) from error
    shards = {entry.name for entry in manifest.shards} | {entry.name for entry in Journal(root).read()}
    order = [INDEX, SHEET, CARD, JOURNAL, FILE_NAME]
    owned = {path.name: path for path in there if path.is_file() and _owned(path.name, shards, order, manifest)}
    strange = [path.name for path in there if path.name not in owned and not is_partial(path)]
    if strange:
        more = f" and {len(strange) - _NAMED} more" if len(strange) > _NAMED else ""
        raise OutputError(
            f"{root} holds {', '.join(strange[:_NAMED])}{more} beside its data set",
            "nothing else in a folder to overwrite",
            "move it elsewhere, or delete it yourself",
        )
    last = [owned.pop(name) for name in order if name in owned]
    return [*owned.values(), *last]


def _owned(name: str, shards: set[str], others: list[str], manifest: Manifest) -> bool:
    if name in shards or name in others:
        return True
    # A run that was killed after it wrote a shard and before it noted that.
    technologies = "|".join(map(re.escape, (*manifest.plan.get("technologies", ()), SCENE)))
    pattern = rf"({technologies})-({'|'.join(SPLITS)})-\d{{5,}}\.h5"
    return not manifest.complete and bool(technologies) and re.fullmatch(pattern, name) is not None


def remove_dataset(root: Path) -> None:
    """Delete the data set in ``root``, the folder itself and its lock excepted.

    Raises:
        OutputError: as :func:`require_replaceable`, or no permission.
    """
    owned = require_replaceable(root)
    with disk_errors(root):
        remove_partial(root)
        for path in owned:
            path.unlink()
