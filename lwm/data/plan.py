"""The plan of a synthetic data set: a short YAML file read into frozen dataclasses."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from lwm.data.draws import ChannelPlan, require, require_splits
from lwm.data.scenes import SCENE, ScenePlan
from lwm.data.storage import Storage
from lwm.settings import load_settings, read_settings, to_plain
from lwm.signal.recipe import Recipe, recipe_named
from lwm.technology import technology_names

NOISE = "none"
"""What shards of noise alone are called, where others have a technology's name; such samples have no technology's
label, and this name in their record."""


@dataclass(frozen=True)
class View:
    """What a receiver sees of a waveform: drawn from one distribution for every technology."""

    sample_rate: float
    bandwidth: float
    duration: float
    activity: float
    offset: float


@dataclass(frozen=True)
class ViewPlan:
    """From what views are drawn. Uniform unless said otherwise.

    Args:
        sample_rates: Hz of captures.
        bandwidths: nominal channel bandwidths in Hz.
        activity: lowest and highest share of the time on the air that a technology is asked for.
        short_share: share of captures that are shorter than the recipe's duration.
        shortest: s, length of the shortest; log-uniform up to the recipe's duration.
        placement: where the channel lies: at any offset at which the narrower of capture and channel is inside the
            wider, or in the ``centre``.
        tuning_error: largest tuning error as a share of the sample rate, added to that offset.
        noise_share: share of each split's captures that hold noise alone, beside those of the technologies (see
            :mod:`lwm.data.noise_synthesis`).
    """

    sample_rates: tuple[float, ...] = (1.92e6, 3.84e6, 7.68e6, 15.36e6, 20e6)
    bandwidths: tuple[float, ...] = (5e6, 10e6, 20e6)
    activity: tuple[float, float] = (0.3, 1.0)
    short_share: float = 0.2
    shortest: float = 1e-3
    placement: Literal["inside", "centre"] = "inside"
    tuning_error: float = 0.05
    noise_share: float = 0.0

    def __post_init__(self) -> None:
        require(bool(self.sample_rates) and min(self.sample_rates) > 0, "view.sample_rates", "positive Hz")
        require(bool(self.bandwidths) and min(self.bandwidths) > 0, "view.bandwidths", "positive Hz")
        low, high = self.activity
        require(0 < low <= high <= 1, "view.activity", "two shares, 0 < low <= high <= 1")
        require(0 <= self.short_share <= 1, "view.short_share", "a share, 0 to 1")
        require(self.shortest > 0, "view.shortest", "positive seconds")
        require(self.placement in ("inside", "centre"), f"view.placement {self.placement!r}", "inside or centre")
        require(0 <= self.tuning_error < 0.5, "view.tuning_error", "a share of the sample rate, 0 to 0.5")
        require(0 <= self.noise_share < 1, "view.noise_share", "a share, 0 to below 1")

    def draw(self, rng: np.random.Generator, duration: float) -> View:
        """One view of a recipe that lasts ``duration`` (s)."""
        sample_rate = float(rng.choice(self.sample_rates))
        bandwidth = float(rng.choice(self.bandwidths))
        activity = float(rng.uniform(*self.activity))
        short = math.exp(rng.uniform(math.log(min(self.shortest, duration)), math.log(duration)))
        length = short if rng.random() < self.short_share else duration
        room = self.tuning_error * sample_rate
        if self.placement == "inside":
            room += abs(sample_rate - bandwidth) / 2
        return View(sample_rate, bandwidth, round(length, 6), activity, float(rng.uniform(-room, room)))


@dataclass(frozen=True)
class Plan:
    """What a synthetic data set is to hold.

    Args:
        technologies: registry names.
        recipe: preset's name.
        samples: of each technology in each split; 0 leaves a split out.
        channel: channels and noise.
        view: sample rates, bandwidths, durations, activity, offsets.
        samples_per_waveform: captures that share a waveform and its view, each with its own channel, speed and noise.
        samples_per_shard: largest number in one file, taken down to whole waveforms.
        store_clean: keep the noise-free spectrogram beside each.
        options: technology to settings that its ``sample`` takes and the values among which they are drawn, for
            example ``{lte: {modulation: [QPSK, 64QAM]}}``.
        storage: how pictures are stored.
        scene: make scenes of several carriers instead, ``samples`` of them in each split, with masks and boxes; the
            view's offset and tuning error then play no part.
    """

    technologies: tuple[str, ...]
    recipe: str
    samples: dict[str, int]
    channel: ChannelPlan
    view: ViewPlan = field(default_factory=ViewPlan)
    samples_per_waveform: int = 6
    samples_per_shard: int = 128
    store_clean: bool = False
    options: dict[str, dict[str, tuple[Any, ...]]] = field(default_factory=dict)
    storage: Storage = field(default_factory=Storage)
    scene: ScenePlan | None = None

    def __post_init__(self) -> None:
        require_splits(self.samples, "samples")
        known = technology_names()
        require(set(self.technologies) <= set(known) and bool(self.technologies), "technologies", f"some of {known}")
        require(len(set(self.technologies)) == len(self.technologies), "technologies", "each once")
        require(set(self.options) <= set(self.technologies), "options", f"settings of some of {self.technologies}")
        require(all(values for each in self.options.values() for values in each.values()), "options", "lists of values")
        require(self.samples_per_waveform > 0, "samples_per_waveform", "1 or more")
        require(self.samples_per_shard > 0, "samples_per_shard", "1 or more")
        recipe = self.read_recipe()
        lacking = [s for s, count in self.samples.items() if count and not self.channel.draws.get(s)]
        require(not lacking, f"channel.draws of {lacking}", "at least one channel draw in every split with samples")
        require(recipe.short == "pad" or not self.view.short_share, "view.short_share", f"0: {self.recipe} never pads")
        rate = recipe.rate_for(min(self.view.sample_rates))
        shortest = min(self.view.shortest, recipe.duration) * rate
        require(shortest >= recipe.win_length, "view.shortest", f"at least {recipe.win_length / rate:.3g} s (a window)")
        if self.scene is not None:
            # Both would take the picture away from its mask.
            moved = sorted(self.channel.impairments.families)
            require(not moved, f"channel.impairments.families {moved}", "none in scenes")
            require(recipe.sample_rate is None, f"recipe {self.recipe}", "one that keeps the sample rate, for scenes")
            require(not self.view.noise_share, "view.noise_share", "0 in scenes")

    def read_recipe(self) -> Recipe:
        """The preset that ``recipe`` names."""
        return recipe_named(self.recipe)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What shards hold, of each kind ``samples``: a technology, or scenes."""
        return self.technologies if self.scene is None else (SCENE,)

    def counts(self, split: str) -> dict[str, int]:
        """Number of samples of a split by what its shards hold: of each kind, and of noise alone where there is any."""
        each, share = self.samples.get(split, 0), self.view.noise_share
        counts = dict.fromkeys(self.kinds, each)
        noise = max(1, round(each * len(self.kinds) * share / (1 - share))) if each and share else 0
        return counts | ({NOISE: noise} if noise else {})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dict; :func:`parse_plan` reads it back."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    def draw_options(self, technology: str, rng: np.random.Generator) -> dict[str, Any]:
        """One value of each setting that the plan gives to a technology."""
        chosen = self.options.get(technology, {})
        return {name: values[int(rng.integers(len(values)))] for name, values in chosen.items()}

    def scaled(self, samples: int) -> "Plan":
        """The same plan with about ``samples`` samples over all technologies and splits, in the same proportions.

        No split that had samples goes below one sample of each technology.
        """
        require(samples > 0, "--samples", "1 or more")
        factor = samples / sum(sum(self.counts(split).values()) for split in self.samples)
        return replace(self, samples={s: max(1, round(n * factor)) if n else 0 for s, n in self.samples.items()})


def load_plan(config: str) -> Plan:
    """The plan in a YAML file, or the one that ships under a name such as ``generate/demo``.

    Raises:
        ConfigError: no such file or name, not YAML, or a key that does not exist or has an impossible value.
    """
    return load_settings(Plan, config)


def parse_plan(plain: Any, origin: str) -> Plan:
    """Plan from a plain dict; ``origin`` names it in errors."""
    return read_settings(Plan, plain, origin)
