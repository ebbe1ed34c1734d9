"""Knowing what it does not know: how unlike the protocols that a router was trained on a picture is.

Two scores on what the router sees anyway. *Mahalanobis* (Lee et al. 2018, arXiv 1807.03888): the least squared distance
of the pooled features to a protocol's mean, in the covariance within protocols, which is shared and shrunk (Ledoit and
Wolf 2004). *Energy* (Liu et al. 2020, arXiv 2010.03759): minus the log of the sum of the exponentiated logits.
Either takes an empty band for a weak signal, so a second test asks for *emptiness*: how much nearer the features are to
the mean of white noise than to that of any protocol.

Each value becomes a conformal p-value among the same held-out captures of the known protocols (split conformal
prediction): the chance that a known capture is as strange. The two are joined by a weighted Bonferroni bound,
p = min(1, p_novelty / 0.8, p_emptiness / 0.2), so a limit on false alarms holds whatever the values' distribution and
however they hang together, as long as what comes is exchangeable with those captures.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lwm.channel.limits import require_between
from lwm.errors import DatasetError, ModelError
from lwm.models.router_view import RouterView, experts_of, joined, router_view, view_dataset
from lwm.seeding import rng_for
from lwm.signal.recipe import Recipe
from lwm.signal.silence import noise_pictures

if TYPE_CHECKING:
    from lwm.data.dataset import SpectrogramDataset

NoveltyScore = Literal["mahalanobis", "energy"]

SILENCE_SHARE = 0.2
"""Share of the false alarms that the test for emptiness may spend; the novelty score has the rest."""

_NOISE_PICTURES = 256


@dataclass(frozen=True)
class NoveltyConfig:
    """Shape of a detector.

    Args:
        score: which one.
        width: of the router's pooled features.
        protocols: how many are known.
        calibration: captures that the p-values are among.
        silence: whether it knows what white noise looks like, and tests for that too.
    """

    score: NoveltyScore
    width: int
    protocols: int
    calibration: int
    silence: bool = False

    def __post_init__(self) -> None:
        if self.score not in get_args(NoveltyScore):
            raise ModelError(f"novelty score {self.score!r}", f"one of {list(get_args(NoveltyScore))}")
        if min(self.width, self.protocols, self.calibration) < 1:
            raise ModelError(
                f"a detector of width {self.width} for {self.protocols} protocols, {self.calibration} captures",
                "1 or more of each",
            )


class NoveltyDetector(nn.Module):
    """Score and calibration, all in buffers, always float32 whatever type the rest of a model is moved to.

    Args:
        config: shape.
    """

    means: Tensor
    whitening: Tensor
    silence: Tensor
    calibration: Tensor
    calibration_emptiness: Tensor

    def __init__(self, config: NoveltyConfig) -> None:
        super().__init__()
        self.config = config
        if config.score == "mahalanobis" or config.silence:
            self.register_buffer("means", torch.zeros(config.protocols, config.width))
            self.register_buffer("whitening", torch.eye(config.width))
        if config.silence:
            self.register_buffer("silence", torch.zeros(1, config.width))
            self.register_buffer("calibration_emptiness", torch.zeros(config.calibration))
        self.register_buffer("calibration", torch.zeros(config.calibration))

    def score(self, features: Tensor, logits: Tensor) -> Tensor:
        """Novelty in the score's own units, float32 ``[B]``, higher is stranger.

        Args:
            features: the router's, ``[B, W]``.
            logits: the router's, ``[B, E]``.
        """
        if self.config.score == "energy":
            return -logits.float().logsumexp(1)
        return self._distance(features, self.means)

    def emptiness(self, features: Tensor) -> Tensor:
        """How much nearer to white noise than to any protocol, float32 ``[B]``, in squared standard deviations."""
        return self._distance(features, self.means) - self._distance(features, self.silence)

    def _distance(self, features: Tensor, means: Tensor) -> Tensor:
        """Least squared Mahalanobis distance ``[B]`` to some means ``[K, W]``."""
        return ((features.float()[:, None] - means) @ self.whitening).square().sum(2).amin(1)

    @torch.no_grad()
    def calibrate(self, held: RouterView) -> None:
        """Keep what held-out captures of the known protocols score, as many as the config says."""
        self.calibration.copy_(self.score(*held).sort().values)
        if self.config.silence:
            self.calibration_emptiness.copy_(self.emptiness(held.features).sort().values)

    def novelty(self, features: Tensor, logits: Tensor) -> Tensor:
        """One minus the p-value of being known, float32 ``[B]`` in [0, 1].

        A value's conformal p-value is (1 + #{calibration >= value}) / (n + 1), at most a with a probability of at most
        a for a known capture. Without a test for emptiness that of the score is p; with one
        p = min(1, p_novelty / (1 - s), p_emptiness / s), s being :data:`SILENCE_SHARE`, for which the same holds by
        the union bound.

        Args:
            features: the router's, ``[B, W]``.
            logits: the router's, ``[B, E]``.
        """
        p = self._p_value(self.calibration, self.score(features, logits))
        if self.config.silence:
            empty = self._p_value(self.calibration_emptiness, self.emptiness(features))
            p = torch.minimum(p / (1 - SILENCE_SHARE), empty / SILENCE_SHARE).clamp(max=1)
        return (1 - p).float()

    def _p_value(self, calibration: Tensor, value: Tensor) -> Tensor:
        """float64 ``[B]``: rounded to float32 only at the end, so that a p-value equal to a limit stays equal to it."""
        count = self.config.calibration
        return (1 + count - torch.searchsorted(calibration, value.contiguous())).double() / (count + 1)

    def threshold(self, false_alarm: float) -> float:
        """Novelty from which on a capture is called unknown, for at most that share of false alarms.

        With n known captures the score alone can reach rates from 1 / (n + 1) on. With a test for emptiness it can from
        1 / (0.8 (n + 1)) on, and that test from 1 / (0.2 (n + 1)) on: for a rate of 0.05 the score needs 24 captures,
        and empty bands are told by their emptiness from 5 / 0.05 - 1 = 99 captures on.

        Raises:
            ConfigError: not in 0..1.
            ModelError: too few captures were seen for either test to promise so few false alarms.
        """
        require_between("false alarm rate", false_alarm, 0.0, 1.0, "")
        least = 1 / ((1 - SILENCE_SHARE if self.config.silence else 1.0) * (self.config.calibration + 1))
        if false_alarm < least * (1 - 1e-9):
            raise ModelError(
                f"a false alarm rate of {false_alarm:g} from {self.config.calibration} known captures",
                f"at least {least:.2g}",
                "fit the detector on more validation captures",
            )
        return 1 - false_alarm

    def get_config(self) -> dict[str, Any]:
        """JSON-able dict for :meth:`from_config`."""
        return asdict(self.config)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """A detector of that shape, not fitted."""
        try:
            return cls(NoveltyConfig(**config))
        except TypeError as error:
            raise ModelError(f"novelty config {config} ({error})", "a config of this version of LWM") from error

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move, but keep the values: p-values from scores rounded to bfloat16 would be of another score."""
        exact = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, value in exact.items():
            if not value.is_meta:
                setattr(self, name, value.to(self.get_buffer(name).device))
        return self


def fit_novelty(
    moe: Any,
    train: "SpectrogramDataset",
    calibration: "SpectrogramDataset",
    score: NoveltyScore = "mahalanobis",
    label: str = "technology",
    batch_size: int = 128,
) -> NoveltyDetector:
    """A detector for a mixture, to be kept with its ``set_detector``.

    Args:
        moe: mixture with a trained router; its mode and experts do not matter.
        train: captures of the known protocols that the router was trained on, for means and covariance.
        calibration: captures of the known protocols that it was not trained on, for the p-values; in the mix that it
            will meet, for false alarms are promised for that mix as a whole, not for each protocol.
        score: which one.
        label: label whose names are the experts'.
        batch_size: captures read at a time.

    Returns:
        The detector, on the CPU.

    Raises:
        DatasetError: a capture whose label is no expert's, or fewer than two captures of an expert in ``train``.
        RecipeMismatch: data of another recipe.
    """
    router, names = moe.router, list(moe.expert_names)
    codes = expert_codes(train, names, label)
    expert_codes(calibration, names, label)
    held = view_dataset(router, calibration, batch_size=batch_size)
    seen = view_dataset(router, train, batch_size=batch_size)
    return fit_detector(score, names, seen, codes, held, silence_view(router, calibration))


def sample_rates(dataset: Any) -> NDArray[np.float64]:
    """Sample rates in Hz of a data set's captures; empty where it does not say."""
    rates = np.asarray(dataset.values.get("sample_rate", []), float)
    return rates[np.isfinite(rates)]


def silence_view(router: Any, dataset: Any) -> RouterView | None:
    """What the router sees in white noise at the sample rates of a data set; None where it does not say them."""
    rates, recipe = sample_rates(dataset), router.trunk.recipe
    if not len(rates) or not isinstance(recipe, Recipe):
        return None
    pictures = noise_pictures(recipe, _NOISE_PICTURES, rates, rng_for(0, "novelty", "silence"))
    return joined([router_view(router, part) for part in pictures.split(64)])


@torch.no_grad()
def fit_detector(
    score: NoveltyScore,
    names: Sequence[str],
    seen: RouterView,
    codes: NDArray[np.int64],
    held: RouterView,
    silence: RouterView | None = None,
) -> NoveltyDetector:
    """A detector from what the router saw; see :func:`fit_novelty`.

    Args:
        score: which one.
        names: of the experts.
        seen: of training captures, for means and covariance.
        codes: number of the right expert of each of ``seen``.
        held: of the captures that p-values are among.
        silence: of white noise; None: a detector that does not know it.
    """
    config = NoveltyConfig(score, held.features.shape[1], len(names), len(held.features), silence is not None)
    detector = NoveltyDetector(config)
    if score == "mahalanobis" or silence is not None:
        means, whitening = class_statistics(seen.features.double().numpy(), codes, list(names))
        detector.means.copy_(torch.from_numpy(means))
        detector.whitening.copy_(torch.from_numpy(whitening))
    if silence is not None:
        detector.silence.copy_(silence.features.float().mean(0, keepdim=True))
    detector.calibrate(held)
    return detector


def expert_codes(dataset: "SpectrogramDataset", names: list[str], label: str = "technology") -> NDArray[np.int64]:
    """Number of the right expert of each sample, int64 ``[N]``; DatasetError for a sample that has none."""
    codes = experts_of(dataset, names, label)
    if (codes < 0).any():
        raise DatasetError(
            f"samples of {dataset.root} with a {label} that no expert has", f"only {names}", "select them with where"
        )
    return codes


def class_statistics(
    features: NDArray[np.float64], codes: NDArray[np.int64], names: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means of classes and what makes the shared covariance within them the identity.

    Args:
        features: ``[N, W]``.
        codes: class of each ``[N]``.
        names: of the classes, for messages.

    Returns:
        Means ``[E, W]`` and a matrix ``M [W, W]`` with ``M M^T`` the inverse of the shrunk covariance.

    Raises:
        DatasetError: fewer than two samples of a class.
    """
    counts = np.bincount(codes, minlength=len(names))
    if counts.min() < 2:
        raise DatasetError(f"{counts.min()} captures of {names[int(counts.argmin())]!r}", "two or more of each expert")
    means = np.zeros((len(names), features.shape[1]))
    np.add.at(means, codes, features)
    means /= counts[:, None]
    covariance = shrunk_covariance(features - means[codes])
    values, vectors = np.linalg.eigh(covariance)
    return means, vectors / np.sqrt(values)


def shrunk_covariance(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariance ``[W, W]`` of samples ``[N, W]`` of mean zero, drawn to a multiple of the identity.

    Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices": the share of the
    identity that minimises the expected squared error, estimated from the samples themselves.
    """
    count, width = centred.shape
    covariance = centred.T @ centred / count
    scale = np.trace(covariance) / width
    spread = np.square(covariance - scale * np.eye(width)).sum()
    # sum over samples of |x x^T - S|^2 without any of the N matrices.
    noise = (np.square(np.square(centred).sum(1)).sum() / count - np.square(covariance).sum()) / count
    share = min(1.0, max(0.0, noise / spread)) if spread > 0 else 1.0
    shrunk: NDArray[np.float64] = (1 - share) * covariance + share * scale * np.eye(width)
    # A feature that never varies would make it singular where nothing is shrunk.
    return shrunk + max(scale * 1e-6, 1e-12) * np.eye(width)
