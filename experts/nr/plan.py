"""Who is on the air when: a configuration laid out on the slots and symbols of its capture."""

from functools import cached_property

import numpy as np

from experts.nr.downlink_air import downlink_transmissions
from experts.nr.random_access import preambles
from experts.nr.transmission import Placement, Transmission
from experts.nr.uplink import PRACHSignal
from experts.nr.uplink_air import uplink_transmissions
from experts.nr.window import Bools, Ints, Window


class Plan(Window):
    """The transmissions of a configuration inside the window around its capture."""

    @cached_property
    def transmissions(self) -> list[Transmission]:
        """Everything on the carrier's grid, in the order in which it is written to it."""
        return downlink_transmissions(self) if self.config.uplink is None else uplink_transmissions(self)

    @cached_property
    def placements(self) -> list[Placement]:
        """Where all of it lies."""
        return [place for each in self.transmissions for place in each.placements]

    @cached_property
    def preambles(self) -> list[PRACHSignal]:
        """PRACH, beside the grid: it has its own subcarriers and symbols."""
        uplink = self.config.uplink
        return preambles(self, uplink.prach) if uplink and uplink.prach else []

    @cached_property
    def carrier_on(self) -> Bools:
        """Symbols of the carrier's numerology with something on its grid ``[slots * symbols]``."""
        on = np.zeros((self.slots, self.symbols), dtype=bool)
        for part in self.placements:
            on[part.slots, slice(*part.symbols)] = True
        return on.reshape(-1)

    @cached_property
    def on_air_samples(self) -> int:
        """Samples of the capture in which something is on the air."""
        return self.samples_on(self.carrier_on)

    def samples_on(self, carrier_on: Bools) -> int:
        """Samples of the capture with an SS/PBCH block, PRACH or one of the symbols ``carrier_on``.

        Args:
            carrier_on: as :attr:`carrier_on`, of a schedule that is only being tried.
        """
        edges = self.carrier_edges
        on = np.flatnonzero(carrier_on)
        preamble = [(each.first, each.first + each.samples.size) for each in self.preambles]
        access = np.array(preamble, dtype=np.int64).reshape(-1, 2)
        spans = np.concatenate([np.stack([edges[on], edges[on + 1]], axis=1), self.ssb_spans, access])
        return union_length(np.clip(spans, self.crop.start, self.crop.stop))

    @property
    def duty_cycle(self) -> float:
        """Share of the capture in which something is on the air."""
        return self.on_air_samples / self.config.samples


def union_length(spans: Ints) -> int:
    """Length of the union of the intervals ``[n, 2]``."""
    if not len(spans):
        return 0
    spans = spans[np.argsort(spans[:, 0])]
    reached = np.maximum.accumulate(spans[:, 1])
    before = np.concatenate([spans[:1, 0], reached[:-1]])
    return int((reached - np.maximum(before, spans[:, 0])).clip(0).sum())
