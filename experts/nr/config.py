"""What is transmitted: one frozen description of an NR downlink capture, and its legality."""

import math
from dataclasses import dataclass, field

from experts.nr.carrier import FRAME_PAIR_MS, SUBCARRIERS, SYMBOLS, TDDPattern, fft_size, resource_blocks
from experts.nr.ssb import SSB, WIDTH
from lwm.errors import RejectedConfig

MODULATIONS = ("QPSK", "16QAM", "64QAM", "256QAM")
"""Of PDSCH, TS 38.214 clause 5.1.3.1."""
CORESET_GROUP = 6
"""A CORESET is made of groups of six resource blocks, TS 38.213 clause 10.1."""


@dataclass(frozen=True)
class User:
    """One UE's PDSCH.

    Args:
        prb_start: first resource block.
        prb_count: resource blocks, contiguous (resource allocation type 1).
        modulation: "QPSK", "16QAM", "64QAM" or "256QAM".
        runs: (first slot, number of slots) of each run of scheduled slots; slot 0 begins the pair of frames.
    """

    prb_start: int
    prb_count: int
    modulation: str
    runs: tuple[tuple[int, int], ...]

    @property
    def prb_stop(self) -> int:
        """First resource block after the allocation."""
        return self.prb_start + self.prb_count

    @property
    def pdcch_groups(self) -> tuple[int, int]:
        """First resource block and number of resource blocks of the six-RB groups inside the allocation.

        The UE's own CORESET lies there, so that control and data share one box in frequency.
        """
        first = -(-self.prb_start // CORESET_GROUP) * CORESET_GROUP
        return first, max(0, (self.prb_stop - first) // CORESET_GROUP * CORESET_GROUP)


@dataclass(frozen=True)
class NRConfig:
    """A 5G NR FR1 downlink capture with normal cyclic prefix.

    Args:
        bandwidth: channel bandwidth in Hz, TS 38.101-1 table 5.3.2-1.
        mu: numerology 0, 1 or 2: subcarriers of 15, 30 or 60 kHz.
        pci: physical cell identity, 0 to 1007.
        ssb: SS/PBCH blocks.
        tdd: downlink-uplink pattern; None is FDD.
        users: PDSCH allocations.
        coreset_symbols: PDCCH symbols at the head of each scheduled slot, 0 to 2; PDSCH begins after them.
        dmrs_additional: additional PDSCH DM-RS positions, 0 to 3, TS 38.211 table 7.4.1.1.2-3.
        start: begin of the capture in seconds after the start of an even frame, 0 to 20 ms.
        duration: seconds.
    """

    bandwidth: float = 20e6
    mu: int = 1
    pci: int = 0
    ssb: SSB = field(default_factory=SSB)
    tdd: TDDPattern | None = None
    users: tuple[User, ...] = ()
    coreset_symbols: int = 1
    dmrs_additional: int = 1
    start: float = 0.0
    duration: float = 0.02

    @property
    def scs(self) -> float:
        """Subcarrier spacing in Hz."""
        return 15e3 * (1 << self.mu)

    @property
    def n_rb(self) -> int:
        """Resource blocks of the carrier."""
        return resource_blocks(self.bandwidth, self.mu)

    @property
    def n_fft(self) -> int:
        """FFT size of the carrier's numerology."""
        return fft_size(self.n_rb)

    @property
    def sample_rate(self) -> float:
        """Native sample rate in Hz: smallest power-of-two FFT times the subcarrier spacing."""
        return self.n_fft * self.scs

    @property
    def first_sample(self) -> int:
        """Sample of the pair of frames at which the capture begins."""
        return round(self.start * self.sample_rate)

    @property
    def samples(self) -> int:
        """Samples of the capture."""
        return round(self.duration * self.sample_rate)

    @property
    def ssb_low(self) -> float:
        """Lowest frequency in Hz, from the carrier's centre, of the SS/PBCH block's first subcarrier."""
        return SUBCARRIERS * (self.ssb.first_rb - self.n_rb / 2) * self.scs + 15e3 * self.ssb.k_ssb


def validate_carrier(config: NRConfig) -> None:
    """Raise RejectedConfig for an impossible carrier, cell, SSB placement or capture window."""
    n_rb = config.n_rb
    if not (isinstance(config.pci, int) and 0 <= config.pci <= 1007):
        nearest = min(max(0, round(config.pci)), 1007)
        raise RejectedConfig(f"PCI {config.pci} (TS 38.211 clause 7.4.2.1)", "0 to 1007", f"nearest is {nearest}")
    if config.tdd is not None:
        config.tdd.validate(config.mu)
    config.ssb.validate()
    last = last_ssb_rb(config.bandwidth, config.mu, config.ssb)
    if not 0 <= config.ssb.first_rb <= last:
        remedy = f"nearest is {min(max(0, config.ssb.first_rb), last)}"
        raise RejectedConfig(
            f"SSB of case {config.ssb.case} from resource block {config.ssb.first_rb} with k_SSB {config.ssb.k_ssb} "
            f"in {n_rb} resource blocks of {config.scs / 1e3:g} kHz (TS 38.211 clause 7.4.3.1)",
            f"240 subcarriers inside the carrier, first resource block 0 to {last}" if last >= 0 else "room for it",
            remedy if last >= 0 else "use case A or a wider channel",
        )
    if config.coreset_symbols not in (0, 1, 2):
        raise RejectedConfig(
            f"{config.coreset_symbols} CORESET symbols (TS 38.211 clause 7.3.2.2, DM-RS in symbol 2)", "0, 1 or 2"
        )
    if config.dmrs_additional not in (0, 1, 2, 3):
        raise RejectedConfig(
            f"{config.dmrs_additional} additional DM-RS positions (TS 38.211 table 7.4.1.1.2-3)", "0 to 3"
        )
    if not (math.isfinite(config.start) and 0 <= config.start < FRAME_PAIR_MS / 1e3):
        raise RejectedConfig(f"start {config.start} s", f"0 to {FRAME_PAIR_MS / 1e3} s, one pair of frames")
    if not (math.isfinite(config.duration) and config.samples >= 1):
        raise RejectedConfig(f"duration {config.duration} s", f"at least one sample of {config.sample_rate:g} Hz")


def last_ssb_rb(bandwidth: float, mu: int, ssb: SSB) -> int:
    """Highest resource block in which an SS/PBCH block can begin; negative when it does not fit at all."""
    free = resource_blocks(bandwidth, mu) * SUBCARRIERS * (1 << mu) - WIDTH * (1 << ssb.mu) - ssb.k_ssb
    return free // (SUBCARRIERS << mu)


def validate_user(config: NRConfig, user: User) -> None:
    """Raise RejectedConfig for a user outside the carrier or with an unknown modulation or empty run."""
    allocation = f"PRB {user.prb_start} to {user.prb_stop - 1}"
    if user.prb_count < 1 or user.prb_start < 0 or user.prb_stop > config.n_rb:
        start = min(max(0, user.prb_start), config.n_rb - 1)
        stop = min(max(start + 1, user.prb_stop), config.n_rb)
        raise RejectedConfig(
            f"{allocation} (TS 38.214 clause 5.1.2.2.2)",
            f"at least one of the carrier's {config.n_rb} resource blocks",
            f"nearest is {start} to {stop - 1}",
        )
    if user.modulation not in MODULATIONS:
        raise RejectedConfig(
            f"PDSCH modulation {user.modulation!r} (TS 38.214 clause 5.1.3.1)", f"one of {list(MODULATIONS)}"
        )
    if config.coreset_symbols and user.pdcch_groups[1] * config.coreset_symbols < CORESET_GROUP:
        raise RejectedConfig(
            f"{allocation} with {config.coreset_symbols} CORESET symbols (TS 38.213 clause 10.1)",
            f"room for a CORESET: {CORESET_GROUP} resource blocks from a multiple of {CORESET_GROUP}",
            "use another range or coreset_symbols 0",
        )
    if not user.runs or any(first < 0 or count < 1 for first, count in user.runs):
        raise RejectedConfig(
            f"slot runs {user.runs} of {allocation}", f"(first slot >= 0, slots >= 1) of {SYMBOLS} symbols each"
        )
