"""The processor makes the recipe's picture of whatever it is given, and refuses another recipe's."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoFeatureExtractor, AutoProcessor

from lwm.errors import CaptureError, ConfigError, ModelError, RecipeMismatch
from lwm.hf import LWMProcessor
from lwm.seeding import rng_for
from lwm.signal.capture import Capture
from lwm.signal.io import write_sigmf
from lwm.signal.recipe import Recipe

RATE = 1e6


@pytest.fixture
def iq() -> NDArray[np.complex64]:
    """Two windows and a half of noise and a tone."""
    rng = rng_for(0, "test", "iq")
    noise = rng.normal(size=40_000) + 1j * rng.normal(size=40_000)
    return (noise + 3 * np.exp(2j * np.pi * 0.2 * np.arange(40_000))).astype(np.complex64)


@pytest.fixture
def processor(folder: Path) -> LWMProcessor:
    found = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    assert isinstance(found, LWMProcessor)
    return found


def test_every_way_in_gives_the_recipes_picture(
    processor: LWMProcessor, recipe: Recipe, iq: NDArray[np.complex64], tmp_path: Path
) -> None:
    capture = Capture(iq, RATE)
    expected = recipe(torch.from_numpy(iq)[None], RATE).db
    path = write_sigmf(capture, tmp_path / "noise.sigmf-meta") or tmp_path / "noise.sigmf-meta"
    iq.tofile(tmp_path / "noise.cf32")
    ways = [
        processor(iq, sample_rate=RATE),
        processor(torch.from_numpy(iq), sample_rate=RATE),
        processor(capture),
        processor(path),
        processor(str(tmp_path / "noise.cf32"), sample_rate=RATE),
        processor(spectrogram=expected, recipe=recipe),
        processor(spectrogram=expected[0].numpy(), recipe=recipe.to_dict()),
        processor(spectrogram=expected[0, 0], recipe=replace(recipe, name="called otherwise")),
    ]
    for found in ways:
        assert list(found) == ["pixel_values"]
        torch.testing.assert_close(found["pixel_values"], expected)
    several = processor([capture, path, iq], sample_rate=RATE)["pixel_values"]
    torch.testing.assert_close(several, expected.expand(3, -1, -1, -1))
    batch = processor(np.stack([iq, iq[::-1]]), sample_rate=RATE, return_tensors="np")["pixel_values"]
    assert batch.shape == (2, 1, 32, 64)
    np.testing.assert_allclose(batch[0], expected[0].numpy())


def test_start_and_validity(processor: LWMProcessor, recipe: Recipe, iq: NDArray[np.complex64], tmp_path: Path) -> None:
    write_sigmf(Capture(iq, RATE), tmp_path / "noise.sigmf-meta")
    part = recipe(torch.from_numpy(iq[32_000:])[None], RATE)
    for signal in (iq, Capture(iq, RATE), tmp_path / "noise.sigmf-meta"):
        rate = None if isinstance(signal, Capture) else RATE
        found = processor(signal, sample_rate=rate, start=0.032, return_valid=True)
        torch.testing.assert_close(found["pixel_values"], part.db)
        assert torch.equal(found["valid"], part.valid)
        assert found["valid"].sum() == 32  # 8 ms of 16
    assert processor(spectrogram=part.db, recipe=recipe, return_valid=True)["valid"].all()


def test_another_recipe_is_refused_naming_both(processor: LWMProcessor, recipe: Recipe) -> None:
    picture = torch.zeros(1, 1, 32, 64)
    other = replace(recipe, name="theirs", window="blackman")
    with pytest.raises(RecipeMismatch, match=r"'tiny'.*'theirs'.*window 'hann' against 'blackman'"):
        processor(spectrogram=picture, recipe=other)
    with pytest.raises(RecipeMismatch, match="'lwm'"):
        processor(spectrogram=picture, recipe="lwm")
    with pytest.raises(ConfigError, match="without its recipe"):
        processor(spectrogram=picture)


def test_input_that_cannot_be_used_is_refused(
    processor: LWMProcessor, recipe: Recipe, iq: NDArray[np.complex64], tmp_path: Path
) -> None:
    for wrong in (torch.zeros(1, 1, 64, 32), torch.full((32, 64), torch.nan), torch.zeros(32, 64) + 0j):
        with pytest.raises(CaptureError, match="frequency, time"):
            processor(spectrogram=wrong, recipe=recipe)
    with pytest.raises(ConfigError, match="sample rate"):
        processor(iq)
    with pytest.raises(ConfigError, match="both or neither"):
        processor()
    with pytest.raises(ConfigError, match="pt or np"):
        processor(iq, sample_rate=RATE, return_tensors="tf")
    with pytest.raises(ConfigError, match="which the capture states"):
        processor(Capture(iq, RATE), sample_rate=2 * RATE)
    with pytest.raises(CaptureError, match="complex IQ"):
        processor(iq.real, sample_rate=RATE)
    with pytest.raises(CaptureError, match="not finite"):
        processor(np.full(16_000, np.nan + 0j), sample_rate=RATE)
    with pytest.raises(CaptureError, match="nowhere"):
        processor(tmp_path / "nowhere.cf32", sample_rate=RATE)


def test_saved_alone_and_beside_a_model(processor: LWMProcessor, recipe: Recipe, folder: Path, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["processor_class"] == "LWMProcessor"
    for auto in (AutoProcessor, AutoFeatureExtractor):
        found = auto.from_pretrained(tmp_path)
        assert isinstance(found, LWMProcessor)
        assert found.recipe == recipe
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert processor.save_pretrained(folder) == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(RecipeMismatch, match="hop"):
        LWMProcessor(replace(recipe, hop=128)).save_pretrained(folder)
    with pytest.raises(ConfigError, match="whole model folder"):
        processor.save_pretrained(tmp_path, push_to_hub=True)
    (tmp_path / "preprocessor_config.json").write_text('{"processor_class": "LWMProcessor"}')
    with pytest.raises(ModelError, match="without a recipe"):
        LWMProcessor.from_pretrained(tmp_path)
