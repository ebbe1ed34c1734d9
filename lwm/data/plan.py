"""The plan of a synthetic data set: a short YAML file read into frozen dataclasses."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
import yaml

from lwm.channel.mobility import MOBILITY
from lwm.channel.tdl import PROFILES
from lwm.errors import ConfigError
from lwm.shipped import config_path
from lwm.signal.recipe import Recipe, recipe_named
from lwm.technology import technology_names

SPLITS = ("train", "validation", "test")
"""Splits of a synthetic data set; no channel draw and no waveform is in two of them."""


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
        tuning_error: largest tuning error as a share of the sample rate, added to an offset at which the narrower of
            capture and channel lies inside the wider.
    """

    sample_rates: tuple[float, ...] = (1.92e6, 3.84e6, 7.68e6, 15.36e6, 20e6)
    bandwidths: tuple[float, ...] = (5e6, 10e6, 20e6)
    activity: tuple[float, float] = (0.3, 1.0)
    short_share: float = 0.2
    shortest: float = 1e-3
    tuning_error: float = 0.05

    def __post_init__(self) -> None:
        _require(bool(self.sample_rates) and min(self.sample_rates) > 0, "view.sample_rates", "positive Hz")
        _require(bool(self.bandwidths) and min(self.bandwidths) > 0, "view.bandwidths", "positive Hz")
        low, high = self.activity
        _require(0 < low <= high <= 1, "view.activity", "two shares, 0 < low <= high <= 1")
        _require(0 <= self.short_share <= 1, "view.short_share", "a share, 0 to 1")
        _require(self.shortest > 0, "view.shortest", "positive seconds")
        _require(0 <= self.tuning_error < 0.5, "view.tuning_error", "a share of the sample rate, 0 to 0.5")

    def draw(self, rng: np.random.Generator, duration: float) -> View:
        """One view of a recipe that lasts ``duration`` (s)."""
        sample_rate = float(rng.choice(self.sample_rates))
        bandwidth = float(rng.choice(self.bandwidths))
        activity = float(rng.uniform(*self.activity))
        short = math.exp(rng.uniform(math.log(min(self.shortest, duration)), math.log(duration)))
        length = short if rng.random() < self.short_share else duration
        room = abs(sample_rate - bandwidth) / 2 + self.tuning_error * sample_rate
        return View(sample_rate, bandwidth, round(length, 6), activity, float(rng.uniform(-room, room)))


@dataclass(frozen=True)
class ChannelPlan:
    """From what channels and noise are drawn.

    Args:
        draws: number of channel draws in each split.
        profiles: TDL models of TR 38.901.
        delay_spreads: smallest and largest RMS delay spread in s, log-uniform.
        carrier: lowest and highest carrier in Hz, uniform; with the speed it gives the Doppler.
        snr_db: grid in dB, over the occupied band and active time.
        mobility: classes of :data:`lwm.channel.mobility.MOBILITY`.
    """

    draws: dict[str, int]
    profiles: tuple[str, ...] = ("TDL-A", "TDL-B", "TDL-C")
    delay_spreads: tuple[float, float] = (30e-9, 300e-9)
    carrier: tuple[float, float] = (3.4e9, 5.9e9)
    snr_db: tuple[float, ...] = (-5, 0, 5, 10, 15, 20, 25)
    mobility: tuple[str, ...] = ("static", "pedestrian", "vehicular")

    def __post_init__(self) -> None:
        _require_splits(self.draws, "channel.draws")
        _require(set(self.profiles) <= set(PROFILES) and bool(self.profiles), "channel.profiles", f"{list(PROFILES)}")
        low, high = self.delay_spreads
        _require(0 < low <= high, "channel.delay_spreads", "two numbers of seconds, 0 < low <= high")
        low, high = self.carrier
        _require(0 < low <= high, "channel.carrier", "two numbers of Hz, 0 < low <= high")
        _require(len(set(self.snr_db)) == len(self.snr_db) > 0, "channel.snr_db", "different numbers of dB")
        _require(set(self.mobility) <= set(MOBILITY) and bool(self.mobility), "channel.mobility", f"{list(MOBILITY)}")

    @property
    def classes(self) -> list[tuple[float, str]]:
        """Every joint class of SNR in dB and mobility."""
        return [(float(snr), mobility) for snr in self.snr_db for mobility in self.mobility]


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
    """

    technologies: tuple[str, ...]
    recipe: str
    samples: dict[str, int]
    channel: ChannelPlan
    view: ViewPlan = field(default_factory=ViewPlan)
    samples_per_waveform: int = 6
    samples_per_shard: int = 128
    store_clean: bool = False

    def __post_init__(self) -> None:
        _require_splits(self.samples, "samples")
        known = technology_names()
        _require(set(self.technologies) <= set(known) and bool(self.technologies), "technologies", f"some of {known}")
        _require(len(set(self.technologies)) == len(self.technologies), "technologies", "each once")
        _require(self.samples_per_waveform > 0, "samples_per_waveform", "1 or more")
        _require(self.samples_per_shard > 0, "samples_per_shard", "1 or more")
        recipe = self.read_recipe()
        lacking = [s for s, count in self.samples.items() if count and not self.channel.draws.get(s)]
        _require(not lacking, f"channel.draws of {lacking}", "at least one channel draw in every split with samples")
        _require(recipe.short == "pad" or not self.view.short_share, "view.short_share", f"0: {self.recipe} never pads")
        rate = recipe.rate_for(min(self.view.sample_rates))
        shortest = min(self.view.shortest, recipe.duration) * rate
        _require(
            shortest >= recipe.win_length, "view.shortest", f"at least {recipe.win_length / rate:.3g} s (a window)"
        )

    def read_recipe(self) -> Recipe:
        """The preset that ``recipe`` names."""
        return recipe_named(self.recipe)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dict; :func:`parse_plan` reads it back."""
        return _plain(asdict(self))

    def scaled(self, samples: int) -> "Plan":
        """The same plan with about ``samples`` samples over all technologies and splits, in the same proportions.

        No split that had samples goes below one sample of each technology.
        """
        _require(samples > 0, "--samples", "1 or more")
        factor = samples / (sum(self.samples.values()) * len(self.technologies))
        return replace(self, samples={s: max(1, round(n * factor)) if n else 0 for s, n in self.samples.items()})


def load_plan(config: str) -> Plan:
    """The plan in a YAML file, or the one that ships under a name such as ``generate/demo``.

    Raises:
        ConfigError: no such file or name, not YAML, or a key that does not exist or has an impossible value.
    """
    text = config_path(config).read_text(errors="replace")
    try:
        plain = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{config} is not YAML ({error})", f"the keys {[f.name for f in fields(Plan)]}") from error
    return parse_plan(plain, config)


def parse_plan(plain: Any, origin: str) -> Plan:
    """Plan from a plain dict; ``origin`` names it in errors."""
    plain = _known(Plan, plain, origin, "")
    plain["channel"] = ChannelPlan(**_known(ChannelPlan, plain["channel"], origin, "channel."))
    if "view" in plain:
        plain["view"] = ViewPlan(**_known(ViewPlan, plain["view"], origin, "view."))
    return Plan(**plain)


def _known(kind: type, plain: Any, origin: str, prefix: str) -> dict[str, Any]:
    """``plain`` with its values in the types of ``kind``'s fields; unknown and missing keys are errors."""
    keys = [f.name for f in fields(kind)]
    if not isinstance(plain, Mapping):
        raise ConfigError(f"{origin}: {prefix.rstrip('.') or 'the plan'} is {plain!r}", f"a mapping with keys {keys}")
    unknown = [f"{prefix}{key}" for key in plain if key not in keys]
    if unknown:
        raise ConfigError(f"{origin}: no key {', '.join(unknown)}", f"keys among {keys}")
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    missing = [f"{prefix}{key}" for key in needed if key not in plain]
    if missing:
        raise ConfigError(f"{origin}: key {', '.join(missing)} is missing", f"keys {keys}")
    types = {f.name: str(f.type) for f in fields(kind)}
    return {key: _convert(value, types[key], f"{origin}: {prefix}{key}") for key, value in plain.items()}


_KINDS: dict[str, tuple[type, type | None, str]] = {
    "tuple[float, ...]": (tuple, float, "a list of numbers"),
    "tuple[float, float]": (tuple, float, "two numbers"),
    "tuple[str, ...]": (tuple, str, "a list of names"),
    "dict[str, int]": (dict, int, f"whole numbers for {list(SPLITS)}"),
    "<class 'float'>": (float, None, "a number"),
    "<class 'int'>": (int, None, "a whole number"),
    "<class 'str'>": (str, None, "a name"),
    "<class 'bool'>": (bool, None, "true or false"),
}


def _convert(value: Any, kind: str, what: str) -> Any:
    """``value`` as the type that a field is annotated with. YAML 1.1 reads ``5e6`` as text, so that is taken too."""
    if kind not in _KINDS:
        return value
    outer, inner, wanted = _KINDS[kind]
    wrong = ConfigError(f"{what} is {value!r}", wanted)
    if outer is tuple:
        pair_wrong = kind == "tuple[float, float]" and len(value if isinstance(value, Sequence) else ()) != 2
        if not isinstance(value, Sequence) or isinstance(value, str) or pair_wrong:
            raise wrong
        return tuple(_scalar(item, inner, wrong) for item in value)
    if outer is dict:
        if not isinstance(value, Mapping):
            raise wrong
        return {str(key): _scalar(item, inner, wrong) for key, item in value.items()}
    return _scalar(value, outer, wrong)


def _scalar(value: Any, kind: type | None, wrong: ConfigError) -> Any:
    if kind in (bool, str):
        if not isinstance(value, kind):
            raise wrong
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise wrong
    try:
        number = float(value)
    except ValueError:
        raise wrong from None
    if not math.isfinite(number) or (kind is int and not number.is_integer()):
        raise wrong
    return int(number) if kind is int else number


def _require_splits(counts: Mapping[str, int], key: str) -> None:
    _require(set(counts) <= set(SPLITS), key, f"counts for some of {list(SPLITS)}")
    _require(
        all(count >= 0 for count in counts.values()) and any(counts.values()), key, "counts of 0 or more, not all 0"
    )


def _require(right: bool, key: str, wanted: str) -> None:
    if not right:
        raise ConfigError(f"plan: {key}", wanted)


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON gives them back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
