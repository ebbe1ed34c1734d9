"""How likely an answer is right: from the probability that the model gave its tokens, calibrated on validation.

A language model's own probability of its answer orders answers well and is too high or too low as a number. For each
kind of question a rising curve from log probability to the share of right answers is fitted on the validation split:
isotonic where there are enough answers, else Platt's logistic curve (Platt 1999; Zadrozny and Elkan 2002). The curves
are plain numbers and are kept in the model folder's config.

They are of answers of one value (a label, a number) that the model was free to word. The probability of a paragraph or
of JSON falls with its length, and that of an answer which was held to a form is of a text the model might never have
given: such answers have no confidence.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from lwm.errors import ConfigError, ModelError
from lwm.language.templates import library
from lwm.proportions import confidence_error

Method = Literal["auto", "isotonic", "platt"]
ENOUGH = 200
"""Answers of a kind from which on ``"auto"`` is isotonic: with fewer its steps follow the noise (ours)."""
LEAST = 10
"""Answers that a kind needs for a curve of its own (ours)."""
POOLED = ""
"""Name of the curve over all kinds, for questions of no known kind."""

Floats = npt.NDArray[np.float64]


def of_one_value(kind: str | None) -> bool:
    """Whether answers of a kind are one value: neither a paragraph nor JSON; a question of no known kind may be."""
    known = library().get(kind or POOLED)
    return known is None or known.form not in ("text", "json")


@dataclass(frozen=True)
class Curve:
    """A rising curve from an answer's log probability (nats) to the probability that it is right.

    Args:
        x: log probabilities, rising.
        y: confidences, never falling; between two ``x`` they are interpolated, beyond the ends constant.
        slope: of a logistic curve per nat, not negative; None where ``x`` and ``y`` say it.
        offset: of the logistic curve.

    Raises:
        ModelError: numbers that are no such curve.
    """

    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    slope: float | None = None
    offset: float = 0.0

    def __post_init__(self) -> None:
        numbers = (*self.x, *self.y, self.slope or 0.0, self.offset)
        sound = all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
        if sound and self.slope is None:
            rising = all(a < b for a, b in zip(self.x, self.x[1:], strict=False))
            bounds = (0.0, *self.y, 1.0)
            sound = rising and 0 < len(self.x) == len(self.y) and list(bounds) == sorted(bounds)
        elif sound:
            sound = not self.x and not self.y and self.slope is not None and self.slope >= 0
        if not sound:
            raise ModelError("a confidence curve that does not rise", "what Confidence.fit gives", "fit it again")

    def __call__(self, log_probability: npt.ArrayLike) -> Floats:
        """Confidence of log probabilities (nats), element by element."""
        given = np.asarray(log_probability, np.float64)
        if self.slope is None:
            return np.interp(given, self.x, self.y)
        from scipy.special import expit

        risen: Floats = expit(self.slope * given + self.offset)
        return risen


@dataclass(frozen=True)
class Confidence:
    """Curves by kind of question; without any the model's own probability is the confidence.

    Args:
        curves: by kind; :data:`POOLED` for questions of no known kind.
    """

    curves: Mapping[str, Curve] = field(default_factory=dict)

    @property
    def calibrated(self) -> bool:
        """Whether anything was fitted."""
        return bool(self.curves)

    def of(self, log_probability: float, kind: str | None = None, free: bool = True) -> float | None:
        """Confidence of one answer, 0 to 1; None of a paragraph, of JSON, and of an answer that was held to a form.

        Args:
            log_probability: sum over the answer's tokens, its end included (nats, at most 0).
            kind: of its question; one without a curve of its own, or None, takes the pooled one.
            free: whether the model could say what it wanted: no schema, no choices.

        Raises:
            ConfigError: a log probability above 0 or not a number.
        """
        if not log_probability <= 1e-6:
            raise ConfigError(f"log probability {log_probability}", "nats, at most 0")
        return self._value(log_probability, kind) if free and of_one_value(kind) else None

    def _value(self, log_probability: float, kind: str | None) -> float:
        curve = self.curves.get(kind or POOLED, self.curves.get(POOLED))
        return float(min(1.0, math.exp(log_probability)) if curve is None else curve(log_probability))

    @classmethod
    def fit(
        cls,
        log_probabilities: Sequence[float] | Floats,
        right: Sequence[bool] | npt.NDArray[np.bool_],
        kinds: Sequence[str],
        method: Method = "auto",
    ) -> Self:
        """Curves from answers of the validation split.

        Args:
            log_probabilities: of the answers ``[N]``, nats.
            right: whether each was ``[N]``.
            kinds: kind of each question ``[N]``; kinds with fewer than :data:`LEAST` answers are only pooled.
            method: of every curve.

        Raises:
            ConfigError: arrays of different length, fewer than :data:`LEAST` answers, or an unknown method.
        """
        x, truth, named = np.asarray(log_probabilities, np.float64), np.asarray(right, bool), np.asarray(kinds)
        if not len(x) == len(truth) == len(named) or len(x) < LEAST or not np.isfinite(x).all():
            raise ConfigError(
                f"{len(x)} log probabilities, {len(truth)} verdicts and {len(named)} kinds",
                f"as many of each, {LEAST} or more, all finite",
            )
        if method not in ("auto", "isotonic", "platt"):
            raise ConfigError(f"method {method!r}", "auto, isotonic or platt")
        chosen = {str(kind): named == kind for kind in sorted(set(kinds)) if (named == kind).sum() >= LEAST}
        chosen[POOLED] = np.ones(len(x), bool)
        return cls({kind: _curve(x[mine], truth[mine], method) for kind, mine in chosen.items()})

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: for each kind the numbers of its curve."""
        return {kind: asdict(c) | {"x": list(c.x), "y": list(c.y)} for kind, c in self.curves.items()}

    @classmethod
    def from_dict(cls, plain: Any) -> Self:
        """What :meth:`to_dict` gave; ModelError where it is none."""
        if not isinstance(plain, dict):
            raise ModelError(f"confidence of type {type(plain).__name__}", "curves by kind of question")
        curves = {}
        for kind, numbers in plain.items():
            if not isinstance(numbers, dict) or set(numbers) != {"x", "y", "slope", "offset"}:
                raise ModelError(f"a confidence curve {numbers!r:.80}", "x, y, slope and offset", "fit it again")
            try:
                curves[str(kind)] = Curve(tuple(numbers["x"]), tuple(numbers["y"]), numbers["slope"], numbers["offset"])
            except TypeError as error:
                raise ModelError(f"a confidence curve of no numbers ({error})", "what Confidence.fit gives") from None
        return cls(curves)


def before_and_after(
    confidence: Confidence,
    log_probabilities: Sequence[float] | Floats,
    right: Sequence[bool] | npt.NDArray[np.bool_],
    kinds: Sequence[str],
) -> dict[str, float]:
    """Expected calibration error (:func:`lwm.proportions.confidence_error`) of other answers than the curves' own.

    Returns:
        ``ece_before`` of the model's own probability, ``ece_after`` of the calibrated confidence, ``answers``.

    Raises:
        ConfigError: no answers.
    """
    if not len(log_probabilities):
        raise ConfigError("the calibration error of no answers", "one or more")
    own = np.exp(np.minimum(np.asarray(log_probabilities, np.float64), 0.0))
    made = [confidence._value(min(float(x), 0.0), kind) for x, kind in zip(log_probabilities, kinds, strict=True)]
    before, after = confidence_error(own, right), confidence_error(made, right)
    return {"ece_before": before, "ece_after": after, "answers": float(len(made))}


def _curve(x: Floats, right: npt.NDArray[np.bool_], method: Method) -> Curve:
    if right.all() or not right.any() or np.ptp(x) == 0:
        # Laplace's rule of succession: ten right answers of ten are no certainty.
        return Curve((0.0,), (float((right.sum() + 1) / (len(right) + 2)),))
    if method == "isotonic" or (method == "auto" and len(x) >= ENOUGH):
        return _isotonic(x, right)
    return _platt(x, right)


def _isotonic(x: Floats, right: npt.NDArray[np.bool_]) -> Curve:
    from sklearn.isotonic import IsotonicRegression

    smoothed = IsotonicRegression(out_of_bounds="clip").fit(x, right.astype(np.float64))
    thresholds = smoothed.X_thresholds_
    steps, step = np.unique(smoothed.y_thresholds_, return_inverse=True)
    count = np.bincount(np.abs(smoothed.predict(x)[:, None] - steps).argmin(1), minlength=len(steps))
    # A step of n answers is as sure as n answers make it: its level shrinks towards one half by Laplace's rule. Where
    # this turns steps around they are pooled, each by its answers: a step of one answer must not lift all above it.
    shrunk = (steps * count + 1) / (count + 2)
    risen = IsotonicRegression(out_of_bounds="clip").fit(steps, shrunk, sample_weight=count).predict(steps)
    return Curve(tuple(map(float, thresholds)), tuple(map(float, risen[step])))


def _platt(x: Floats, right: npt.NDArray[np.bool_]) -> Curve:
    from sklearn.linear_model import LogisticRegression

    centre, scale = float(x.mean()), float(x.std())
    fitted = LogisticRegression(C=1.0).fit((x[:, None] - centre) / scale, right)
    slope, offset = float(fitted.coef_[0, 0]) / scale, float(fitted.intercept_[0])
    if slope <= 0:
        # More probable answers were not more often right: probability says nothing here, the share of right ones does.
        return Curve((0.0,), (float((right.sum() + 1) / (len(right) + 2)),))
    return Curve(slope=slope, offset=offset - slope * centre)
