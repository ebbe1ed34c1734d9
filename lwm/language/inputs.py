"""Whatever a question is about, as a model's input: recordings, arrays, shard rows, pictures and uploads."""

import io
import re
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lwm.data.dataset import SpectrogramDataset
from lwm.data.manifest import FILE_NAME
from lwm.data.windows import window_starts
from lwm.errors import CaptureError, ConfigError, DatasetError
from lwm.language.pictures import IMAGE_SUFFIXES, is_image, picture_db
from lwm.signal.capture import Capture, Emission
from lwm.signal.csi_recipe import CsiRecipe
from lwm.signal.io import open_recording
from lwm.signal.recipe import Recipe
from lwm.signal.recording import Recording

_ROW = re.compile(r"(?P<data>.+):(?P<index>-?\d+)", re.DOTALL)
_UPLOADS = {"npy": ".npy", "wav": ".wav", "sigmf": ".sigmf", "iq": ".iq"}
UPLOAD_KINDS = ("image", *_UPLOADS)
"""What bytes may be: a PNG or JPEG, a ``.npy``, a ``.wav`` of I and Q, a SigMF archive, raw IQ with its datatype."""

MOST_WINDOWS = 16
"""Windows of a long recording that are looked at, spread evenly over it."""
MOST_SAMPLES = 1 << 24
"""Samples that a window may have (128 MiB of IQ): a file's own words about its sample rate must not decide how much
memory padding it to a window takes."""


class Seen(NamedTuple):
    """What a model gets to see of a source, and what is known of it beside.

    ``db``: dB pictures float32 ``[W, C, F, T]`` of the recipe, one a window. ``sample_rate``: Hz, None where nobody
    knows (a picture). ``duration``: s of the whole source. ``name``: in messages. ``annotations``: what the source
    says is in it, which no question tells the model unless asked to.
    """

    db: Tensor
    sample_rate: float | None
    duration: float | None
    name: str
    annotations: Sequence[Emission] = ()


def spectrogram_of(
    source: Any,
    recipe: Recipe,
    *,
    sample_rate: float | None = None,
    datatype: str | None = None,
    kind: str | None = None,
    levels: Sequence[float] | None = None,
    most: int = 1,
) -> Seen:
    """Pictures of a source by a recipe.

    Args:
        source: path of a recording (SigMF, raw IQ, ``.npy``, ``.mat``, HDF5, ``.wav``), of a PNG or JPEG of a
            spectrogram or of a ``.npy`` that holds one in dB; ``DATA:INDEX``, a sample of a data set; a
            :class:`~lwm.signal.capture.Capture` or recording; complex IQ ``[S]``; a spectrogram in dB ``[F, T]``,
            ``[C, F, T]`` or ``[1, C, F, T]``; or the bytes of an upload.
        recipe: the model's.
        sample_rate: Hz, of IQ that does not state its own.
        datatype: sample format of raw IQ, for example ci16_le.
        kind: of bytes, one of :data:`UPLOAD_KINDS`; None looks at how they begin.
        levels: dB of the ends of a picture's colour scale (:func:`lwm.language.pictures.picture_db`).
        most: windows of a long recording that are looked at, spread evenly over it; 1 is its first.

    Raises:
        CaptureError: missing, damaged, empty, not finite, too short for the recipe, without a sample rate, or a picture
            that is no spectrogram.
        DatasetError: no such data set or sample.
        RecipeMismatch: a shard of another recipe.
        ConfigError: a model of CSI, an unknown kind, an impossible number of windows.
    """
    if isinstance(recipe, CsiRecipe):
        raise ConfigError(f"a model of Wi-Fi CSI (recipe {recipe.name!r})", "a model of IQ spectrograms")
    if most < 1:
        raise ConfigError(f"{most} windows", "one or more")
    if isinstance(source, bytes | bytearray | memoryview):
        return _of_bytes(bytes(source), recipe, sample_rate, datatype, kind, levels, most)
    if isinstance(source, str | Path):
        return _of_path(source, recipe, sample_rate, datatype, levels, most)
    if isinstance(source, Recording):
        return _of_recording(source, recipe, most)
    if isinstance(source, Tensor):
        source = source.detach().cpu().numpy()
    if isinstance(source, np.ndarray) and not np.iscomplexobj(source):
        return Seen(_checked_picture(source, recipe, "the array"), sample_rate, recipe.duration, "the array")
    if isinstance(source, np.ndarray):
        if sample_rate is None:
            raise CaptureError("IQ without a sample rate", "a positive number of Hz", "state it (sample_rate)")
        source = Capture(source, sample_rate)
    if not isinstance(source, Capture):
        raise ConfigError(f"a {type(source).__name__} as source", "a path, bytes, a capture or an array")
    return _of_recording(_recording(source), recipe, most)


def windows_of(recording: Recording, recipe: Recipe, most: int) -> Tensor:
    """Pictures ``[W, C, F, T]`` in dB of at most ``most`` windows of a recording, spread evenly over it.

    Raises:
        CaptureError: too short for the recipe, not finite, or of a sample rate at which a window of the recipe has too
            few samples or more than :data:`MOST_SAMPLES`; the recording is named.
    """
    _require_rate(recording, recipe)
    # The first window begins at 0 whatever the length: a recording of millions of windows needs no list of them.
    starts = [0.0] if most == 1 else window_starts(recording, recipe, None)[0]
    chosen = np.unique(np.linspace(0, len(starts) - 1, min(len(starts), most)).round().astype(int))
    try:
        pictures = [recipe.of_capture(recording.read(starts[i], recipe.duration)).db for i in chosen]
    except CaptureError as error:
        named = str(recording.path) in str(error)
        raise CaptureError(str(error) if named else f"{recording.path}: {error}") from error
    return torch.cat(pictures)


def _require_rate(recording: Recording, recipe: Recipe) -> None:
    """CaptureError where a window has an impossible number of samples at the recording's sample rate."""
    rate = recording.sample_rate
    # What is resampled to a rate of the recipe's own needs a sample to begin with; its STFT sees the resampled ones.
    least = recipe.win_length if recipe.sample_rate is None else 1
    lowest, highest = least / recipe.duration, MOST_SAMPLES / recipe.duration
    # The upper end first, as floats: what a header says may be beyond any number of samples.
    if rate > highest or recipe.window_samples(rate) < least:
        raise CaptureError(
            f"{recording.path}: a sample rate of {rate:g} Hz",
            f"{lowest:g} to {highest:g} Hz for the {recipe.duration:g} s of recipe {recipe.name!r}",
            "check the stated sample rate",
        )


def _of_path(
    source: str | Path,
    recipe: Recipe,
    sample_rate: float | None,
    datatype: str | None,
    levels: Sequence[float] | None,
    most: int,
) -> Seen:
    path = Path(source)
    row = None if path.exists() else _ROW.fullmatch(str(source))
    if row is not None and Path(row["data"]).is_dir():
        return _of_row(Path(row["data"]), int(row["index"]), recipe)
    if (path / FILE_NAME).is_file():
        raise CaptureError(f"{path} is a data set", "one sample of it", f"name it by its number, {path}:0")
    if path.suffix.lower() in IMAGE_SUFFIXES and datatype is None:
        if not path.is_file():
            raise CaptureError(f"no file {path}", "a picture of a spectrogram", "check the name")
        return Seen(picture_db(path, recipe, levels), sample_rate, recipe.duration, path.name)
    if path.suffix.lower() == ".npy" and datatype is None and path.is_file():
        picture = _stored_picture(path, recipe)
        if picture is not None:
            return Seen(picture, sample_rate, recipe.duration, path.name)
    return _of_recording(open_recording(path, sample_rate, datatype), recipe, most)


def _of_recording(recording: Recording, recipe: Recipe, most: int) -> Seen:
    pictures = windows_of(recording, recipe, most)
    return Seen(pictures, recording.sample_rate, recording.duration, recording.path.name, tuple(recording.emissions))


def _of_row(data: Path, index: int, recipe: Recipe) -> Seen:
    dataset = SpectrogramDataset(data)
    recipe.require_same(dataset.recipe, "the model", f"data set {data}")
    if not 0 <= index < len(dataset):
        raise DatasetError(f"sample {index} of {data}", f"0 to {len(dataset) - 1}")
    record = dataset.record(index)
    notes = tuple(Emission(**plain) for plain in record.get("emissions", ()))
    picture = dataset.batch([index])["spectrogram"].float()
    return Seen(picture, record.get("sample_rate"), record.get("duration"), f"{data.name}:{index}", notes)


def _of_bytes(
    data: bytes,
    recipe: Recipe,
    sample_rate: float | None,
    datatype: str | None,
    kind: str | None,
    levels: Sequence[float] | None,
    most: int,
) -> Seen:
    kind = _kind_of(data, datatype) if kind is None else kind
    if kind not in UPLOAD_KINDS:
        raise ConfigError(f"an upload of kind {kind!r}", f"one of {list(UPLOAD_KINDS)}")
    if not data:
        raise CaptureError("an upload of no bytes", "a recording or a picture")
    if kind == "image":
        return Seen(picture_db(data, recipe, levels), sample_rate, recipe.duration, "the picture")
    if kind == "iq" and datatype is None:
        raise CaptureError("raw IQ without its sample format", "a datatype, for example ci16_le", "state it (datatype)")
    if kind == "sigmf":
        _require_plain_archive(data)
    with tempfile.TemporaryDirectory() as folder:
        # The readers map and seek in files; a client's own file name is never used for one.
        path = Path(folder) / f"upload{_UPLOADS[kind]}"
        path.write_bytes(data)
        try:
            seen = _of_path(path, recipe, sample_rate, datatype if kind == "iq" else None, levels, most)
        except CaptureError as error:
            raise CaptureError(str(error).replace(str(path), "the upload")) from error
    return seen._replace(name="the upload")


def _require_plain_archive(data: bytes) -> None:
    """CaptureError where an archive is compressed or sparse: its true size would show only after unpacking."""
    # tarfile and the SigMF reader look at the content, not at the name, and would unpack what they find.
    if data[257:262] != b"ustar":
        raise CaptureError("the upload is no uncompressed tar archive", "an uncompressed .sigmf archive")
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            sizes = [len(data) + 1 if member.issparse() else member.size for member in archive]
    except (tarfile.TarError, EOFError, OSError, ValueError, LookupError) as error:
        raise CaptureError(f"the upload is no readable SigMF archive ({error})", "a whole .sigmf file") from None
    if max(sizes, default=0) > len(data):
        raise CaptureError("the upload says that it holds more than it does", "a whole archive without sparse files")


def _kind_of(data: bytes, datatype: str | None) -> str:
    if is_image(data):
        return "image"
    if data.startswith(b"\x93NUMPY"):
        return "npy"
    if data.startswith((b"RIFF", b"RF64")) and data[8:12] == b"WAVE":
        return "wav"
    if data[257:262] == b"ustar":
        return "sigmf"
    if datatype is None:
        raise CaptureError(
            "an upload of unknown kind", f"one of {list(UPLOAD_KINDS)}", "of raw IQ: state datatype and sample_rate"
        )
    return "iq"


def _stored_picture(path: Path, recipe: Recipe) -> Tensor | None:
    """The spectrogram in a ``.npy``; None where the array is IQ or cannot be read, which the reader of IQ says."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError):
        return None
    if np.iscomplexobj(array) or array.ndim < 2 or (array.ndim == 2 and 2 in array.shape):
        return None
    return _checked_picture(array, recipe, str(path))


def _checked_picture(array: npt.NDArray[Any], recipe: Recipe, name: str) -> Tensor:
    shape = (recipe.in_chans, *(recipe.size if recipe.axes == "frequency-time" else recipe.size[::-1]))
    whole = array.reshape((1,) * (4 - array.ndim) + array.shape) if array.ndim <= 4 else array
    if whole.shape != (1, *shape) or whole.dtype.kind not in "fiu":
        raise CaptureError(
            f"{name}: {array.dtype} of shape {list(array.shape)}",
            f"a spectrogram in dB, {list(shape)} (channels, {recipe.axes}) of recipe {recipe.name!r}, or complex IQ",
        )
    picture = torch.from_numpy(np.array(whole, np.float32))
    low, high = (recipe.floor_db, recipe.ceiling_db) if recipe.in_chans == 1 else (0.0, 255.0)
    # NaN fails every comparison.
    if not bool(((picture >= low - 1e-3) & (picture <= high + 1e-3)).all()):
        raise CaptureError(
            f"{name}: values from {float(picture.min()):g} to {float(picture.max()):g}",
            f"finite ones from {low:g} to {high:g}, as recipe {recipe.name!r} leaves them",
            "do not normalise them",
        )
    return picture


def _recording(capture: Capture) -> Recording:
    """A capture in memory as a recording."""
    return Recording(
        Path("the capture"),
        capture.iq.size,
        capture.sample_rate,
        capture.center_frequency,
        lambda first, count: capture.iq[first : first + count],
        capture.emissions,
        capture.facts,
    )
