"""What is drawn for a sample: channel, speed, carrier, SNR and impairments, from (seed, split, technology, index)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from lwm.channel.draw import ChannelDraw
from lwm.channel.impairments import FAMILIES, Impairment
from lwm.channel.link import Conditions
from lwm.channel.mobility import MOBILITY, draw_speed
from lwm.channel.noise import Reference
from lwm.channel.profiles import PROFILES
from lwm.channel.sites import SiteDraw, site_table
from lwm.channel.tdl import draw_tdl
from lwm.data.manifest import SPLITS
from lwm.errors import ConfigError
from lwm.seeding import rng_for

CHANNELS_PER_SPLIT = 1 << 20
"""Room for the channel draws of one split, so that none is ever in two."""


@dataclass(frozen=True)
class ImpairmentPlan:
    """From what impairments are drawn: each sample gets each family with the same probability, at a uniform level.

    Args:
        families: family of :data:`lwm.channel.impairments.FAMILIES` to its lowest and highest level.
        share: probability of each family.
    """

    families: dict[str, tuple[float, float]] = field(default_factory=dict)
    share: float = 0.5

    def __post_init__(self) -> None:
        unknown = sorted(set(self.families) - set(FAMILIES))
        require(not unknown, f"channel.impairments.families {unknown}", f"some of {list(FAMILIES)}")
        require(
            all(0 <= low <= high <= 1 for low, high in self.families.values()),
            "channel.impairments.families",
            "two levels each, 0 <= low <= high <= 1",
        )
        require(0 <= self.share <= 1, "channel.impairments.share", "a probability, 0 to 1")

    def draw(self, rng: np.random.Generator, sample_rate: float) -> tuple[tuple[Impairment, ...], dict[str, float]]:
        """Impairments of one sample, and the level of every family, 0 where it is not there."""
        found, levels = [], {}
        for name, (low, high) in self.families.items():
            # Drawn whether used or not, so that one family's share leaves the others as they were.
            level, present = float(rng.uniform(low, high)), bool(rng.random() < self.share)
            impairment = FAMILIES[name].at_level(level, rng, sample_rate)
            levels[name] = level if present else 0.0
            if present:
                found.append(impairment)
        return tuple(found), levels


@dataclass(frozen=True)
class ChannelPlan:
    """From what channels and noise are drawn.

    Args:
        draws: number of channel draws in each split.
        profiles: TDL models of TR 38.901, for splits without sites.
        delay_spreads: smallest and largest RMS delay spread in s, log-uniform.
        sites: ray-traced sites of each split: shipped names, ``.npz`` tables or DeepMIMO folders. A site that several
            splits name lends each its own part of its receivers.
        fading: how the paths of a site fade, see :class:`lwm.channel.sites.SiteDraw`.
        carrier: lowest and highest carrier in Hz, uniform; with the speed it gives the Doppler.
        snr_db: grid in dB.
        snr_reference: its definition, see :func:`lwm.channel.noise.add_noise`.
        mobility: classes of :data:`lwm.channel.mobility.MOBILITY`.
        impairments: what the front ends and the band add.
    """

    draws: dict[str, int]
    profiles: tuple[str, ...] = ("TDL-A", "TDL-B", "TDL-C")
    delay_spreads: tuple[float, float] = (30e-9, 300e-9)
    sites: dict[str, tuple[str, ...]] = field(default_factory=dict)
    fading: Literal["rayleigh", "traced"] = "rayleigh"
    carrier: tuple[float, float] = (3.4e9, 5.9e9)
    snr_db: tuple[float, ...] = (-5, 0, 5, 10, 15, 20, 25)
    snr_reference: Reference = "emission"
    mobility: tuple[str, ...] = ("static", "pedestrian", "vehicular")
    impairments: ImpairmentPlan = field(default_factory=ImpairmentPlan)

    def __post_init__(self) -> None:
        require_splits(self.draws, "channel.draws")
        require(set(self.profiles) <= set(PROFILES) and bool(self.profiles), "channel.profiles", f"{list(PROFILES)}")
        low, high = self.delay_spreads
        require(0 < low <= high, "channel.delay_spreads", "two numbers of seconds, 0 < low <= high")
        low, high = self.carrier
        require(0 < low <= high, "channel.carrier", "two numbers of Hz, 0 < low <= high")
        require(len(set(self.snr_db)) == len(self.snr_db) > 0, "channel.snr_db", "different numbers of dB")
        require(set(self.mobility) <= set(MOBILITY) and bool(self.mobility), "channel.mobility", f"{list(MOBILITY)}")
        require(set(self.sites) <= set(SPLITS), "channel.sites", f"lists of sites for some of {list(SPLITS)}")
        require(all(map(bool, self.sites.values())), "channel.sites", "at least one site in each split named")
        for site in sorted({site for sites in self.sites.values() for site in sites}):
            site_table(site)  # a site that cannot be read ends a run before it begins

    @property
    def classes(self) -> list[tuple[float, str]]:
        """Every joint class of SNR in dB and mobility."""
        return [(float(snr), mobility) for snr in self.snr_db for mobility in self.mobility]

    def draw(
        self, seed: int, split: str, technology: str, index: int, rng: np.random.Generator, sample_rate: float
    ) -> "Drawn":
        """Conditions of a sample.

        Args:
            seed: of the run.
            split: one of :data:`SPLITS`.
            technology: registry name.
            index: of the sample; each run of ``len(classes)`` indices has every class once.
            rng: of the sample.
            sample_rate: Hz, at which the receiver works.
        """
        block, place = divmod(index, len(self.classes))
        shuffled = rng_for(seed, split, technology, "classes", block).permutation(len(self.classes))
        snr_db, mobility = self.classes[shuffled[place]]
        number = int(rng.integers(self.draws[split]))
        speed, carrier = draw_speed(mobility, rng), float(rng.uniform(*self.carrier))
        impairments, levels = self.impairments.draw(rng, sample_rate)
        channel = self.channel(seed, split, number)
        conditions = Conditions(channel, speed, carrier, snr_db, impairments)
        return Drawn(conditions, mobility, f"{split}/{number}", levels)

    def channel(self, seed: int, split: str, number: int) -> ChannelDraw:
        """Channel draw ``number`` of a split."""
        index = SPLITS.index(split) * CHANNELS_PER_SPLIT + number
        sites = self.sites.get(split)
        if not sites:
            return draw_tdl(seed, index, self.profiles, self.delay_spreads)
        site = sites[number % len(sites)]
        receivers = self._receivers(seed, split, site)
        return SiteDraw(site, int(receivers[number // len(sites) % len(receivers)]), self.fading, seed, index)

    def _receivers(self, seed: int, split: str, site: str) -> npt.NDArray[np.int64]:
        """Receivers of a site that are a split's own, in the order in which they are used."""
        sharing = [name for name in SPLITS if site in self.sites.get(name, ()) and self.draws.get(name)]
        wanted = np.array([self.draws[name] / len(self.sites[name]) for name in sharing])
        order = _shuffled(seed, site)
        ends = np.round(np.cumsum(wanted) / wanted.sum() * len(order)).astype(int)
        place = sharing.index(split)
        mine = order[ends[place - 1] if place else 0 : ends[place]]
        require(len(mine) > 0, f"channel.sites of {split}", f"a site with more than {len(order)} receivers ({site})")
        return mine


@dataclass(frozen=True)
class Drawn:
    """What was drawn for one sample.

    Args:
        conditions: of the link.
        mobility: class.
        channel_name: of the channel draw, unique over splits.
        levels: level of each impairment family of the plan, 0 where it is not there.
    """

    conditions: Conditions
    mobility: str
    channel_name: str
    levels: Mapping[str, float]


@lru_cache(maxsize=64)
def _shuffled(seed: int, site: str) -> npt.NDArray[np.int64]:
    return rng_for(seed, "receivers", site).permutation(site_table(site).receivers)


def require_splits(counts: Mapping[str, int], key: str) -> None:
    """Counts of 0 or more for known splits, not all 0; else a ConfigError naming ``key``."""
    require(set(counts) <= set(SPLITS), key, f"counts for some of {list(SPLITS)}")
    require(
        all(count >= 0 for count in counts.values()) and any(counts.values()), key, "counts of 0 or more, not all 0"
    )


def require(right: bool, key: str, wanted: str) -> None:
    """A ConfigError that names the plan's ``key`` unless ``right``."""
    if not right:
        raise ConfigError(f"plan: {key}", wanted)
