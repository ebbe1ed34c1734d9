"""Speed of each family of impairments beside TorchSig's nearest functional transform, on 8 rows of 262,144 samples.

One JSON object a line: megasamples a second on one core, medians; ratio > 1 means ours is faster. Ours gets the batch
and records its facts; TorchSig's transforms take one row, which is what they are timed on. They do not always do the
same work: the clock drift there picks the nearest of 5000 filters, the phase noise is white, and the noise of varying
level covers the whole capture. Where TorchSig estimates a noise floor or rescales by FFTs unless told not to, there are
two lines: one with what it does by default, one with that switched off.
The fading there is one static filter, given the length that the coherence bandwidth of our delay spread needs.
"""

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from torchsig.transforms import functional

from lwm.channel.impairments import (
    AdjacentChannelInterferer,
    AutomaticGainControl,
    BurstNoise,
    CarrierFrequencyOffset,
    DCOffset,
    Impairment,
    IQImbalance,
    PhaseNoise,
    PowerAmplifier,
    Quantisation,
    SamplingClockOffset,
    Spurs,
    TDLSweep,
    impair,
)
from lwm.seeding import rng_for

RUNS = 7
ROWS, SAMPLES = 8, 262_144
RATE = 30.72e6
NOISE_DB = -50.0
DELAY_SPREAD_S = 1e-6
COHERENCE_HZ = 1 / (5 * DELAY_SPREAD_S)


def cases(rng: np.random.Generator) -> list[tuple[Impairment, str, Callable[[np.ndarray], object]]]:
    """Each family at its hardest level beside TorchSig's transform."""
    tones = rng.uniform(-0.4, 0.4, 4) * RATE
    return [
        (
            IQImbalance(3.0, 15.0),
            "iq_imbalance",
            lambda x: functional.iq_imbalance(x, 3.0, 0.26, -200.0, 0.0, NOISE_DB),
        ),
        (
            IQImbalance(3.0, 15.0),
            "iq_imbalance, default noise floor",
            lambda x: functional.iq_imbalance(x, 3.0, 0.26, -200.0, 0.0),
        ),
        (PowerAmplifier(1.0, 2.0), "nonlinear_amplifier, default scaling", functional.nonlinear_amplifier),
        (PowerAmplifier(1.0, 2.0), "nonlinear_amplifier", partial(functional.nonlinear_amplifier, auto_scale=False)),
        (CarrierFrequencyOffset(5e3), "carrier_frequency_drift", partial(functional.carrier_frequency_drift, rng=rng)),
        (PhaseNoise(-75.0, 100e3), "carrier_phase_noise", partial(functional.carrier_phase_noise, rng=rng)),
        (DCOffset(-10.0, 45.0), "iq_imbalance", lambda x: functional.iq_imbalance(x, 0.0, 0.0, 40.0, 0.8, NOISE_DB)),
        (Quantisation(8, 10.0), "quantize", lambda x: functional.quantize(x, 8)),
        (AutomaticGainControl(0.0, 20e-6, 200e-6), "digital_agc", functional.digital_agc),
        (SamplingClockOffset(50.0), "clock_drift", partial(functional.clock_drift, drift_ppm=1e-3, rng=rng)),
        (Spurs(4, -20.0), "spurs", lambda x: functional.spurs(x, RATE, tones, np.zeros(4), NOISE_DB)),
        (
            Spurs(4, -20.0),
            "spurs, default noise floor",
            lambda x: functional.spurs(x, RATE, tones, np.zeros(4)),
        ),
        (
            AdjacentChannelInterferer(10.0, 12e6, RATE / 5),
            "adjacent_channel_interference",
            partial(functional.adjacent_channel_interference, rng=rng),
        ),
        (
            BurstNoise(2000.0, 50e-6, 10.0),
            "time_varying_noise",
            lambda x: functional.time_varying_noise(x, -30.0, 10.0, 10, True, rng),
        ),
        (
            TDLSweep("TDL-C", DELAY_SPREAD_S, 500.0),
            "fading",
            lambda x: functional.fading(x, COHERENCE_HZ / RATE, np.ones(3), rng),
        ),
    ]


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
    rng = rng_for(0, "impairments")
    iq = rng.standard_normal((ROWS, SAMPLES, 2), dtype=np.float32).view(np.complex64)[..., 0] / np.float32(np.sqrt(2))
    rngs = [rng_for(0, row) for row in range(ROWS)]
    for family, peer_name, transform in cases(rng):
        rows = [[family]] * ROWS
        ours = iq.size / seconds(lambda: impair(iq, RATE, rows, rngs)) / 1e6  # noqa: B023
        peer = SAMPLES / seconds(lambda: transform(iq[0])) / 1e6  # noqa: B023
        line = {
            "name": f"impairment {family.name}",
            "unit": "Msamples/s",
            "ours": round(ours, 1),
            "peer": round(peer, 2),
            "peer_name": f"TorchSig {peer_name}",
            "ratio": round(ours / peer, 1),
            "runs": RUNS,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
