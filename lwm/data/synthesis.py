"""From a plan and an index to a sample: waveform, view, fading, noise, recipe.

Everything of sample ``i`` comes from (seed, split, technology, i) alone. Views are drawn without the technology's
name: attempt ``a`` at waveform ``w`` has the same sample rate, bandwidth, duration, activity and offset in every
technology. So waveform ``w`` is seen alike in all technologies that reject the same number of draws before it; where
one rejects more, its view is a later draw, and what a technology cannot meet (a bandwidth, an activity) is rarer in it.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lwm.channel.link import receive
from lwm.channel.sites import SiteDraw
from lwm.data.draws import Drawn
from lwm.data.plan import Plan, View
from lwm.data.shard import Sample, main_emission
from lwm.errors import ConfigError, RejectedConfig
from lwm.seeding import rng_for
from lwm.signal.capture import Capture
from lwm.signal.resample import resample, tune
from lwm.technology import Technology

MOST_ATTEMPTS = 200
"""Rejected draws in a row after which the plan is called impossible."""


HASHED = 1 << 14
"""Samples of a waveform that its hash is taken over: 128 KiB, a fraction of a millisecond, however long it is."""


@dataclass(frozen=True)
class Waveform:
    """A clean capture as one receiver sees it, before fading.

    Args:
        capture: tuned to the view's centre and sample rate.
        view: how it was seen.
        name: unique over splits and technologies.
        rejected: draws that were thrown away before this one.
        content: hash of the IQ before it was tuned, see :func:`content_hash`: one waveform under two names or seen
            twice has one.
    """

    capture: Capture
    view: View
    name: str
    rejected: int
    content: str


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
                    rng,
                    bandwidth=view.bandwidth,
                    duration=view.duration,
                    activity=view.activity,
                    **self.plan.draw_options(name, rng_for(self.seed, self.split, name, "options", number, attempt)),
                )
                sent = self.technology.synthesize(config, rng)
                clean = tune(sent, view.offset, view.sample_rate)
            except RejectedConfig as error:
                last = str(error)
                continue
            if clean.emissions:
                return Waveform(clean, view, f"{self.split}/{name}/{number}", attempt, content_hash(sent.iq))
            last = "nothing was on the air inside the view"
        raise ConfigError(
            f"{MOST_ATTEMPTS} draws of {name} in a row were rejected (the last: {last})",
            "a plan that the technology can meet",
            "change view.bandwidths, view.shortest or view.activity",
        )

    def samples(self, first: int, count: int) -> Iterator[tuple[list[Sample], int]]:
        """Samples ``first`` to ``first + count - 1`` in order, a waveform's at a time, with its rejected draws."""
        size = self.plan.samples_per_waveform
        for number in range(first // size, -(-(first + count) // size)):
            start, stop = max(first, number * size), min(first + count, (number + 1) * size)
            waveform = self.waveform(number)
            yield self._seen(waveform, range(start, stop)), waveform.rejected

    def _seen(self, waveform: Waveform, indices: range) -> list[Sample]:
        capture, plan = waveform.capture, self.plan.channel
        key = (self.seed, self.split, self.technology.name)
        rngs = [rng_for(*key, "sample", index) for index in indices]
        drawn = [plan.draw(*key, index, rng, capture.sample_rate) for index, rng in zip(indices, rngs, strict=True)]
        conditions = [each.conditions for each in drawn]
        received = receive(capture.iq, capture.sample_rate, conditions, rngs, plan.snr_reference, capture.emissions)
        pictures, valid = self._pictures(received.iq, capture.sample_rate)
        clean = self._pictures(received.faded, capture.sample_rate)[0] if self.plan.store_clean else None
        # The same for every receiver but for the SNR, which is put in where it is drawn.
        emissions = [asdict(emission) for emission in capture.emissions]
        return [
            Sample(
                pictures[row],
                valid[row],
                clean=None if clean is None else clean[row],
                iq=received.iq[row] if self.plan.storage.iq else None,
                **_facts(waveform, emissions, each, received.facts[row], int(valid[row].sum()), self.technology),
            )
            for row, each in enumerate(drawn)
        ]

    def _pictures(
        self, captures: npt.NDArray[np.complex64], sample_rate: float
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Spectrograms ``[B, C, F, T]`` and valid columns ``[B, T]``."""
        rate = self.recipe.rate_for(sample_rate)
        if rate != sample_rate:
            captures = np.stack([resample(iq, sample_rate, rate) for iq in captures])
        db, valid = self.recipe(torch.from_numpy(captures), rate)
        return db.numpy(), valid.numpy()


def content_hash(iq: npt.NDArray[np.complex64]) -> str:
    """64-bit hash (BLAKE2b, hexadecimal) of a waveform's length and of at most :data:`HASHED` evenly spaced samples."""
    part = np.ascontiguousarray(iq[:: -(-len(iq) // HASHED) or 1], np.complex64)
    return hashlib.blake2b(part.tobytes(), digest_size=8, salt=len(iq).to_bytes(8, "little")).hexdigest()


def _facts(
    waveform: Waveform,
    emissions: list[dict[str, Any]],
    drawn: Drawn,
    facts: dict[str, Any],
    columns: int,
    technology: Technology,
) -> dict[str, Any]:
    """Labels, values and record of one sample; ``facts`` are those of its link, ``columns`` the valid ones."""
    capture, view, here = waveform.capture, waveform.view, drawn.conditions
    main = main_emission(capture.emissions)
    labels = {
        "technology": technology.name,
        "link": main.link or technology.link,
        "modulation": main.modulation,
        "mobility": drawn.mobility,
        "snr": f"{here.snr_db:g}",
        "channel": drawn.channel_name,
    }
    if "subcarrier_spacing" in capture.facts:
        labels["numerology"] = f"{capture.facts['subcarrier_spacing'] / 1e3:g} kHz"
    channel = {"name": drawn.channel_name, "draw": facts["channel"]}
    if isinstance(here.channel, SiteDraw):
        labels["site"] = here.channel.table.name
        channel["receiver"] = here.channel.facts
    values = {
        "snr_db": facts["noise"]["snr_db"],
        "speed_kmh": here.speed_kmh,
        "doppler_hz": here.doppler_hz,
        "sample_rate": view.sample_rate,
        "bandwidth": view.bandwidth,
        "activity": view.activity,
        "duration": capture.duration,
        **{f"level_{name.replace('-', '_')}": level for name, level in drawn.levels.items()},
    }
    record = {
        **{key: labels[key] for key in ("technology", "link", "modulation", "mobility")},
        **values,
        "center_frequency": here.carrier_hz,
        "offset": view.offset,
        "valid_columns": columns,
        **facts,
        "channel": channel,
        "waveform": waveform.name,
        "waveform_hash": waveform.content,
        "emissions": [{**emission, "snr_db": here.snr_db} for emission in emissions],
        "facts": capture.facts,
        "source": "synthetic",
    }
    return {"labels": labels, "values": values, "record": record}
