"""Speed of the fading channel beside a plain numpy one: per tap, linear interpolation of signal and gain.

One JSON object a line: megasamples a second on one core, medians; ratio > 1 means ours is faster.
"""

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import statistics
import time
from collections.abc import Callable

import numpy as np

from lwm.channel import ChannelDraw, apply_channel, doppler_hz, tap_gains
from lwm.seeding import rng_for

RUNS = 9
CARRIER = 2.6e9
CASES = (
    ("20ms@7.68Msps", 7.68e6, 20e-3, "TDL-C", 300e-9, 120.0),
    ("20ms@7.68Msps", 7.68e6, 20e-3, "TDL-D", 100e-9, 3.0),
    ("1ms@30.72Msps", 30.72e6, 1e-3, "TDL-C", 300e-9, 120.0),
    ("16ms@1.92Msps", 1.92e6, 16e-3, "TDL-A", 100e-9, 120.0),
)


def per_tap(iq: np.ndarray, rate: float, draw: ChannelDraw, speed: float) -> np.ndarray:
    """The peer: coarser in delay (linear interpolation), gains known at 50 points a Doppler period."""
    doppler = doppler_hz(speed, CARRIER)
    time_axis = np.arange(len(iq)) / rate
    points = np.linspace(0, time_axis[-1], max(2, round(50 * doppler * time_axis[-1])))
    gains = tap_gains(draw, doppler, points)
    out = np.zeros(len(iq), dtype=np.complex64)
    for gain, delay in zip(gains, draw.delays_s, strict=True):
        out += np.interp(time_axis, points, gain) * np.interp(time_axis - delay, time_axis, iq, left=0)
    return out


def seconds(call: Callable[[], object]) -> float:
    """Median wall time of a call after one to warm up."""
    call()
    taken = []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    for label, rate, duration, profile, spread, speed in CASES:
        rng = rng_for(0, label)
        samples = round(rate * duration)
        iq = rng.standard_normal((samples, 2), dtype=np.float32).view(np.complex64)[:, 0]
        draw = ChannelDraw(profile, spread, seed=0)
        ours = samples / seconds(lambda: apply_channel(iq, rate, draw, speed, CARRIER)) / 1e6  # noqa: B023
        peer = samples / seconds(lambda: per_tap(iq, rate, draw, speed)) / 1e6  # noqa: B023
        line = {
            "name": f"channel {profile} {spread * 1e9:g}ns {speed:g}km/h {label}",
            "unit": "Msamples/s",
            "ours": round(ours, 2),
            "peer": round(peer, 2),
            "peer_name": "numpy, per-tap linear interpolation",
            "ratio": round(ours / peer, 2),
            "runs": RUNS,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
