"""Two made-up technologies, installed like real ones, and small data sets."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lwm import registry
from lwm.data.shard import write_dataset
from lwm.signal.recipe import PRESETS

MODULE = '''
"""Bursts of QPSK symbols; what the environment says goes wrong with them."""

import os
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lwm.errors import RejectedConfig
from lwm.signal.capture import Capture, Emission


@dataclass(frozen=True)
class Config:
    bandwidth: float
    duration: float
    activity: float


class Bursts:
    name: ClassVar[str] = "bursts"
    title: ClassVar[str] = "Bursts"
    link: ClassVar[str] = "both"
    bandwidths: ClassVar[tuple[float, ...]] = (1e6,)

    def sample(self, rng, **fixed):
        config = Config(**fixed)
        self.validate(config)
        return config

    def validate(self, config):
        if config.activity > 0.9:
            raise RejectedConfig(f"activity {config.activity}", "at most 0.9", "clause 1.2.3")

    def synthesize(self, config, rng):
        time.sleep(float(os.environ.get("BURSTS_SLEEP", "0")))
        if "BURSTS_DIE" in os.environ:
            os._exit(3)
        if "BURSTS_FAIL" in os.environ:
            raise ValueError("no symbols left")
        rate = 2 * config.bandwidth
        count = round(config.duration * rate)
        on = max(1, round(config.activity * count))
        symbols = (rng.integers(0, 2, (-(-on // 2), 2)) * 2 - 1) @ np.array([1, 1j]) / np.sqrt(2)
        iq = np.zeros(count, np.complex64)
        iq[:on] = np.repeat(symbols, 2)[:on]
        half = config.bandwidth / 2
        burst = Emission(self.name, self.link, "QPSK", 0.0, on / rate, -half, half)
        return Capture(iq, rate, emissions=[burst], facts={"count": np.int64(on)})


class Tone(Bursts):
    name: ClassVar[str] = "tone"
    title: ClassVar[str] = "A tone"
    link: ClassVar[str] = "downlink"

    def validate(self, config):
        pass

    def synthesize(self, config, rng):
        bursts = super().synthesize(config, rng)
        tone = np.full_like(bursts.iq, np.exp(2j * np.pi * rng.random()))
        return Capture(tone, bursts.sample_rate, emissions=bursts.emissions)
'''


@pytest.fixture(scope="session")
def technologies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which a distribution with the technologies ``bursts`` and ``tone`` is installed, on ``sys.path``."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "made_up_technologies.py").write_text(MODULE)
    info = folder / "made_up-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n")
    entries = [f"{name.lower()} = made_up_technologies:{name}" for name in ("Bursts", "Tone")]
    (info / "entry_points.txt").write_text("\n".join([f"[{registry.TECHNOLOGIES}]", *entries]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        registry._entries.cache_clear()
        yield folder
    registry._entries.cache_clear()


@pytest.fixture
def plain_plan() -> dict[str, Any]:
    """A plan of 2 technologies x (8 + 4) samples in 6 shards."""
    return {
        "technologies": ["bursts", "tone"],
        "recipe": "small",
        "samples": {"train": 8, "test": 4},
        "samples_per_waveform": 2,
        "samples_per_shard": 4,
        "store_clean": True,
        "view": {"sample_rates": [1e6, 2e6], "bandwidths": [1e6], "short_share": 0.5},
        "channel": {"draws": {"train": 3, "test": 2}, "snr_db": [0, 20], "mobility": ["static", "vehicular"]},
    }


@pytest.fixture
def write_plan(technologies: Path, plain_plan: dict[str, Any], tmp_path: Path) -> Callable[..., str]:
    """Writes the plan with some keys changed and returns the file's name."""

    def write(**changes: Any) -> str:
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(plain_plan | changes))
        return str(path)

    return write


@pytest.fixture
def environment(technologies: Path, root: Path) -> dict[str, str]:
    """Environment of a child process that finds the made-up technologies."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(technologies), str(root), *sys.path])}


@pytest.fixture
def spectrograms() -> np.ndarray:
    """20 different pictures ``[20, 1, 64, 64]`` inside the recipe's range, as half precision keeps them."""
    return np.random.default_rng(7).uniform(-39, 39, (20, 1, 64, 64)).astype(np.float16).astype(np.float32)


@pytest.fixture
def labels() -> dict[str, list[str]]:
    """Labels of the 20 pictures."""
    return {
        "technology": ["lte", "nr"] * 10,
        "snr": [("-5", "5", "10", "20")[i % 4] for i in range(20)],
    }


@pytest.fixture
def folder(tmp_path: Path, spectrograms: np.ndarray, labels: dict[str, list[str]]) -> Path:
    """A data set of the 20 pictures: 14 train, 6 test, the last column of every third one padded."""
    valid = np.ones((20, 64), bool)
    valid[::3, 48:] = False
    write_dataset(
        tmp_path / "set",
        spectrograms,
        PRESETS["small"],
        labels,
        split=["train"] * 14 + ["test"] * 6,
        valid=valid,
        clean=-spectrograms,
        values={"snr_db": [float(name) for name in labels["snr"]]},
        records=[{"number": i} for i in range(20)],
        samples_per_shard=4,
    )
    return tmp_path / "set"
