"""The technology that the registry finds under ``nr``."""

from typing import Any, ClassVar

import numpy as np

from experts.nr.carrier import BANDWIDTHS
from experts.nr.config import NRConfig
from experts.nr.draw import draw
from experts.nr.validation import validate
from experts.nr.waveform import emissions, facts, samples
from lwm.signal.capture import Capture


class NR:
    """5G NR downlink, FR1, normal cyclic prefix (TS 38.211, 38.213, 38.214, 38.101-1)."""

    name: ClassVar[str] = "nr"
    title: ClassVar[str] = "5G NR"
    link: ClassVar[str] = "downlink"
    bandwidths: ClassVar[tuple[float, ...]] = BANDWIDTHS

    def sample(self, rng: np.random.Generator, **fixed: Any) -> NRConfig:
        """Draw a configuration, each choice uniform over what the others leave legal.

        Args:
            rng: random state.
            fixed: any field of NRConfig (``tdd`` also as a string such as "DDDSU", None for FDD), and ``activity``
                (share of the capture on the air, 0..1], ``modulation``, ``number_of_ues``, ``ssb_case``,
                ``ssb_period_ms``. With ``users`` given, ``activity`` only steers the choice of the duplex.

        Raises:
            RejectedConfig: the fixed values are not legal.
            ConfigError: a name that does not exist.
        """
        config = draw(rng, **fixed)
        validate(config)
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
        plan = validate(config)
        boxes = emissions(plan)
        iq = samples(plan, rng)
        return Capture(iq, config.sample_rate, emissions=boxes, facts=facts(plan, boxes))

    def describe(self, facts: dict[str, Any]) -> list[str]:
        """Short English sentences for captions from the ``facts`` of a capture."""
        duplex = f"TDD with slot pattern {facts['tdd_pattern']}" if facts["duplex"] == "TDD" else "FDD"
        count, ues = facts["ssb_count"], facts["number_of_ues"]
        lines = [
            f"The carrier is 5G NR with a {facts['bandwidth'] / 1e6:g} MHz channel and "
            f"{facts['subcarrier_spacing'] / 1e3:g} kHz subcarrier spacing.",
            f"The carrier has {facts['n_rb']} resource blocks and a {facts['cp']} cyclic prefix.",
            f"The duplex mode is {duplex}.",
            f"The SSB pattern is case {facts['ssb_case']} with {count} block{'s' if count > 1 else ''} "
            f"every {facts['ssb_period_ms']} ms.",
            f"The physical cell identity is {facts['pci']}.",
            f"{ues} UE{' is' if ues == 1 else 's are'} scheduled on the downlink.",
        ]
        lines += [
            f"UE {user['ue'] + 1} holds resource blocks {user['prb_start']} to "
            f"{user['prb_start'] + user['prb_count'] - 1} with {user['modulation']}."
            for user in facts["users"]
        ]
        lines.append(f"The transmitter is on the air for {100 * facts['duty_cycle']:.0f} percent of the time.")
        return lines
