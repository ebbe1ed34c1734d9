"""The cost model: FLOPs in closed form, times by arithmetic, and a trial that writes nothing."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwm.cli import main
from lwm.data.shard import write_dataset
from lwm.signal.recipe import recipe_named
from lwm.tasks.estimate import Estimate

CONFIG = """
trainer: {{accelerator: cpu, precision: 32-true, max_epochs: 5, accumulate_grad_batches: {accumulate}}}
model: {{class_path: lwm.tasks.pretrain.MaskedModeling, init_args: {{size: tiny}}}}
data: {{class_path: lwm.data.datamodule.ShardDataModule, init_args: {{data: {data}, batch_size: {batch}}}}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("estimate") / "set"
    pictures = np.random.default_rng(0).normal(-10, 8, (24, 1, 64, 64)).astype(np.float16)
    split = ["train"] * 16 + ["validation"] * 8
    write_dataset(root, pictures, recipe_named("small"), {"technology": ["lte", "nr"] * 12}, split=split)
    return root


def forward_flops() -> int:
    """Matrix products of one sample: 4 of 16 patches of 256 cells through the encoder, all through the decoder."""
    from lwm.models.sizes import size_named

    encoder, decoder = size_named("tiny").encoder, size_named("tiny").decoder

    def blocks(depth: int, tokens: int, width: int, ratio: float) -> int:
        # Queries, keys, values and output: 4 w^2 a token; feed-forward: 2 r w^2; scores and their use: 2 n^2 w.
        return depth * (tokens * width**2 * (4 + 2 * int(ratio)) + 2 * tokens**2 * width)

    embedded = 4 * 256 * encoder.width + 4 * encoder.width * decoder.width + 16 * decoder.width * 256
    parts: list[tuple[Any, int]] = [(encoder, 4), (decoder, 16)]
    return 2 * (embedded + sum(blocks(part.depth, tokens, part.width, part.mlp_ratio) for part, tokens in parts))


@pytest.mark.parametrize(("accumulate", "batch", "cores"), [(1, 4, 1), (2, 4, 1), (1, 8, 2)])
def test_trial_of_a_fit(
    data: Path,
    tmp_path: Path,
    accumulate: int,
    batch: int,
    cores: int,
    threads: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    threads(cores)
    config, out = tmp_path / "fit.yaml", tmp_path / "run"
    config.write_text(CONFIG.format(data=data, accumulate=accumulate, batch=batch))
    words = ["fit", "--config", str(config), "--out", str(out), "--estimate", "--estimate_devices", "4"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert not out.exists()
    assert f"steps of {batch * accumulate} samples" in said
    # Backward is twice forward, but nobody asks for the gradient of the picture: one product of the embedding less.
    width = 32
    expected = 3 * forward_flops() - 2 * 4 * 256 * width
    found = float(re.search(r"([\d.e+-]+) GFLOP a sample", said)[1]) * 1e9  # type: ignore[index]
    assert found == pytest.approx(expected, rel=1e-3)
    assert re.search(r"^80 samples: ", said, re.M), "16 samples, five epochs"
    assert re.search(r"1: .* s, 2: .* s, 4: .* s$", said, re.M)
    assert float(re.search(r"peak memory ([\d.]+) GiB", said)[1]) > 0.1  # type: ignore[index]
    assert main([*words, "--estimate_samples", "9200000"]) == 0
    assert "9200000 samples: " in capsys.readouterr().out


def test_times_are_arithmetic() -> None:
    estimate = Estimate(flops_per_sample=2e9, peak_bytes=3 * 2**30, samples_per_second=100.0, batch=32)
    assert estimate.seconds(9_200_000, 8) == pytest.approx(11500)
    said = "\n".join(estimate.lines(9_200_000, 6))
    assert "1.84e+16 FLOP" in said
    assert "1: 1.06 days, 2: 12.8 h, 4: 6.39 h, 6: 4.26 h" in said
    assert "3.00 GiB" in said
    assert "(200 GFLOP/s)" in said
