"""What is drawn for a sample: channel, speed, carrier, SNR and impairments, from (seed, split, technology, index)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from lwm.channel.draw import ChannelDraw
from lwm.channel.fading import MAX_CARRIER_HZ
from lwm.channel.impairments import FAMILIES, Impairment
from lwm.channel.limits import is_number, require_number
from lwm.channel.link import Conditions
from lwm.channel.mobility import MOBILITY, draw_speed
from lwm.channel.noise import MAX_SNR_DB, MIN_SNR_DB, Reference
from lwm.channel.profiles import PROFILES
from lwm.channel.sites import SiteDraw, site_table
from lwm.channel.sites.draw import Fading
from lwm.channel.tdl import MAX_DELAY_SPREAD_S, draw_tdl
from lwm.data.manifest import SPLITS
from lwm.errors import ConfigError
from lwm.seeding import rng_for

CHANNELS_PER_SPLIT = 1 << 20
"""Room for the channel draws of one split, the most that a plan may ask for: so none is ever in two."""

IMPAIRMENTS = tuple(name for name, family in FAMILIES.items() if family.stage != "channel")
"""Families that a plan may draw: all but fading, which is the channel's."""


@dataclass(frozen=True)
class ImpairmentPlan:
    """From what impairments are drawn: each sample gets each family with the same probability, at a uniform level.

    Args:
        families: family of :data:`IMPAIRMENTS` to its lowest and highest level.
        share: probability of each family.
    """

    families: dict[str, tuple[float, float]] = field(default_factory=dict)
    share: float = 0.5

    def __post_init__(self) -> None:
        key = "channel.impairments.families"
        unknown = sorted(set(self.families) - set(FAMILIES))
        require(not unknown, f"{key} {unknown}", f"some of {list(IMPAIRMENTS)}")
        fading = sorted(set(self.families) - set(IMPAIRMENTS))
        why = "none that fades: a plan's fading is its channel's, sweeps of fading are for evaluation"
        require(not fading, f"{key} {fading}", why)
        require_span(self.families.values(), key, 0.0, 1.0, "(levels)")
        require(_within(self.share, 0, 1), "channel.impairments.share", "a probability, 0 to 1")

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
        draws: number of channel draws in each split, up to :data:`CHANNELS_PER_SPLIT`.
        profiles: TDL models of TR 38.901, for splits without sites.
        delay_spreads: smallest and largest RMS delay spread in s, log-uniform.
        sites: ray-traced sites of each split: shipped names, ``.npz`` tables or DeepMIMO folders. A site that several
            splits name, be it under different names, lends each its own part of its receivers.
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
    fading: Fading = "rayleigh"
    carrier: tuple[float, float] = (3.4e9, 5.9e9)
    snr_db: tuple[float, ...] = (-5, 0, 5, 10, 15, 20, 25)
    snr_reference: Reference = "emission"
    mobility: tuple[str, ...] = ("static", "pedestrian", "vehicular")
    impairments: ImpairmentPlan = field(default_factory=ImpairmentPlan)

    def __post_init__(self) -> None:
        require_splits(self.draws, "channel.draws")
        most = max(self.draws.values())
        require(most <= CHANNELS_PER_SPLIT, f"channel.draws {most}", f"at most {CHANNELS_PER_SPLIT} in a split")
        require(set(self.profiles) <= set(PROFILES) and bool(self.profiles), "channel.profiles", f"{list(PROFILES)}")
        require_span([self.delay_spreads], "channel.delay_spreads", 1e-12, MAX_DELAY_SPREAD_S, "s")
        require_span([self.carrier], "channel.carrier", 1.0, MAX_CARRIER_HZ, "Hz")
        wanted = f"different numbers of dB, {MIN_SNR_DB:g} to {MAX_SNR_DB:g}"
        right = all(_within(snr, MIN_SNR_DB, MAX_SNR_DB) for snr in self.snr_db)
        require(right and len(set(self.snr_db)) == len(self.snr_db) > 0, f"channel.snr_db {list(self.snr_db)}", wanted)
        for key, names in (("snr_reference", Reference), ("fading", Fading)):
            given = getattr(self, key)
            require(given in get_args(names), f"channel.{key} {given!r}", f"one of {list(get_args(names))}")
        require(set(self.mobility) <= set(MOBILITY) and bool(self.mobility), "channel.mobility", f"{list(MOBILITY)}")
        require(set(self.sites) <= set(SPLITS), "channel.sites", f"lists of sites for some of {list(SPLITS)}")
        require(all(map(bool, self.sites.values())), "channel.sites", "at least one site in each split named")
        for split, contents in self._contents.items():
            repeated = len(set(contents)) < len(contents)
            require(not repeated, f"channel.sites of {split} {list(self.sites[split])}", "each table once")
        for split, sites in self.sites.items():
            for site in sites if self.draws.get(split) else ():
                self._part(split, site)

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
        """Channel draw ``number`` of a split, below the number of its draws."""
        number = require_number(f"channel draw of {split}", number, self.draws.get(split, 0) - 1)
        index = SPLITS.index(split) * CHANNELS_PER_SPLIT + number
        sites = self.sites.get(split)
        if not sites:
            return draw_tdl(seed, index, self.profiles, self.delay_spreads)
        site = sites[number % len(sites)]
        receivers = self._receivers(seed, split, site)
        return SiteDraw(site, int(receivers[number // len(sites) % len(receivers)]), self.fading, seed, index)

    def _receivers(self, seed: int, split: str, site: str) -> npt.NDArray[np.int64]:
        """Receivers of a site that are a split's own, in the order in which they are used."""
        table = site_table(site)
        return _shuffled(seed, table.content_hash, table.receivers)[self._part(split, site)]

    @cached_property
    def _contents(self) -> dict[str, list[str]]:
        """Hash of each site of each split: what a site is called does not make it another one."""
        return {split: [site_table(site).content_hash for site in sites] for split, sites in self.sites.items()}

    def _part(self, split: str, site: str) -> slice:
        """Which of a site's receivers, once shuffled, are a split's own: in proportion to the splits' draws from it."""
        content, receivers = self._contents[split][self.sites[split].index(site)], site_table(site).receivers
        sharing = {
            name: self.draws[name] / len(self.sites[name])
            for name in SPLITS
            if content in self._contents.get(name, ()) and self.draws.get(name)
        }
        shares = np.array(list(sharing.values()))
        ends = np.append(0, np.round(np.cumsum(shares) / shares.sum() * receivers)).astype(int)
        counts = dict(zip(sharing, np.diff(ends).tolist(), strict=True))
        given = f"channel.sites: the {receivers} receivers of {site} would be shared as {counts}"
        require(counts[split] > 0, given, "at least one in each split: more receivers, or draws that are less uneven")
        place = list(sharing).index(split)
        return slice(int(ends[place]), int(ends[place + 1]))


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
def _shuffled(seed: int, content: str, receivers: int) -> npt.NDArray[np.int64]:
    """Receivers of a table in the order in which they are dealt out; read only, for it is shared."""
    order = rng_for(seed, "receivers", content).permutation(receivers)
    order.flags.writeable = False
    return order


def require_splits(counts: Mapping[str, int], key: str) -> None:
    """Counts of 0 or more for known splits, not all 0; else a ConfigError naming ``key``."""
    require(set(counts) <= set(SPLITS), key, f"counts for some of {list(SPLITS)}")
    for split, count in counts.items():
        require_number(f"plan: {key} of {split}:", count)
    require(any(counts.values()), key, "counts of 0 or more, not all 0")


def require_span(spans: Iterable[Any], key: str, low: float, high: float, unit: str) -> None:
    """Pairs of numbers that rise or stay within ``[low, high]``; else a ConfigError naming ``key`` and the range."""
    for span in spans:
        right = (
            isinstance(span, Sequence)
            and len(span) == 2
            and all(_within(number, low, high) for number in span)
            and span[0] <= span[1]
        )
        wanted = f"two numbers, {low:g} <= low <= high <= {high:g} {unit}"
        require(right, f"{key} {span}", wanted)


def _within(number: Any, low: float, high: float) -> bool:
    return is_number(number) and bool(low <= number <= high)


def require(right: bool, key: str, wanted: str) -> None:
    """A ConfigError that names the plan's ``key`` unless ``right``."""
    if not right:
        raise ConfigError(f"plan: {key}", wanted)
