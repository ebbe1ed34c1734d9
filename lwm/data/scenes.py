"""The plan of scenes: several carriers, each through its own channel, side by side in one capture.

A scene is what the segmentation of arXiv 2411.09996 (section III-D) learns from: NR and LTE carriers shifted into
neighbouring bands and added, with a class for every cell of the picture.
"""

from dataclasses import dataclass

import numpy as np

from lwm.data.draws import require, require_span

SCENE = "scene"
"""What shards of scenes are called, where those of single carriers have a technology's name."""

MOST_CARRIERS = 8
"""Most carriers in a scene (ours)."""


@dataclass(frozen=True)
class ScenePlan:
    """From what scenes are drawn; sample rate, duration, bandwidths and activity are the plan's ``view``'s.

    Each carrier has its own waveform, channel draw, speed and carrier frequency. The first one drawn has the SNR that
    the plan's channel draws for the scene, the others that SNR plus a level in dB; each SNR is behind the carrier's
    channel, over its own emissions' boxes. Technologies are drawn without repetition as far as they last.

    A cell of the mask is a carrier's where the recipe, applied to the carrier's faded part without noise, gives at
    least ``threshold_db`` above the noise's expected power in a cell; where several do, it is the strongest's.

    Args:
        carriers: lowest and highest number of carriers, uniform.
        levels_db: lowest and highest level of the further carriers, uniform.
        gaps: lowest and highest distance of neighbouring channels' edges in Hz, uniform; below 0 they overlap.
        threshold_db: of the mask, over the noise floor.
    """

    carriers: tuple[int, int] = (2, 2)
    levels_db: tuple[float, float] = (-10.0, 5.0)
    gaps: tuple[float, float] = (0.0, 1e6)
    threshold_db: float = 0.0

    def __post_init__(self) -> None:
        require_span([self.carriers], "scene.carriers", 1, MOST_CARRIERS, "(carriers)")
        require_span([self.levels_db], "scene.levels_db", -40, 40, "dB")
        require_span([self.gaps], "scene.gaps", -20e6, 1e9, "Hz")
        require(-40 <= self.threshold_db <= 40, "scene.threshold_db", "-40 to 40 dB over the noise floor")

    def draw_technologies(self, rng: np.random.Generator, names: tuple[str, ...]) -> list[str]:
        """Technologies of a scene's carriers, out of ``names``."""
        count = int(rng.integers(self.carriers[0], self.carriers[1] + 1))
        rounds = -(-count // len(names))
        return [names[i] for _ in range(rounds) for i in rng.permutation(len(names))][:count]

    def place(self, rng: np.random.Generator, bandwidths: list[float], sample_rate: float) -> list[float]:
        """Centres in Hz of channels of these widths, in random order and at a random place inside the band.

        Gaps that would not fit shrink together; :meth:`fits` says whether the channels do without any.
        """
        order = rng.permutation(len(bandwidths))
        widths = np.array(bandwidths)[order]
        gaps = rng.uniform(*self.gaps, len(widths) - 1)
        free = sample_rate - widths.sum()
        if gaps.sum() > free:
            gaps = np.minimum(gaps, free / max(1, len(gaps)))
        start = -sample_rate / 2 + rng.uniform(0, max(0.0, free - gaps.sum()))
        low = start + np.concatenate([[0.0], np.cumsum(widths[:-1] + gaps)])
        centres = np.empty(len(widths))
        centres[order] = low + widths / 2
        return [float(centre) for centre in centres]

    def fits(self, bandwidths: list[float], sample_rate: float) -> bool:
        """Whether channels of these widths have room side by side, at the smallest gap allowed."""
        return sum(bandwidths) + min(0.0, self.gaps[0]) * (len(bandwidths) - 1) <= sample_rate
