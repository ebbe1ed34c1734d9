"""Speed of each technology's waveforms on one core: draw, validate, synthesize.

The rate of a technology is the median over random draws of its default space, 16 ms each, every draw timed alone in CPU
time of the one thread. NR has a peer: Sionna's PUSCH transmitter, which makes the same coded 51 resource blocks of
30 kHz in every slot, 16 ms of them in one call, samples of its own shorter FFT counted. Its payload is coded and our
default one is not: ``coded NR`` is ours on just what the peer makes.

One JSON object a line: megasamples a second, medians; ratio > 1 means ours is faster.

    python benchmarks/waveforms.py [--draws 60]
"""

import argparse
import json
import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import statistics
import time
from collections.abc import Callable
from importlib.metadata import distributions
from typing import Any

import torch

from lwm.errors import RejectedConfig
from lwm.seeding import rng_for
from lwm.technology import technology, technology_names

DRAWS, WARM = 60, 5
DURATION = 16e-3
RUNS = 3
BLOCKS, SPACING_KHZ, MCS = 51, 30, 14
SLOTS = 32
"""Of 30 kHz in 16 ms."""
CODED = {
    "link": "uplink",
    "bandwidth": 20e6,
    "mu": 1,
    "tdd": None,
    "number_of_ues": 1,
    "activity": 1.0,
    "payload": "coded",
    "srs": 0,
    "reports": 0,
    "prach": None,
}
"""Our draw on the peer's channel: a 20 MHz carrier of 30 kHz has 51 resource blocks."""
PEER = "Sionna PUSCHTransmitter"


def rates(name: str, draws: int, fixed: dict[str, Any]) -> list[float]:
    """Samples a second of each draw, the first ones apart; a rejected draw costs its time and gives no samples."""
    maker, found, lost = technology(name), [], 0.0
    for number in range(-WARM, draws):
        rng = rng_for(0, "benchmark", name, number + WARM)
        start = time.process_time()
        try:
            capture = maker.synthesize(maker.sample(rng, duration=DURATION, **fixed), rng)
        except RejectedConfig:
            lost += time.process_time() - start
            continue
        taken = time.process_time() - start + lost
        lost = 0.0
        if number >= 0:
            found.append(capture.iq.size / taken)
    return found


def sionna_rate() -> float | None:
    """Samples a second of the peer; None where it is not installed."""
    if "sionna" not in {found.name for found in distributions()}:
        return None
    from sionna.phy.nr import PUSCHConfig, PUSCHTransmitter

    config = PUSCHConfig()
    config.carrier.n_size_grid = BLOCKS
    config.carrier.subcarrier_spacing = SPACING_KHZ
    config.tb.mcs_index = MCS
    transmitter: Callable[[int], tuple[torch.Tensor, torch.Tensor]] = PUSCHTransmitter(
        config, output_domain="time", device="cpu"
    )
    found = []
    for run in range(-1, RUNS):
        start = time.process_time()
        samples, _ = transmitter(SLOTS)
        if run >= 0:
            found.append(samples.numel() / (time.process_time() - start))
    return statistics.median(found)


def line(name: str, found: list[float], peer: float | None, peer_name: str) -> None:
    """Print one result; rates in samples a second, no peer where there is none."""
    ours = statistics.median(found)
    result = {
        "name": f"waveforms {name}",
        "unit": "Msamples/s",
        "ours": round(ours / 1e6, 2),
        "peer": None if peer is None else round(peer / 1e6, 2),
        "peer_name": peer_name,
        "ratio": None if peer is None else round(ours / peer, 2),
        "runs": len(found),
    }
    print(json.dumps(result), flush=True)


def main(draws: int) -> None:
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    peer = sionna_rate()
    said = PEER if peer is not None else f"{PEER}: sionna is not installed here"
    for name in technology_names():
        nr = name == "nr"
        line(technology(name).title, rates(name, draws, {}), peer if nr else None, said if nr else "none known")
    line("coded NR", rates("nr", max(1, draws // 4), CODED), peer, said)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=DRAWS, help="random draws of each technology")
    main(parser.parse_args().draws)
