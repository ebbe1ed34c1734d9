"""From a plan and an index to a scene: carriers, each through its channel, added, noise, picture, mask, boxes.

Everything of scene ``i`` comes from (seed, split, i) alone. ``samples_per_waveform`` scenes share their carriers'
waveforms; placement, levels, channels, speeds and noise are each scene's own.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lwm.channel.link import Conditions, receive
from lwm.channel.noise import Extent, mean_power
from lwm.data.draws import Drawn
from lwm.data.masks import PADDED
from lwm.data.plan import Plan
from lwm.data.scenes import SCENE, ScenePlan
from lwm.data.shard import Sample
from lwm.data.synthesis import MOST_ATTEMPTS, content_hash
from lwm.errors import ConfigError, RejectedConfig
from lwm.seeding import rng_for
from lwm.signal.capture import Capture, Emission
from lwm.signal.recipe import Recipe
from lwm.signal.resample import tune
from lwm.technology import technology

_RANGE_DB = 120.0
"""Floor and ceiling of the cells that a mask is made of: beyond every threshold and level."""


@dataclass(frozen=True)
class Carrier:
    """A waveform before it is placed: at its own rate, centred on 0 Hz."""

    technology: str
    capture: Capture
    bandwidth: float
    activity: float
    content: str


@dataclass(frozen=True)
class Group:
    """What the scenes of one number share.

    Args:
        carriers: in the order drawn; the first has the scene's SNR.
        sample_rate: Hz of the scenes.
        duration: s.
        name: unique over splits.
        rejected: draws thrown away before this one.
    """

    carriers: list[Carrier]
    sample_rate: float
    duration: float
    name: str
    rejected: int


@dataclass(frozen=True)
class Placed:
    """A carrier as one receiver gets it, without noise, in units in which the noise has a power of 1.

    ``iq``: complex64 ``[S]``. ``emissions``: boxes with their SNR. ``offset``: centre in Hz. ``snr_db``: over the
    boxes. ``drawn``: channel and speed.
    """

    carrier: Carrier
    iq: npt.NDArray[np.complex64]
    emissions: list[Emission]
    offset: float
    snr_db: float
    drawn: Drawn


class SceneSynthesizer:
    """Makes the scenes of one split.

    Args:
        plan: what is wanted, with a ``scene``.
        seed: of all draws.
        split: one of :data:`lwm.data.manifest.SPLITS`.
    """

    def __init__(self, plan: Plan, seed: int, split: str) -> None:
        self.plan, self.seed, self.split = plan, seed, split
        self.recipe = plan.read_recipe()
        self.scene = plan.scene or ScenePlan()
        self._makers = {name: technology(name) for name in plan.technologies}

    def group(self, number: int) -> Group:
        """Carriers of group ``number``; draws that a standard rejects or that have no room are made again.

        Raises:
            ConfigError: too many draws in a row were rejected.
        """
        last = ""
        for attempt in range(MOST_ATTEMPTS):
            try:
                return self._group(number, attempt)
            except RejectedConfig as error:
                last = str(error)
        raise ConfigError(
            f"{MOST_ATTEMPTS} draws of a scene in a row were rejected (the last: {last})",
            "a plan whose carriers fit side by side and that its technologies can meet",
            "raise view.sample_rates, or lower view.bandwidths or scene.carriers",
        )

    def _group(self, number: int, attempt: int) -> Group:
        rng = rng_for(self.seed, self.split, SCENE, "group", number, attempt)
        view = self.plan.view.draw(rng, self.recipe.duration)
        names = self.scene.draw_technologies(rng, self.plan.technologies)
        bandwidths = [float(rng.choice(self.plan.view.bandwidths)) for _ in names]
        if not self.scene.fits(bandwidths, view.sample_rate):
            raise RejectedConfig(f"channels of {bandwidths} Hz", f"at most {view.sample_rate:g} Hz together", "view")
        carriers = []
        for place, (name, bandwidth) in enumerate(zip(names, bandwidths, strict=True)):
            own = rng_for(self.seed, self.split, SCENE, name, "waveform", number, attempt, place)
            activity = float(own.uniform(*self.plan.view.activity))
            options = self.plan.draw_options(name, own)
            maker = self._makers[name]
            config = maker.sample(own, bandwidth=bandwidth, duration=view.duration, activity=activity, **options)
            capture = maker.synthesize(config, own)
            if not capture.emissions:
                raise RejectedConfig(f"{name} that is silent", "something on the air", "view.activity")
            carriers.append(Carrier(name, capture, bandwidth, activity, content_hash(capture.iq)))
        return Group(carriers, view.sample_rate, view.duration, f"{self.split}/{SCENE}/{number}", attempt)

    def samples(self, first: int, count: int) -> Iterator[tuple[list[Sample], int]]:
        """Scenes ``first`` to ``first + count - 1`` in order, a group's at a time, with its rejected draws."""
        size = self.plan.samples_per_waveform
        for number in range(first // size, -(-(first + count) // size)):
            group = self.group(number)
            indices = range(max(first, number * size), min(first + count, (number + 1) * size))
            yield [self._seen(group, index) for index in indices], group.rejected

    def _seen(self, group: Group, index: int) -> Sample:
        rng = rng_for(self.seed, self.split, SCENE, "sample", index)
        placed = self._placed(group, index, rng)
        total = np.sum([each.iq for each in placed], axis=0)
        snr_db = 10 * math.log10(mean_power(total))
        received = receive(total, group.sample_rate, [Conditions(None, snr_db=snr_db)], [rng])
        # Behind the sum of the parts the noise has a power of 1: that is what their levels are relative to.
        db, valid = self.recipe(torch.from_numpy(received.iq), group.sample_rate)
        clean = self.recipe(torch.from_numpy(total)[None], group.sample_rate).db if self.plan.store_clean else None
        emissions = [emission for each in placed for emission in each.emissions]
        mask = scene_mask(placed, self.plan, self.recipe, group.sample_rate)
        return Sample(
            db[0].numpy(),
            valid[0].numpy(),
            clean=None if clean is None else clean[0].numpy(),
            mask=mask,
            boxes=np.array([(e.start, e.stop, e.low, e.high) for e in emissions], np.float32).reshape(-1, 4),
            box_labels=[each.carrier.technology for each in placed for _ in each.emissions],
            iq=received.iq[0] if self.plan.storage.iq else None,
            **_facts(group, placed, mask, int(valid[0].sum()), self.plan),
        )

    def _placed(self, group: Group, index: int, rng: np.random.Generator) -> list[Placed]:
        """The carriers behind their channels, at their levels."""
        rate, plan = group.sample_rate, self.plan.channel
        offsets = self.scene.place(rng, [carrier.bandwidth for carrier in group.carriers], rate)
        found: list[Placed] = []
        for place, (carrier, offset) in enumerate(zip(group.carriers, offsets, strict=True)):
            drawn = plan.draw(self.seed, self.split, f"{SCENE}/{place}", index, rng, rate)
            level = float(rng.uniform(*self.scene.levels_db)) if found else 0.0
            first = found[0].snr_db if found else drawn.conditions.snr_db
            assert first is not None  # a plan draws it
            snr_db = first + level
            tuned = tune(carrier.capture, offset, rate)
            fading = replace(drawn.conditions, snr_db=None)
            faded = receive(_of_length(tuned.iq, round(group.duration * rate)), rate, [fading], [rng]).faded[0]
            extent = Extent("emission", len(faded), tuned.emissions, rate)
            noise = extent.occupied_share  # of a power of 1 in the whole band
            gain = math.sqrt(10 ** (snr_db / 10) * noise / extent.power(faded))
            boxes = [replace(emission, snr_db=snr_db) for emission in tuned.emissions]
            found.append(Placed(carrier, np.asarray(faded * np.float32(gain)), boxes, offset, snr_db, drawn))
        return found


def scene_mask(placed: list[Placed], plan: Plan, recipe: Recipe, sample_rate: float) -> npt.NDArray[np.uint8]:
    """Class of each cell of a scene's picture, uint8 in the shape of the recipe's picture; see :class:`ScenePlan`.

    Args:
        placed: carriers without noise, in units of the noise's power.
        plan: with the classes' order and the threshold.
        recipe: of the picture; power is taken as it is, not relative to the capture's.
        sample_rate: Hz.
    """
    scene = plan.scene or ScenePlan()
    cells = replace(
        recipe, power_reference="full_scale", channels="grey", epsilon=1e-12, floor_db=-_RANGE_DB, ceiling_db=_RANGE_DB
    )
    parts = torch.from_numpy(np.stack([each.iq for each in placed]))
    db, valid = cells(parts, sample_rate)
    levels = db[:, 0].numpy()
    codes = np.array([plan.technologies.index(each.carrier.technology) + 1 for each in placed], np.uint8)
    mask = np.where(levels.max(0) >= scene.threshold_db, codes[levels.argmax(0)], np.uint8(0))
    columns = valid[0].numpy()
    return np.where(columns if recipe.axes == "frequency-time" else columns[:, None], mask, np.uint8(PADDED))


def _of_length(iq: npt.NDArray[np.complex64], samples: int) -> npt.NDArray[np.complex64]:
    """The first ``samples`` of IQ; one or two short of them where rounding of rates took them away, with zeros."""
    return np.pad(iq, (0, max(0, samples - len(iq))))[:samples]


def _facts(group: Group, placed: list[Placed], mask: npt.NDArray[np.uint8], columns: int, plan: Plan) -> dict[str, Any]:
    """Labels, values and record of one scene."""
    first, seen = placed[0], mask != PADDED
    here = [each.carrier.technology for each in placed]
    labels = {
        "technologies": "+".join(sorted(set(here), key=plan.technologies.index)),
        "carriers": str(len(placed)),
        "snr": f"{first.drawn.conditions.snr_db:g}",
        "channel": first.drawn.channel_name,
        **{f"has_{name}": "yes" if name in here else "no" for name in plan.technologies},
    }
    shares = {f"share_{name}": float((mask[seen] == code + 1).mean()) for code, name in enumerate(plan.technologies)}
    values = {
        "snr_db": first.snr_db,
        "sample_rate": group.sample_rate,
        "duration": group.duration,
        **shares,
        **{
            f"snr_{name}_db": max(p.snr_db for p in placed if p.carrier.technology == name)
            for name in sorted(set(here))
        },
    }
    contents = [each.carrier.content for each in placed]
    record = {
        **values,
        "labels": labels,
        "valid_columns": columns,
        "noise": {"noise_power": 1.0, "snr_reference": "emission"},
        "channel": {"name": first.drawn.channel_name, "draw": _channel(first)},
        "waveform": group.name,
        "waveform_hash": "+".join(contents),
        "carriers": [_carrier_facts(each) for each in placed],
        "emissions": [asdict(emission) for each in placed for emission in each.emissions],
        "source": "synthetic",
    }
    return {"labels": labels, "values": values, "record": record}


def _channel(placed: Placed) -> dict[str, Any] | None:
    channel = placed.drawn.conditions.channel
    return None if channel is None else channel.to_dict()


def _carrier_facts(placed: Placed) -> dict[str, Any]:
    here = placed.drawn.conditions
    return {
        "technology": placed.carrier.technology,
        "bandwidth": placed.carrier.bandwidth,
        "activity": placed.carrier.activity,
        "offset": placed.offset,
        "snr_db": placed.snr_db,
        "mobility": placed.drawn.mobility,
        "speed_kmh": here.speed_kmh,
        "doppler_hz": here.doppler_hz,
        "center_frequency": here.carrier_hz,
        "channel": {"name": placed.drawn.channel_name, "draw": _channel(placed)},
        "facts": placed.carrier.capture.facts,
    }
