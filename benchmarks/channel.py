"""Speed of the fading channel beside three peers, on one core.

- plain numpy: per tap, linear interpolation of signal and gain;
- Sionna's ``TimeChannel`` (``cir_to_time_channel`` and ``ApplyTimeChannel``) with its TDL model at the same profile,
  delay spread, speed, carrier, sample rate and samples, where ``sionna`` is installed; each call of either makes its
  own new channel draw;
- one call a draw, for one waveform through many draws in one call.

One JSON object a line: megasamples a second, medians; ratio > 1 means ours is faster.
"""

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import itertools
import statistics
import time
from collections.abc import Callable
from importlib.metadata import distributions
from typing import NamedTuple

import numpy as np
import torch

from lwm.channel import TDLDraw, apply_channel, doppler_hz, tap_gains
from lwm.seeding import rng_for

RUNS = 9
SIONNA_RUNS = 3
BATCH = 64
CARRIER = 2.6e9


class Case(NamedTuple):
    label: str
    rate: float
    duration: float
    profile: str
    spread: float
    speed: float

    @property
    def name(self) -> str:
        return f"{self.profile} {self.spread * 1e9:g}ns {self.speed:g}km/h {self.label}"

    @property
    def doppler(self) -> float:
        return doppler_hz(self.speed, CARRIER)

    def noise(self) -> np.ndarray:
        samples = round(self.rate * self.duration)
        return rng_for(0, self.label).standard_normal((samples, 2), dtype=np.float32).view(np.complex64)[:, 0]

    def draw(self, index: int = 0) -> TDLDraw:
        return TDLDraw(self.profile, self.spread, seed=0, index=index)


CASES = (
    Case("20ms@7.68Msps", 7.68e6, 20e-3, "TDL-C", 300e-9, 120.0),
    Case("20ms@7.68Msps", 7.68e6, 20e-3, "TDL-D", 100e-9, 3.0),
    Case("1ms@30.72Msps", 30.72e6, 1e-3, "TDL-C", 300e-9, 120.0),
    Case("1ms@30.72Msps", 30.72e6, 1e-3, "TDL-C", 300e-9, 500.0),
    Case("16ms@1.92Msps", 1.92e6, 16e-3, "TDL-A", 100e-9, 120.0),
)
SIONNA_CASES = (
    Case("1ms@30.72Msps", 30.72e6, 1e-3, "TDL-C", 300e-9, 120.0),
    Case("1ms@30.72Msps", 30.72e6, 1e-3, "TDL-D", 100e-9, 120.0),
)
BATCH_CASES = (*SIONNA_CASES, Case("1ms@30.72Msps", 30.72e6, 1e-3, "TDL-C", 300e-9, 0.0))


def per_tap(iq: np.ndarray, case: Case) -> np.ndarray:
    """The plain peer: coarser in delay (linear interpolation), gains known at 50 points a Doppler period."""
    draw = case.draw()
    time_axis = np.arange(len(iq)) / case.rate
    points = np.linspace(0, time_axis[-1], max(2, round(50 * case.doppler * time_axis[-1])))
    gains = tap_gains(draw, case.doppler, points)
    out = np.zeros(len(iq), dtype=np.complex64)
    for gain, delay in zip(gains, draw.delays_s, strict=True):
        out += np.interp(time_axis, points, gain) * np.interp(time_axis - delay, time_axis, iq, left=0)
    return out


def sionna_channel(case: Case, samples: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Sionna's channel of a case, with room for its longest delay."""
    from sionna.phy.channel import TimeChannel
    from sionna.phy.channel.tr38901 import TDL

    speed = case.speed / 3.6
    model = TDL(case.profile[-1], case.spread, CARRIER, min_speed=speed, max_speed=speed, device="cpu")
    longest = float(case.draw().delays_s.max())
    return TimeChannel(model, case.rate, samples, maximum_delay_spread=longest, device="cpu")


def seconds(call: Callable[[], object], runs: int) -> float:
    """Median wall time of a call after one to warm up."""
    call()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def line(name: str, ours: float, peer: float | None, peer_name: str, runs: int) -> None:
    """Print one result; rates in samples a second, no peer where it is not installed."""
    result = {
        "name": f"channel {name}",
        "unit": "Msamples/s",
        "ours": round(ours / 1e6, 2),
        "peer": None if peer is None else round(peer / 1e6, 4),
        "peer_name": peer_name,
        "ratio": None if peer is None else round(ours / peer, 2),
        "runs": runs,
    }
    print(json.dumps(result), flush=True)


def beside_numpy(case: Case) -> None:
    iq, draw = case.noise(), case.draw()
    ours = len(iq) / seconds(lambda: apply_channel(iq, case.rate, draw, case.doppler), RUNS)
    peer = len(iq) / seconds(lambda: per_tap(iq, case), RUNS)
    line(case.name, ours, peer, "numpy, per-tap linear interpolation", RUNS)


def beside_sionna(case: Case) -> None:
    iq = case.noise()
    index = itertools.count()
    ours = len(iq) / seconds(lambda: apply_channel(iq, case.rate, case.draw(next(index)), case.doppler), RUNS)
    name = f"{case.name}, new draw each"
    if "sionna" not in {found.name for found in distributions()}:
        line(name, ours, None, "Sionna TimeChannel: sionna is not installed here", RUNS)
        return
    channel = sionna_channel(case, len(iq))
    signal = torch.from_numpy(iq)[None, None, None]
    peer = len(iq) / seconds(lambda: channel(signal), SIONNA_RUNS)
    line(name, ours, peer, "Sionna TimeChannel, TDL", SIONNA_RUNS)


def beside_single_calls(case: Case) -> None:
    draws = [case.draw(index) for index in range(BATCH)]
    for library, iq in (("numpy", case.noise()), ("torch", torch.from_numpy(case.noise()))):
        total = BATCH * len(iq)
        ours = total / seconds(lambda: apply_channel(iq, case.rate, draws, case.doppler), RUNS)  # noqa: B023
        peer = total / seconds(lambda: [apply_channel(iq, case.rate, d, case.doppler) for d in draws], RUNS)  # noqa: B023
        line(f"{case.name}, {BATCH} draws in one call, {library}", ours, peer, f"one call a draw, {library}", RUNS)


def main() -> None:
    torch.set_num_threads(1)
    for case in CASES:
        beside_numpy(case)
    for case in BATCH_CASES:
        beside_single_calls(case)
    for case in SIONNA_CASES:
        beside_sionna(case)


if __name__ == "__main__":
    main()
