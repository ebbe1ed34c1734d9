"""The technology that the registry finds under ``nr``."""

from typing import Any, ClassVar

import numpy as np

from experts.nr.carrier import BANDWIDTHS
from experts.nr.config import NRConfig
from experts.nr.draw import draw
from experts.nr.facts import describe, facts
from experts.nr.plan import Plan
from experts.nr.validation import validate
from experts.nr.waveform import emissions, samples
from lwm.signal.capture import Capture


class NR:
    """5G NR downlink and uplink of FR1 and FR2 (TS 38.211 to 38.214, 38.101-1, 38.101-2)."""

    name: ClassVar[str] = "nr"
    title: ClassVar[str] = "5G NR"
    link: ClassVar[str] = "both"
    bandwidths: ClassVar[tuple[float, ...]] = BANDWIDTHS

    def __init__(self) -> None:
        self._plan: Plan | None = None

    def sample(self, rng: np.random.Generator, **fixed: Any) -> NRConfig:
        """Draw a configuration, each choice uniform over what the others leave legal.

        Args:
            rng: random state.
            fixed: what is not to be drawn: ``bandwidth``, ``duration``, ``activity`` (share of the capture on the air,
                0..1]), ``link``, ``frequency_range``, ``mu``, ``extended_cp``, ``pci``, ``tdd`` (also as a string such
                as "DDDSU" or "DDDSU+DDSUU", None for FDD), ``modulation``, ``number_of_ues``, ``ssb`` or ``ssb_case``
                and ``ssb_period_ms``, ``csi_rs``, ``srs`` and ``reports`` (numbers or resources), ``users``,
                ``payload``, ``start`` and the other names of :data:`experts.nr.draw.NAMES`. Every choice has its own
                random stream: fixing one leaves the others as they were where they stay legal.

        Raises:
            RejectedConfig: the fixed values are not legal.
            ConfigError: a name that does not exist.
        """
        config = draw(rng, **fixed)
        self._plan = validate(config)
        return config

    def validate(self, config: NRConfig) -> None:
        """Raise RejectedConfig naming the clause that ``config`` breaks and the nearest legal value."""
        validate(config)

    def synthesize(self, config: NRConfig, rng: np.random.Generator) -> Capture:
        """Clean capture at ``config.sample_rate``, the carrier's centre at 0 Hz, unit mean power while on the air.

        Args:
            config: what to send.
            rng: payload source; the same state gives the same samples.

        Raises:
            RejectedConfig: ``config`` is not legal.
        """
        # What `sample` just drew is already laid out.
        plan = self._plan if self._plan is not None and self._plan.config is config else validate(config)
        boxes = emissions(plan)
        iq = samples(plan, rng)
        return Capture(iq, config.sample_rate, emissions=boxes, facts=facts(plan, boxes))

    def describe(self, facts: dict[str, Any]) -> list[str]:
        """Short English sentences for captions from the ``facts`` of a capture."""
        return describe(facts)
