"""What is transmitted: one frozen description of an NR capture."""

from dataclasses import dataclass, field

from experts.nr.carrier import SUBCARRIERS, Carrier, TDDPattern
from experts.nr.downlink import CSIRS, PDSCH
from experts.nr.ssb import SSB
from experts.nr.uplink import PRACH, PUCCH, PUSCH, SRS

MOST_USERS = 16
"""UEs of a capture."""
MOST_RESOURCES = 8
"""CSI-RS resources, SRS resources and PUCCH reports of a capture."""
PAYLOADS = ("symbols", "coded")
"""Random points of the constellation, or transport blocks with CRC, LDPC and rate matching."""


@dataclass(frozen=True)
class Control:
    """PDCCH: each UE has its own CORESET inside its allocation, so that control and data lie together.

    Args:
        symbols: CORESET symbols at the head of each scheduled slot, 1 or 2.
    """

    symbols: int = 1


@dataclass(frozen=True)
class User:
    """One UE's shared channel.

    Args:
        shared: PDSCH of a downlink capture, PUSCH of an uplink capture. A PDSCH that is longer than the downlink
            symbols of a special slot ends with them.
        runs: (first slot, number of slots) of each run of scheduled slots; slot 0 begins frame 0.
        code_rate: target code rate times 1024, for ``payload="coded"``.
    """

    shared: PDSCH | PUSCH
    runs: tuple[tuple[int, int], ...]
    code_rate: float = 308.0

    @property
    def modulation(self) -> str:
        """Of the data."""
        return self.shared.modulation

    @property
    def prb_start(self) -> int:
        """First resource block: virtual where interleaved, of the first hop where it hops."""
        return self.shared.prb_start if isinstance(self.shared, PDSCH) else self.shared.prb[0]

    @property
    def prb_count(self) -> int:
        """Resource blocks."""
        return self.shared.prb_count if isinstance(self.shared, PDSCH) else self.shared.prb[1] - self.shared.prb[0]

    @property
    def prb_stop(self) -> int:
        """One past the last resource block."""
        return self.prb_start + self.prb_count


@dataclass(frozen=True)
class Report:
    """A periodic PUCCH.

    Args:
        pucch: resource.
        period: slots from one to the next, and the offset of the first; not sent where the slot is not uplink.
    """

    pucch: PUCCH
    period: tuple[int, int] = (10, 0)


@dataclass(frozen=True)
class Uplink:
    """What an uplink capture has beside its UEs' PUSCH.

    Args:
        srs: sounding reference signals.
        reports: PUCCH.
        prach: random-access preambles; None: none.
    """

    srs: tuple[SRS, ...] = ()
    reports: tuple[Report, ...] = ()
    prach: PRACH | None = None


@dataclass(frozen=True)
class NRConfig:
    """A 5G NR capture of one cell, downlink or uplink.

    Args:
        carrier: channel, numerology, cell and duplex.
        ssb: SS/PBCH blocks; None: none inside this carrier, and always in an uplink capture.
        users: UEs with PDSCH, or with PUSCH.
        control: PDCCH of the UEs; None: none.
        csi_rs: CSI-RS resources; an occasion is not sent where its symbols are not downlink or it meets an SSB slot.
        uplink: signals of the uplink; not None makes it an uplink capture.
        payload: one of :data:`PAYLOADS`.
        start: begin of the capture in seconds after the start of frame 0, 0 to 10.24 s.
        duration: seconds.
    """

    carrier: Carrier = field(default_factory=Carrier)
    ssb: SSB | None = field(default_factory=SSB)
    users: tuple[User, ...] = ()
    control: Control | None = field(default_factory=Control)
    csi_rs: tuple[CSIRS, ...] = ()
    uplink: Uplink | None = None
    payload: str = "symbols"
    start: float = 0.0
    duration: float = 0.02

    @property
    def link(self) -> str:
        """ "downlink" or "uplink"."""
        return "downlink" if self.uplink is None else "uplink"

    @property
    def bandwidth(self) -> float:
        """Channel bandwidth in Hz."""
        return self.carrier.bandwidth

    @property
    def mu(self) -> int:
        """Numerology."""
        return self.carrier.mu

    @property
    def pci(self) -> int:
        """Physical cell identity."""
        return self.carrier.pci

    @property
    def tdd(self) -> TDDPattern | None:
        """Downlink-uplink pattern; None is FDD."""
        return self.carrier.tdd

    @property
    def scs(self) -> float:
        """Subcarrier spacing in Hz."""
        return self.carrier.scs

    @property
    def n_rb(self) -> int:
        """Resource blocks of the carrier."""
        return self.carrier.n_rb

    @property
    def n_fft(self) -> int:
        """FFT size of the carrier's numerology."""
        return self.carrier.n_fft

    @property
    def sample_rate(self) -> float:
        """Native sample rate in Hz."""
        return self.carrier.sample_rate

    @property
    def head(self) -> int:
        """Symbols at the head of a scheduled slot that belong to PDCCH."""
        return self.control.symbols if self.control else 0

    @property
    def first_sample(self) -> int:
        """Sample, counted from the start of frame 0, at which the capture begins."""
        return round(self.start * self.sample_rate)

    @property
    def samples(self) -> int:
        """Samples of the capture."""
        return round(self.duration * self.sample_rate)

    @property
    def ssb_low(self) -> float:
        """Lowest frequency in Hz, from the carrier's centre, of the SS/PBCH block's first subcarrier."""
        if self.ssb is None:
            raise ValueError("no SS/PBCH block")
        return SUBCARRIERS * (self.ssb.first_rb - self.n_rb / 2) * self.scs + self.ssb.k_ssb_hz
