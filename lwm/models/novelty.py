"""Knowing what it does not know: how unlike the protocols that a router was trained on a picture is.

Two scores on what the router sees anyway. *Mahalanobis* (Lee et al. 2018, arXiv 1807.03888): the least squared distance
of the pooled features to a protocol's mean, in the covariance within protocols, which is shared and shrunk (Ledoit and
Wolf 2004). *Energy* (Liu et al. 2020, arXiv 2010.03759): minus the log of the sum of the exponentiated logits.
Either becomes a percentile among held-out captures of the known protocols (split conformal prediction), so a limit on
false alarms holds whatever the score's distribution, as long as what comes is exchangeable with those captures.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lwm.channel.limits import require_between
from lwm.errors import DatasetError, ModelError

if TYPE_CHECKING:
    from lwm.data.dataset import SpectrogramDataset

NoveltyScore = Literal["mahalanobis", "energy"]


@dataclass(frozen=True)
class NoveltyConfig:
    """Shape of a detector.

    Args:
        score: which one.
        width: of the router's pooled features.
        protocols: how many are known.
        calibration: captures that the percentiles are of.
    """

    score: NoveltyScore
    width: int
    protocols: int
    calibration: int

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
    calibration: Tensor

    def __init__(self, config: NoveltyConfig) -> None:
        super().__init__()
        self.config = config
        if config.score == "mahalanobis":
            self.register_buffer("means", torch.zeros(config.protocols, config.width))
            self.register_buffer("whitening", torch.eye(config.width))
        self.register_buffer("calibration", torch.zeros(config.calibration))

    def score(self, features: Tensor, logits: Tensor) -> Tensor:
        """Novelty in the score's own units, float32 ``[B]``, higher is stranger.

        Args:
            features: the router's, ``[B, W]``.
            logits: the router's, ``[B, E]``.
        """
        if self.config.score == "energy":
            return -logits.float().logsumexp(1)
        apart = (features.float()[:, None] - self.means) @ self.whitening
        return apart.square().sum(2).amin(1)

    def percentile(self, score: Tensor) -> Tensor:
        """Share of known captures that are less strange, float32 ``[B]`` in [0, 1].

        One minus the conformal p-value (1 + #{calibration >= score}) / (n + 1), so that a known capture is above
        1 - a with a probability of at most a.
        """
        below = torch.searchsorted(self.calibration, score.contiguous())
        return below / (self.config.calibration + 1)

    def threshold(self, false_alarm: float) -> float:
        """Percentile from which on a capture is called unknown, for at most that share of false alarms.

        Raises:
            ConfigError: not in 0..1.
            ModelError: too few captures were seen to promise so few false alarms.
        """
        require_between("false alarm rate", false_alarm, 0.0, 1.0, "")
        least = 1 / (self.config.calibration + 1)
        if false_alarm < least:
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
        """Move, but keep the values: percentiles of scores rounded to bfloat16 would be of another score."""
        exact = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, value in exact.items():
            if not value.is_meta:
                setattr(self, name, value.to(self.get_buffer(name).device))
        return self


class RouterView(NamedTuple):
    """What the router sees in pictures: ``features`` float32 ``[N, W]``, ``logits`` float32 ``[N, E]``."""

    features: Tensor
    logits: Tensor


@torch.no_grad()
def router_view(router: Any, pictures: Tensor) -> RouterView:
    """Pooled features and logits of dB pictures ``[B, C, F, T]``, on the CPU."""
    features = router.features(pictures.to(router.head.weight.device))
    return RouterView(features.float().cpu(), router.head(features).float().cpu())


def view_dataset(router: Any, dataset: "SpectrogramDataset", batch_size: int = 128) -> RouterView:
    """Features and logits of every sample in order.

    Raises:
        RecipeMismatch: the data set has another recipe than the router.
    """
    router.trunk.recipe.require_same(dataset.recipe, "the router", f"data set {dataset.root}")
    starts = range(0, len(dataset), batch_size)
    parts = [
        router_view(router, dataset.batch(range(start, min(start + batch_size, len(dataset))))["spectrogram"])
        for start in starts
    ]
    features, logits = (torch.cat(part) for part in zip(*parts, strict=True))
    return RouterView(features, logits)


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
        calibration: captures of the known protocols that it was not trained on, for the percentiles; in the mix that
            it will meet, for false alarms are promised for that mix as a whole, not for each protocol.
        score: which one; energy needs no training captures but reads them for the check of the label.
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
    training = router.training
    router.eval()
    try:
        held = view_dataset(router, calibration, batch_size)
        seen = view_dataset(router, train, batch_size) if score == "mahalanobis" else held
    finally:
        router.train(training)
    return fit_detector(score, names, seen, codes, held)


@torch.no_grad()
def fit_detector(
    score: NoveltyScore, names: Sequence[str], seen: RouterView, codes: NDArray[np.int64], held: RouterView
) -> NoveltyDetector:
    """A detector from what the router saw; see :func:`fit_novelty`.

    Args:
        score: which one.
        names: of the experts.
        seen: of training captures, for means and covariance; nothing of it is used for energy.
        codes: number of the right expert of each of ``seen``.
        held: of the captures that percentiles are of.
    """
    detector = NoveltyDetector(NoveltyConfig(score, held.features.shape[1], len(names), len(held.features)))
    if score == "mahalanobis":
        means, whitening = class_statistics(seen.features.double().numpy(), codes, list(names))
        detector.means.copy_(torch.from_numpy(means))
        detector.whitening.copy_(torch.from_numpy(whitening))
    detector.calibration.copy_(detector.score(*held).sort().values)
    return detector


def expert_codes(dataset: "SpectrogramDataset", names: list[str], label: str = "technology") -> NDArray[np.int64]:
    """Number of the right expert of each sample, int64 ``[N]``; DatasetError for a sample that has none."""
    if label not in dataset.labels:
        raise DatasetError(f"no label {label!r} in {dataset.root}", f"one of {sorted(dataset.labels)}")
    position = np.array([names.index(name) if name in names else -1 for name in dataset.label_names[label]] + [-1])
    codes = position[dataset.labels[label]]
    if (codes < 0).any():
        raise DatasetError(
            f"samples of {dataset.root} with a {label} that no expert has", f"only {names}", "select them with where"
        )
    return codes.astype(np.int64)


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
