"""Captures that hold no emission: thermal noise through the receiver that the plan's other captures go through.

Everything of sample ``i`` comes from (seed, split, i) alone. Views are those of the technologies: waveform ``w`` of
each is seen at the sample rate and for the time of noise number ``w``. Only the receiver's impairments act: the
transmitter's and the channel's have nothing to act on, and interference would be an emission.

A sample has no label of technology, link, modulation, mobility, SNR, channel or numerology, for there is none; where
the data set has such a label, its code is -1, as of a recording that does not state it. Its record says technology
:data:`lwm.data.plan.NOISE` and has no emissions.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from lwm.channel.impairments import FAMILIES, impair
from lwm.channel.noise import mean_power
from lwm.data.plan import NOISE, Plan
from lwm.data.shard import Sample
from lwm.data.synthesis import content_hash
from lwm.seeding import rng_for
from lwm.signal.resample import resample


class NoiseSynthesizer:
    """Makes the noise-only samples of one split.

    Args:
        plan: what is wanted.
        seed: of all draws.
        split: one of :data:`lwm.data.manifest.SPLITS`.
    """

    def __init__(self, plan: Plan, seed: int, split: str) -> None:
        self.plan, self.seed, self.split = plan, seed, split
        self.recipe = plan.read_recipe()

    def samples(self, first: int, count: int) -> Iterator[tuple[list[Sample], int]]:
        """Samples ``first`` to ``first + count - 1`` in order, those of one view at a time; none is ever rejected."""
        size = self.plan.samples_per_waveform
        for number in range(first // size, -(-(first + count) // size)):
            indices = range(max(first, number * size), min(first + count, (number + 1) * size))
            yield [self._heard(number, index) for index in indices], 0

    def _heard(self, number: int, index: int) -> Sample:
        plan = self.plan.channel
        view = self.plan.view.draw(rng_for(self.seed, self.split, "view", number, 0), self.recipe.duration)
        rng = rng_for(self.seed, self.split, NOISE, "sample", index)
        # As strong as under a signal of unit power at one of the plan's SNRs: a receiver's faults depend on the level.
        level_db = -float(rng.choice(plan.snr_db))
        drawn, levels = plan.impairments.draw(rng, view.sample_rate)
        acting = [each for each in drawn if each.stage == "receiver"]
        noise = rng.standard_normal((round(view.duration * view.sample_rate), 2), dtype=np.float32)
        iq = (noise * np.float32(np.sqrt(10 ** (level_db / 10) / 2))).view(np.complex64)[:, 0]
        heard, measured = impair(iq[None], view.sample_rate, [acting], [rng], ("receiver",))
        rate = self.recipe.rate_for(view.sample_rate)
        out = heard[0] if rate == view.sample_rate else resample(heard[0], view.sample_rate, rate)
        db, valid = self.recipe(torch.from_numpy(np.ascontiguousarray(out))[None], rate)
        values = {
            "sample_rate": view.sample_rate,
            "duration": len(iq) / view.sample_rate,
            **{f"level_{name.replace('-', '_')}": _acted(name, level) for name, level in levels.items()},
        }
        record: dict[str, Any] = {
            "technology": NOISE,
            **values,
            "valid_columns": int(valid.sum()),
            "noise": {"noise_power": 10 ** (level_db / 10), "noise_power_measured": mean_power(iq)},
            "impairments": measured[0],
            "waveform": f"{self.split}/{NOISE}/{index}",
            "waveform_hash": content_hash(iq),
            "emissions": [],
            "source": "synthetic",
        }
        # Nothing is sent: that is what the picture without noise shows.
        clean = self.recipe(torch.zeros(1, len(out), dtype=torch.complex64), rate).db[0].numpy()
        return Sample(
            db[0].numpy(),
            valid[0].numpy(),
            values=values,
            record=record,
            clean=clean if self.plan.store_clean else None,
            iq=heard[0] if self.plan.storage.iq else None,
        )


def _acted(family: str, level: float) -> float:
    """Level of a family, 0 of those that a capture without a signal does not meet."""
    return level if FAMILIES[family].stage == "receiver" else 0.0
