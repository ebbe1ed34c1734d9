"""Which time-frequency cells an answer leaned on: the gradient of its log probability, back to the picture.

Gradient times input, or integrated gradients (Sundararajan et al. 2017) where several steps are taken: then the cells
add up to how much more likely the answer is for the picture than for an even one at the picture's median level.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lwm.errors import CaptureError, ConfigError
from lwm.language.chat import IGNORED, Turns
from lwm.language.rfgpt import RFGPT
from lwm.output import atomic_file
from lwm.signal.plot import png_bytes, spectrogram_figure, upright
from lwm.signal.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AT_ONCE = 8
"""Pictures on the way from the baseline that go through the model together."""


class Attribution(NamedTuple):
    """What an answer leaned on.

    ``cells``: float32 ``[rows, columns]`` over the tower's patches in the order of the picture's axes; positive where
    the picture made the answer more likely (nats). ``answer``: the answer. ``log_probability``: of it for the picture,
    ``without``: for the even picture.
    """

    cells: npt.NDArray[np.float32]
    answer: str
    log_probability: float
    without: float

    @property
    def peak(self) -> tuple[int, int]:
        """Row and column of the patch that made the answer more likely than any other."""
        row, column = np.unravel_index(self.cells.argmax(), self.cells.shape)
        return int(row), int(column)


def attribute(
    model: RFGPT,
    x: Tensor,
    turns: Turns,
    answer: str | None = None,
    *,
    capture: int = 0,
    steps: int = 16,
    max_new_tokens: int = 64,
) -> Attribution:
    """Attribution of an answer to the patches of a picture.

    Args:
        model: in evaluation mode; its weights get no gradient.
        x: dB pictures ``[captures, C, F, T]`` that the conversation shows.
        turns: the conversation, ending with the user; a plain string is a question about one picture.
        answer: whose probability is explained; None takes what the model says.
        capture: which of the pictures is explained; the others stay as they are.
        steps: points on the way from the even picture; 1 is gradient times input at the picture itself.
        max_new_tokens: of an answer that is made.

    Raises:
        ConfigError: no such capture, no step, an empty answer, or a conversation that cannot be.
        CaptureError: a picture with a value that is not finite.
    """
    if not 0 <= capture < len(x) or steps < 1:
        raise ConfigError(f"capture {capture} of {len(x)}, {steps} steps", "one of the captures, and one step or more")
    if not bool(torch.isfinite(x).all()):
        raise CaptureError("a picture with a value that is not finite", "finite dB")
    if answer is None:
        rows = [list(range(len(x)))]
        answer = model.generate(model.encode(x), [turns], max_new_tokens, captures=rows).texts[0]
    ids, labels = model.chat.pair(turns, answer, model.rf_tokens)
    even = x[capture].median().expand_as(x[capture])
    gradient = torch.zeros_like(x[capture])
    points = [1.0] if steps == 1 else [(number + 0.5) / steps for number in range(steps)]
    for first in range(0, len(points), _AT_ONCE):
        share = torch.tensor(points[first : first + _AT_ONCE], device=x.device).view(-1, 1, 1, 1)
        way = (even + share * (x[capture] - even)).requires_grad_()
        with torch.enable_grad(), _through_tower(model):
            total = _log_probability(model, x, way, capture, ids, labels).sum()
            gradient += torch.autograd.grad(total, way)[0].sum(0)
    contribution = (gradient / len(points) * (x[capture] - even)).sum(0)
    with torch.no_grad():
        ends = torch.stack([x[capture], even])
        with_it, without = _log_probability(model, x, ends, capture, ids, labels).tolist()
    rows, columns = model.tower.grid_size
    high, wide = contribution.shape[0] // rows, contribution.shape[1] // columns
    cells = contribution.unflatten(0, (rows, high)).unflatten(2, (columns, wide)).sum((1, 3))
    return Attribution(cells.float().cpu().numpy(), answer, with_it, without)


def attribution_figure(
    picture: Tensor, found: Attribution, recipe: Recipe, sample_rate: float | None = None, title: str = ""
) -> "Figure":
    """The attribution drawn over its spectrogram: the redder a patch, the more it spoke for the answer, the
    bluer the more against it.

    Args:
        picture: dB ``[C, F, T]``.
        found: of that picture.
        recipe: of the picture.
        sample_rate: Hz; None (nobody knows it) makes the axis a share of the sample rate.
        title: above; the answer when empty.
    """
    # An answer may hold anything; matplotlib reads dollar signs as formulas.
    words = "".join(c for c in (title or found.answer)[:80] if c.isprintable()).replace("$", r"\$")
    figure = spectrogram_figure(picture.detach().cpu().numpy(), recipe, (), sample_rate or 1e6, title=words)
    axes = figure.axes[0]
    if sample_rate is None and recipe.sample_rate is None:
        axes.set_ylabel("frequency from centre (share of the sample rate)")
    largest = max(float(np.abs(found.cells).max()), float(np.finfo(np.float32).tiny))
    heat = found.cells / largest
    repeats = (picture.shape[1] // heat.shape[0], picture.shape[2] // heat.shape[1])
    shown = upright(np.kron(heat, np.ones(repeats, np.float32))[None], recipe)[..., 0]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    place: dict[str, Any] = {"origin": "lower", "aspect": "auto", "extent": (left, right, bottom, top)}
    # A patch that counted little stays clear, so that what it shows can be seen.
    axes.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1, alpha=0.65 * np.abs(shown), interpolation="nearest", **place)
    return figure


def draw_attribution(
    path: str | Path,
    picture: Tensor,
    found: Attribution,
    recipe: Recipe,
    sample_rate: float | None = None,
    title: str = "",
) -> Path:
    """:func:`attribution_figure` as a PNG file; OutputError when it cannot be written."""
    target = Path(path)
    data = png_bytes(attribution_figure(picture, found, recipe, sample_rate, title))
    with atomic_file(target) as partial:
        partial.write_bytes(data)
    return target


def _log_probability(
    model: RFGPT, x: Tensor, given: Tensor, capture: int, ids: Sequence[int], labels: Sequence[int]
) -> Tensor:
    """Log probability ``[N]`` of the labelled tokens for pictures ``given [N, C, F, T]`` in place of ``capture``."""
    count = len(given)
    shown = [given if number == capture else x[number].expand_as(given) for number in range(len(x))]
    rf = model.encode(torch.stack(shown, dim=1).flatten(0, 1))
    tokens = torch.tensor(ids, device=x.device).expand(count, -1)
    wanted = torch.tensor(labels[1:], device=x.device)
    asked = wanted != IGNORED
    logits = model(rf, tokens, torch.ones_like(tokens))[:, :-1][:, asked].float()
    chosen = wanted[asked].expand(count, -1)
    return logits.log_softmax(-1).gather(-1, chosen[..., None])[..., 0].sum(1)


@contextmanager
def _through_tower(model: RFGPT) -> Iterator[None]:
    """Let gradients through the tower to its picture, whether it trains or not."""
    trains = model.tower_trains
    model.tower_trains = True
    try:
        yield
    finally:
        model.tower_trains = trains
