"""From a plan and an index to a sample: waveform, view, fading, noise, recipe.

Everything of sample ``i`` comes from (seed, split, technology, i) alone. Views are drawn without the technology's
name, so that waveform ``w`` of every technology is seen at the same sample rate, bandwidth, duration, activity and
offset.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from lwm.channel.fading import apply_channel, doppler_hz
from lwm.channel.mobility import draw_speed
from lwm.channel.noise import add_noise
from lwm.channel.tdl import ChannelDraw, draw_channel
from lwm.data.plan import SPLITS, Plan, View
from lwm.data.shard import Sample, main_emission
from lwm.errors import ConfigError, RejectedConfig
from lwm.seeding import rng_for
from lwm.signal.capture import Capture
from lwm.signal.resample import resample, tune
from lwm.technology import Technology

SNR_REFERENCE: Final = "emission"
"""SNR is mean power over the time on the air, after fading, over the noise inside the occupied band: what a receiver
of that signal would call its SNR. It is the same whatever the view's sample rate and the technology's activity."""

MOST_ATTEMPTS = 200
"""Rejected draws in a row after which the plan is called impossible."""

CHANNELS_PER_SPLIT = 1 << 20
"""Room for the channel draws of one split, so that none is ever in two."""


@dataclass(frozen=True)
class Waveform:
    """A clean capture as one receiver sees it, before fading.

    Args:
        capture: tuned to the view's centre and sample rate.
        view: how it was seen.
        name: unique over splits and technologies.
        rejected: draws that were thrown away before this one.
    """

    capture: Capture
    view: View
    name: str
    rejected: int


@dataclass(frozen=True)
class Conditions:
    """What happens to a waveform on the way to one sample."""

    snr_db: float
    mobility: str
    speed_kmh: float
    carrier_hz: float
    channel: ChannelDraw
    channel_name: str


class Synthesizer:
    """Makes the samples of one technology and split.

    Args:
        plan: what is wanted.
        seed: of all draws.
        split: one of :data:`lwm.data.plan.SPLITS`.
        technology: what makes the waveforms.
    """

    def __init__(self, plan: Plan, seed: int, split: str, technology: Technology) -> None:
        self.plan, self.seed, self.split, self.technology = plan, seed, split, technology
        self.recipe = plan.read_recipe()
        self.classes = plan.channel.classes

    def waveform(self, number: int) -> Waveform:
        """Waveform ``number``; draws that the standard or an empty view rejects are counted and made again.

        Raises:
            ConfigError: :data:`MOST_ATTEMPTS` draws in a row were rejected.
        """
        name = self.technology.name
        last = ""
        for attempt in range(MOST_ATTEMPTS):
            view = self.plan.view.draw(rng_for(self.seed, self.split, "view", number, attempt), self.recipe.duration)
            rng = rng_for(self.seed, self.split, name, "waveform", number, attempt)
            try:
                config = self.technology.sample(
                    rng, bandwidth=view.bandwidth, duration=view.duration, activity=view.activity
                )
                clean = tune(self.technology.synthesize(config, rng), view.offset, view.sample_rate)
            except RejectedConfig as error:
                last = str(error)
                continue
            if clean.emissions:
                return Waveform(clean, view, f"{self.split}/{name}/{number}", attempt)
            last = "nothing was on the air inside the view"
        raise ConfigError(
            f"{MOST_ATTEMPTS} draws of {name} in a row were rejected (the last: {last})",
            "a plan that the technology can meet",
            "change view.bandwidths, view.shortest or view.activity",
        )

    def conditions(self, index: int, rng: np.random.Generator) -> Conditions:
        """Class, channel, speed and carrier of sample ``index``; each run of ``len(classes)`` has every class once."""
        plan = self.plan.channel
        block, place = divmod(index, len(self.classes))
        order = rng_for(self.seed, self.split, self.technology.name, "classes", block).permutation(len(self.classes))
        snr_db, mobility = self.classes[order[place]]
        number = int(rng.integers(plan.draws[self.split]))
        first = SPLITS.index(self.split) * CHANNELS_PER_SPLIT
        return Conditions(
            snr_db=snr_db,
            mobility=mobility,
            speed_kmh=draw_speed(mobility, rng),
            carrier_hz=float(rng.uniform(*plan.carrier)),
            channel=draw_channel(self.seed, first + number, plan.profiles, plan.delay_spreads),
            channel_name=f"{self.split}/{number}",
        )

    def samples(self, first: int, count: int) -> Iterator[tuple[list[Sample], int]]:
        """Samples ``first`` to ``first + count - 1`` in order, a waveform's at a time, with its rejected draws."""
        size = self.plan.samples_per_waveform
        for number in range(first // size, -(-(first + count) // size)):
            start, stop = max(first, number * size), min(first + count, (number + 1) * size)
            waveform = self.waveform(number)
            yield self._seen(waveform, range(start, stop)), waveform.rejected

    def _seen(self, waveform: Waveform, indices: range) -> list[Sample]:
        capture = waveform.capture
        noisy, faded, facts, conditions = [], [], [], []
        for index in indices:
            rng = rng_for(self.seed, self.split, self.technology.name, "sample", index)
            here = self.conditions(index, rng)
            behind = apply_channel(capture.iq, capture.sample_rate, here.channel, here.speed_kmh, here.carrier_hz)
            received, said = add_noise(
                behind, here.snr_db, rng, SNR_REFERENCE, capture.emissions, sample_rate=capture.sample_rate
            )
            noisy.append(received)
            faded.append(behind)
            facts.append(said)
            conditions.append(here)
        pictures, valid = self._pictures(noisy, capture.sample_rate)
        clean = self._pictures(faded, capture.sample_rate)[0] if self.plan.store_clean else [None] * len(noisy)
        return [
            _sample(waveform, *parts)
            for parts in zip(pictures, valid, clean, conditions, facts, [self.technology] * len(noisy), strict=True)
        ]

    def _pictures(
        self, captures: list[npt.NDArray[np.complex64]], sample_rate: float
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Spectrograms ``[B, C, F, T]`` and valid columns ``[B, T]``; one at a time is faster than stacked."""
        rate = self.recipe.rate_for(sample_rate)
        done = []
        for iq in captures:
            at_rate = iq if rate == sample_rate else resample(iq, sample_rate, rate)
            done.append(self.recipe(torch.from_numpy(at_rate)[None], rate))
        return np.concatenate([s.db.numpy() for s in done]), np.concatenate([s.valid.numpy() for s in done])


def _sample(
    waveform: Waveform,
    picture: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    clean: npt.NDArray[np.float32] | None,
    here: Conditions,
    noise: dict[str, Any],
    technology: Technology,
) -> Sample:
    capture, view = waveform.capture, waveform.view
    emissions = [replace(emission, snr_db=here.snr_db) for emission in capture.emissions]
    labels = {
        "technology": technology.name,
        "link": main_emission(emissions).link or technology.link,
        "modulation": main_emission(emissions).modulation,
        "mobility": here.mobility,
        "snr": f"{here.snr_db:g}",
        "channel": here.channel_name,
    }
    values = {
        "snr_db": here.snr_db,
        "speed_kmh": here.speed_kmh,
        "doppler_hz": doppler_hz(here.speed_kmh, here.carrier_hz),
        "sample_rate": view.sample_rate,
        "bandwidth": view.bandwidth,
        "activity": view.activity,
        "duration": capture.duration,
    }
    record = {
        **{key: labels[key] for key in ("technology", "link", "modulation", "mobility")},
        **values,
        "center_frequency": here.carrier_hz,
        "offset": view.offset,
        "valid_columns": int(valid.sum()),
        "channel": {"name": here.channel_name, **here.channel.to_dict()},
        "noise": noise,
        "waveform": waveform.name,
        "emissions": [asdict(emission) for emission in emissions],
        "facts": capture.facts,
        "source": "synthetic",
    }
    return Sample(picture, valid, labels, values, record, clean)
