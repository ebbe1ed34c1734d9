"""Speed of the whole path, waveform -> channel -> noise -> 128 x 128 spectrogram -> shard, beside TorchSig's waveforms.

One JSON object a line, medians. The plan is the default one: captures of 65,536 samples at 7.68 Msamples/s (8.53 ms),
preset ``lwm``, a waveform used for four draws. The peer does less: TorchSig's wideband generation of as many samples
without impairments, channel, spectrogram or storage. The breakdown is the share of each stage in our time.
"""

import cProfile
import json
import os
import pstats
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import torch

from lwm.data.plan import Plan, parse_plan
from lwm.data.shard_task import ShardTask, make_shard, shard_tasks
from lwm.data.workers import Finished, Made, run_tasks
from lwm.signal.recipe import PRESETS

RUNS = 3
WANTED = 60.0
PEERS = {"torchsig, 1 to 5 signals": 5, "torchsig, 1 signal": 1}
"""Peer and most signals in a capture: 5 as in the wideband metadata that TorchSig documents (the example of
``torchsig.utils.printing``), 1 as in its ``default_dataset``. Signals may overlap, so that none is made in vain."""
SAMPLES, RATE = 65536, 7.68e6
# Registered where workers, which import this file too, find it.
PRESETS["lwm-8.53ms"] = replace(PRESETS["lwm"], name="lwm-8.53ms", duration=SAMPLES / RATE)
PLAN = {
    "technologies": ["lte", "nr", "wlan"],
    "recipe": "lwm-8.53ms",
    "samples": {"train": 504},
    "samples_per_waveform": 4,
    "samples_per_shard": 84,
    "view": {"sample_rates": [RATE], "short_share": 0},
    "channel": {"draws": {"train": 600}},
}
STAGES = {
    "configuration and waveform": ("/technology.py", ("sample", "synthesize")),
    "tune and resample": ("/signal/resample.py", ("tune",)),
    "channel draw": ("/data/draws.py", ("channel",)),
    "fading": ("/channel/fading.py", ("apply_channel",)),
    "noise": ("/channel/noise.py", ("add_noise",)),
    "recipe": ("/data/synthesis.py", ("_pictures",)),
    "record": ("/data/synthesis.py", ("_facts",)),
    "write": ("/data/shard.py", ("add", "save")),
}
"""Stage: the end of a file and its functions, called from nowhere else on this path, whose cumulative time it is."""


def one_core(plan: Plan, shards: int) -> list[tuple[str, float]]:
    """Technology and samples a second of the first shards of each, after one small shard to warm up."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for task in _first(plan, Path(folder), shards):
            list(run_tasks(make_shard, [replace(task, count=4)], 0))
            start = time.perf_counter()
            list(run_tasks(make_shard, [task], 0))
            found.append((task.technology, task.count / (time.perf_counter() - start)))
    return found


def _first(plan: Plan, folder: Path, shards: int) -> list[ShardTask]:
    tasks = shard_tasks(folder, plan, 0)
    return [t for name in plan.technologies for t in [t for t in tasks if t.technology == name][:shards]]


def pool(plan: Plan, workers: int, shards: int) -> float:
    """Samples a second of ``workers`` processes, from the first to the last sample that they report."""
    times, made = [], []
    with tempfile.TemporaryDirectory() as folder:
        for event in run_tasks(make_shard, _first(plan, Path(folder), shards), workers):
            if isinstance(event, Made | Finished):
                times.append(time.perf_counter())
                made.append(event.samples if isinstance(event, Made) else 0)
    # Processes begin at different times: their imports are left out, and the end, when some have nothing left to do.
    low, high = int(len(times) * 0.2), int(len(times) * 0.8)
    return sum(made[low + 1 : high + 1]) / (times[high] - times[low])


def breakdown(plan: Plan) -> dict[str, float]:
    """Share of each stage in the time of a shard of every technology."""
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder:
        for task in _first(plan, Path(folder), 1):
            profile.runcall(make_shard, replace(task, count=40), lambda count: None)
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(own for _, _, own, _, _ in stats.values())
    shares = dict.fromkeys(STAGES, 0.0)
    for (file, _, name), (_, _, _, cumulative, _) in stats.items():
        for stage, (ending, names) in STAGES.items():
            if name in names and file.endswith(ending):
                shares[stage] += cumulative
    shares["rest"] = total - sum(shares.values())
    return {stage: round(seconds / total, 3) for stage, seconds in shares.items()}


def torchsig(signals: int, count: int) -> float:
    """Captures a second of TorchSig: ``count`` of :data:`SAMPLES` samples, one to ``signals`` signals in each."""
    from torchsig.utils.defaults import TorchSigDefaults, default_dataset

    changes = {
        "num_iq_samples_dataset": SAMPLES,
        "num_signals_min": 1,
        "num_signals_max": signals,
        # Else most signals beyond the first are thrown away again, and TorchSig takes six times as long.
        "cochannel_overlap_probability": 1.0,
        "signal_duration_in_samples_min": 0.8 * SAMPLES,
        "signal_duration_in_samples_max": SAMPLES,
    }
    plain = TorchSigDefaults.default_dataset_metadata
    TorchSigDefaults.default_dataset_metadata = property(lambda self: self._default_dataset_metadata | changes)
    try:
        made = iter(default_dataset(seed=0))
    finally:
        TorchSigDefaults.default_dataset_metadata = plain
    next(made)
    start = time.perf_counter()
    for _ in range(count):
        assert len(next(made).data) == SAMPLES
    return count / (time.perf_counter() - start)


def say(name: str, unit: str, ours: float, peer: float, peer_name: str, runs: int) -> None:
    figures = {"ours": round(ours, 2), "peer": round(peer, 2), "peer_name": peer_name, "ratio": round(ours / peer, 2)}
    print(json.dumps({"name": name, "unit": unit, **figures, "runs": runs}), flush=True)


def main(runs: int = RUNS, shards: int = 1) -> None:
    torch.set_num_threads(1)
    plan = parse_plan(PLAN, "benchmark")
    ours: list[tuple[str, float]] = []
    peers: dict[str, list[float]] = {name: [] for name in PEERS}
    for _ in range(runs):
        ours += one_core(plan, shards)
        for name, signals in PEERS.items():
            peers[name].append(torchsig(signals, 40))
    per_technology = {
        name: statistics.median(r for technology, r in ours if technology == name) for name in plan.technologies
    }
    rate = statistics.harmonic_mean(per_technology.values())
    for peer, rates in peers.items():
        say("generate 65536@7.68Msps", "samples/s", rate, statistics.median(rates), peer, runs)
    say("generate 65536@7.68Msps", "samples/s", rate, WANTED, "wanted on one core", runs)
    first = next(iter(peers))
    for name, each in per_technology.items():
        say(f"generate {name} 65536@7.68Msps", "samples/s", each, statistics.median(peers[first]), first, runs)
    pooled: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(runs):
        for workers, rates in pooled.items():
            rates.append(pool(plan, workers, 2))
    one, two = (statistics.median(rates) for rates in pooled.values())
    say("generate with two workers", "samples/s", two, one, "one worker", runs)
    for stage, share in breakdown(plan).items():
        say(f"generate stage {stage}", "share of the time (profiled)", share, 1.0, "whole path", 1)


if __name__ == "__main__":
    main()
