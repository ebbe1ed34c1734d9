"""Mobility classes: how fast a terminal moves in each.

The first three names are those of LWM-Spectro (arXiv 2601.08780), which publishes no speeds. Ours: 0; 3 km/h, the
pedestrian and indoor speed of TR 38.901 table 7.2-1; 30 to 120 km/h, from dense urban to rural in TR 38.913 clause
6.1; up to 500 km/h, the high-speed train of clause 6.1.5, from 300 km/h (ours).
"""

import numpy as np

from lwm.errors import ConfigError

MAX_SPEED_KMH = 500.0
"""Fastest speed taken, that of the high-speed train of TR 38.913 clause 6.1.5."""

MOBILITY: dict[str, tuple[float, float]] = {
    "static": (0.0, 0.0),
    "pedestrian": (3.0, 3.0),
    "vehicular": (30.0, 120.0),
    "high-speed-train": (300.0, MAX_SPEED_KMH),
}
"""Slowest and fastest speed of each class in km/h, drawn uniformly between them."""


def draw_speed(mobility: str, rng: np.random.Generator) -> float:
    """A speed in km/h of a class of :data:`MOBILITY`.

    Raises:
        ConfigError: no such class; the message lists those that exist.
    """
    if mobility not in MOBILITY:
        raise ConfigError(f"no mobility class {mobility!r}", f"one of {list(MOBILITY)}")
    return float(rng.uniform(*MOBILITY[mobility]))
