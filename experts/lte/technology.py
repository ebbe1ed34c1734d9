"""The LTE downlink as a technology of LWM."""

from typing import Any, ClassVar

import numpy as np

from experts.lte import config as parameters
from experts.lte import draw, facts, grid
from experts.lte.config import LTEConfig
from experts.lte.frame import RESOURCE_BLOCKS
from lwm.phy.ofdm import cp_lengths, modulate
from lwm.signal.capture import Capture


class LTE:
    """LTE downlink of one antenna port (3GPP TS 36.211), FDD and TDD.

    Real: frame structure, PSS, SSS, CRS, PBCH with its master information block, PCFICH, the places of control region
    and PDSCH. Random: what PHICH, PDCCH (QPSK) and PDSCH (QPSK to 256QAM) carry. Not filtered: the spectrum rolls off
    as that of rectangular OFDM symbols.
    """

    name: ClassVar[str] = "lte"
    title: ClassVar[str] = "LTE"
    link: ClassVar[str] = "downlink"
    bandwidths: ClassVar[tuple[float, ...]] = tuple(RESOURCE_BLOCKS)

    def sample(self, rng: np.random.Generator, **fixed: Any) -> LTEConfig:
        """Draw a configuration, balanced over what the standard allows.

        Args:
            rng: random state.
            fixed: fields of LTEConfig, or one of these wishes:
                ``activity`` (0..1]: in TDD the uplink-downlink configuration is the one whose downlink share is
                nearest; an FDD carrier is never off the air, there it is the share of subframes with PDSCH (the
                others hold CRS, control and synchronisation only, at lower power);
                ``duplex``: "FDD" or "TDD"; ``load`` (0..1]: share of resource blocks in use in a subframe with
                PDSCH; ``modulation``: of all PDSCH (drawn: one for all users in three of four captures, else mixed).

        Raises:
            ConfigError: unknown keyword.
            RejectedConfig: a value outside the standard.
        """
        return draw.draw(rng, fixed)

    def validate(self, config: LTEConfig) -> None:
        """Raise RejectedConfig naming the clause that ``config`` breaks and the nearest legal value."""
        parameters.validate(config)

    def synthesize(self, config: LTEConfig, rng: np.random.Generator) -> Capture:
        """Clean capture at 15 kHz times the FFT size, centred on 0 Hz, unit mean power over its on-air time.

        Raises:
            RejectedConfig: ``config`` is not legal.
        """
        parameters.validate(config)
        resources = grid.fill(config, rng)
        prefixes = cp_lengths(config.n_fft, extended=config.extended_cp)
        whole = modulate(resources.values, config.n_fft, prefixes, dc_null=True)
        skipped = config.first_sample % round(config.sample_rate / 1000)
        iq = whole[skipped : skipped + config.samples]
        active = int(parameters.on_air(config, config.subframes()).sum())
        energy = float(np.vdot(iq, iq).real)
        iq = iq * np.float32(np.sqrt(active / energy))
        return Capture(
            iq,
            config.sample_rate,
            emissions=facts.emissions(config, resources),
            facts=facts.facts(config, resources),
        )

    def describe(self, facts_of_capture: dict[str, Any]) -> list[str]:
        """Short English sentences of a capture's facts, for captions and prompts."""
        return facts.describe(facts_of_capture)
