"""Speed of reading shuffled batches beside numpy's sequential read and three other ways to keep spectrograms.

Float16 128x128, shuffled batches of 256, one process; every file is read once before, so all come from a warm cache.
One JSON object a line: samples a second, medians of interleaved runs; ratio > 1 means ours is faster. Peers:

- ``numpy.fromfile``: the same shards one after the other, a fresh array for each (32 MiB, 1,024 samples as in
  ``configs/generate/sites.yaml``), which the system fills with fresh pages each time;
- ``readinto one hot array``: the same bytes, always into the same 8 MiB. Nobody keeps data so: the bound of a copy;
- h5py, webdataset and litdata read shuffled batches of the same pictures.

The last line is memory over one epoch: largest against that at its first batch, pages of files left out.
"""

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import functools
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch

from lwm.data.datamodule import ShardDataModule
from lwm.data.loader import ShardLoader
from lwm.data.shard import write_dataset
from lwm.seeding import rng_for
from lwm.signal.recipe import PRESETS

RUNS = 5
SAMPLES, SHARD, BATCH = 20_480, 1024, 256
FEW = 4096
"""Samples of the slowest peer; rates are per sample."""
SHAPE = (1, 128, 128)
PIXELS = int(np.prod(SHAPE))


def ours(folder: Path, workers: int = 0) -> ShardLoader:
    module = ShardDataModule(str(folder), batch_size=BATCH, num_workers=workers)
    module.setup("predict")
    module.datasets["train"] = module.datasets[None]
    return module.train_dataloader()


def epoch_of(loader: ShardLoader) -> Callable[[], int]:
    """A call that reads one epoch, another each time."""

    def read() -> int:
        count = 0
        for batch in loader:
            count += len(batch["spectrogram"])
        loader.set_epoch(loader.epoch + 1)
        return count

    return read


def read_fresh(files: list[Path]) -> int:
    return sum(len(np.fromfile(file, np.float16)) for file in files) // PIXELS


def read_reused(files: list[Path], array: np.ndarray) -> int:
    count = 0
    for path in files:
        with path.open("rb", buffering=0) as file:
            while part := file.readinto(array):
                count += part
    return count // (2 * PIXELS)


def warm(folder: Path) -> None:
    """Read every file once, so that all are in the system's cache alike."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 24):
                    pass


def write_hdf5(path: Path, pictures: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        for i, picture in enumerate(pictures):
            file[f"{i:06d}"] = picture


def read_hdf5(path: Path, batches: np.ndarray) -> int:
    with h5py.File(path, "r") as file:
        return sum(len(np.stack([file[f"{i:06d}"][:] for i in batch])) for batch in batches)


def write_webdataset(folder: Path, pictures: np.ndarray) -> str:
    import webdataset

    folder.mkdir()
    with webdataset.ShardWriter(f"{folder}/%05d.tar", maxcount=SHARD, verbose=0) as sink:
        for i, picture in enumerate(pictures):
            stream = io.BytesIO()
            np.save(stream, picture)
            sink.write({"__key__": f"{i:06d}", "npy": stream.getvalue()})
    return f"{folder}/{{00000..{len(pictures) // SHARD - 1:05d}}}.tar"


def read_webdataset(url: str) -> int:
    """Shards in random order, samples mixed in a buffer of 1,024, as its documentation has it."""
    import webdataset

    data = webdataset.WebDataset(url, shardshuffle=SAMPLES // SHARD).shuffle(1024).decode().to_tuple("npy")
    return sum(len(batch[0]) for batch in data.batched(BATCH))


def _picture(source: str, index: int) -> np.ndarray:
    return np.fromfile(source, np.float16, PIXELS, offset=index * PIXELS * 2).reshape(SHAPE)


def write_litdata(folder: Path, source: Path) -> None:
    """``source``: all pictures in one file; litdata's own process reads them from there."""
    import litdata

    make = functools.partial(_picture, str(source))
    litdata.optimize(make, list(range(SAMPLES)), str(folder), chunk_bytes="8MB", num_workers=1, verbose=False)


def litdata_epoch(folder: Path) -> Callable[[], int]:
    import litdata

    loader = litdata.StreamingDataLoader(
        litdata.StreamingDataset(str(folder), shuffle=True), batch_size=BATCH, num_workers=0
    )
    return lambda: sum(len(batch) for batch in loader)


def rates(calls: dict[str, Callable[[], int]]) -> dict[str, float]:
    """Median samples a second of each call; the calls take turns, so that a disturbance meets all of them."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(RUNS + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            count = call()
            if run:  # the first one warms up
                taken[name].append(count / (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in taken.items()}


def anonymous_mib() -> float:
    """Memory of this process without pages of files, which the system takes back when it needs them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def memory_over_epoch(loader: ShardLoader) -> tuple[float, float]:
    """MiB at the first batch of an epoch, and the most at any."""
    found = [anonymous_mib() for _ in loader]
    loader.set_epoch(loader.epoch + 1)
    return found[0], max(found)


def say(name: str, unit: str, ours: float, peer: float, peer_name: str) -> None:
    ratio = ours / peer if unit == "samples/s" else peer / ours
    line = {"name": name, "unit": unit, "ours": round(ours, 3), "peer": round(peer, 3), "peer_name": peer_name}
    print(json.dumps(line | {"ratio": round(ratio, 3), "runs": RUNS}), flush=True)


def write_all(root: Path) -> str:
    """The same pictures in every form; returns webdataset's address."""
    rng = rng_for(0, "reading")
    with (root / "one.bin").open("wb") as file:
        for _ in range(SAMPLES // SHARD):
            block = rng.standard_normal((SHARD, *SHAPE), dtype=np.float32)
            file.write((block * 10 - 20).astype(np.float16).tobytes())
    pictures = np.memmap(root / "one.bin", np.float16, "r", 0, (SAMPLES, *SHAPE))
    labels = {"technology": ["made up"] * SAMPLES, "snr": [str(i % 8) for i in range(SAMPLES)]}
    write_dataset(root / "lwm", pictures, PRESETS["lwm"], labels, samples_per_shard=SHARD)
    write_hdf5(root / "each.h5", pictures[:FEW])
    write_litdata(root / "lit", root / "one.bin")
    return write_webdataset(root / "web", pictures)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="lwm-reading-") as name:
        root = Path(name)
        url = write_all(root)
        warm(root)
        loader, shards = ours(root / "lwm"), sorted((root / "lwm").glob("*.h5"))
        array = np.empty(2 * PIXELS * BATCH, np.uint8)
        batches = rng_for(0, "batches").permutation(FEW).reshape(-1, BATCH)
        calls: dict[str, Callable[[], int]] = {
            "lwm": epoch_of(loader),
            "numpy.fromfile, the shards one after the other": lambda: read_fresh(shards),
            "readinto one hot array of 8 MiB, the shards one after the other": lambda: read_reused(shards, array),
            f"h5py, one dataset a sample, {FEW} of them": lambda: read_hdf5(root / "each.h5", batches),
            "webdataset": lambda: read_webdataset(url),
            "litdata": litdata_epoch(root / "lit"),
        }
        calls["lwm"]()
        first, most = memory_over_epoch(loader)  # before the peers take theirs
        found = rates(calls)
        for peer in list(calls)[1:]:
            say("reading float16 128x128, shuffled batches of 256", "samples/s", found["lwm"], found[peer], peer)
        say("memory over an epoch", "MiB", most, first, "at its first batch")


if __name__ == "__main__":
    main()
