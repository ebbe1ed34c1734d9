"""Speed of the spectrogram recipe, batched, beside scipy's STFT of one capture after another and a bare FFT.

One JSON object a line: captures a second on one core, medians over interleaved runs; ratio > 1 means ours is faster.
Both peers do less: scipy stops at the complex STFT, the bare FFT takes frames that are already cut and windowed.
"""

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from scipy.signal import stft

from lwm.signal.recipe import PRESETS

RUNS = 9
SAMPLES, RATE, BATCH = 65536, 7.68e6, 32
RECIPE = replace(PRESETS["lwm"], duration=SAMPLES / RATE)


def medians(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median wall time in s of each, taken in turns after one call to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(RUNS + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if run:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    iq = rng.standard_normal((BATCH, SAMPLES, 2), dtype=np.float32).view(np.complex64)[..., 0]
    batch = torch.from_numpy(iq)
    frames = batch.unfold(-1, RECIPE.win_length, RECIPE.hop).contiguous()
    overlap = RECIPE.win_length - RECIPE.hop

    def per_capture() -> None:
        for row in iq:
            stft(row, RATE, RECIPE.window, RECIPE.win_length, overlap, RECIPE.n_fft, return_onesided=False)

    taken = medians(
        {
            "ours": lambda: RECIPE(batch, RATE),
            "scipy.signal.stft": per_capture,
            "torch.fft.fft": lambda: torch.fft.fft(frames),
        }
    )
    for peer in ("scipy.signal.stft", "torch.fft.fft"):
        line = {
            "name": f"recipe lwm {BATCH}x{SAMPLES}",
            "unit": "captures/s",
            "ours": round(BATCH / taken["ours"], 1),
            "peer": round(BATCH / taken[peer], 1),
            "peer_name": peer,
            "ratio": round(taken[peer] / taken["ours"], 2),
            "runs": RUNS,
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
