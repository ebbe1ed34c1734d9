"""The recipe against closed forms: level and place of a tone, Parseval, padding, resizing, identity."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lwm.errors import CaptureError, ConfigError, RecipeMismatch
from lwm.signal.capture import Capture
from lwm.signal.recipe import PRESETS, Recipe, _area, _colour_table, recipe_named

RATE = 1.024e6
SMALL = PRESETS["small"]
EXACT = replace(SMALL, window="boxcar", resize="none", size=(256, 64), epsilon=1e-12, floor_db=-200, ceiling_db=200)
"""One row a bin and one column a frame at RATE, nothing averaged or clipped."""


def tone(cycles, samples=16384, level=1.0):
    return torch.from_numpy((level * np.exp(2j * np.pi * cycles * np.arange(samples))).astype(np.complex64))[None]


def white(samples=16384, seed=0):
    values = np.random.default_rng(seed).standard_normal((samples, 2), dtype=np.float32) / np.float32(np.sqrt(2))
    return torch.from_numpy(values.view(np.complex64)[:, 0])[None]


@pytest.mark.parametrize("bin_", [-128, -37, 0, 5, 127])
def test_tone_stands_in_its_row_with_the_windows_level(bin_):
    made = replace(EXACT, window="hann")(tone(bin_ / 256), RATE)
    assert made.db.shape == (1, 1, 256, 64)
    assert made.db.dtype == torch.float32
    assert (made.db[0, 0].argmax(0) == bin_ + 128).all()
    # |sum w|^2 / sum w^2 of a periodic Hann window of N is 2 N / 3; its neighbours are 6 dB down.
    assert made.db[0, 0, bin_ + 128].numpy() == pytest.approx(10 * np.log10(256 * 2 / 3), abs=1e-3)
    beside = made.db[0, 0, (bin_ + 129) % 256].numpy()
    assert beside == pytest.approx(10 * np.log10(256 * 2 / 3 / 4), abs=1e-3)


def test_area_mean_of_a_tone_holds_its_whole_power():
    # Rows 4 wide: a tone in bin 4 m + 1 leaks only into the same cell, whose mean is then 256 / 4.
    made = SMALL(tone((4 * 9 + 1) / 256), RATE)
    assert made.db[0, 0, 32 + 9].numpy() == pytest.approx(10 * np.log10(64), abs=1e-3)
    assert made.valid.all()


def test_parseval_without_reference():
    iq = white()
    made = replace(EXACT, power_reference="full_scale")(3 * iq, RATE)
    assert (10 ** (made.db.double() / 10)).mean().item() == pytest.approx(9 * iq.abs().square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("name", ["small", "lwm", "radio-fm"])
def test_white_noise_is_zero_db_whatever_its_level(name):
    made = recipe_named(name)(7.5 * white(320_000), 20e6)
    # Power before the mean over dB: mean of the picture's linear values.
    assert 10 * np.log10((10 ** (made.db.double() / 10)).mean().item()) == pytest.approx(0.0, abs=0.05)


def test_windows_shorter_than_the_fft_are_padded_to_it():
    recipe = replace(EXACT, win_length=128, hop=256, size=(256, 64))
    level = recipe(tone(8 / 256), RATE).db[0, 0, 128 + 8]
    assert level.numpy() == pytest.approx(10 * np.log10(128), abs=1e-3)


def test_short_capture_is_padded_at_its_end_and_marked():
    made = SMALL(white(8192), RATE)
    assert made.valid[0].tolist() == [True] * 32 + [False] * 32
    assert (made.db[..., 32:] == SMALL.floor_db).all()
    assert (made.db[..., :32] > SMALL.floor_db).all()


def test_padding_has_no_part_in_level_or_columns():
    half, full = white(8192), white(16384)
    np.testing.assert_array_equal(half[0], white(16384)[0, :8192])
    reference = replace(SMALL, power_reference="full_scale")
    torch.testing.assert_close(reference(half, RATE).db[..., :32], reference(full, RATE).db[..., :32])


def test_rows_of_a_batch_are_what_each_is_alone():
    short, long = white(5000, seed=1), white(16384, seed=2)
    batch = torch.zeros(2, 16384, dtype=torch.complex64)
    batch[0, :5000], batch[1] = short, long
    batch[0, 5000:] = 99
    both = SMALL(batch, RATE, lengths=[5000, 16384])
    for row, alone in enumerate((SMALL(short, RATE), SMALL(long, RATE))):
        torch.testing.assert_close(both.db[row : row + 1], alone.db)
        torch.testing.assert_close(both.valid[row : row + 1], alone.valid)


def test_longer_captures_give_their_first_window():
    iq = white(20_000)
    torch.testing.assert_close(SMALL(iq, RATE).db, SMALL(iq[:, :16384], RATE).db)


def test_clip_keeps_floor_and_ceiling():
    recipe = replace(EXACT, floor_db=-10, ceiling_db=10)
    db = recipe(tone(0.25), RATE).db
    assert db.min() == -10
    assert db.max() == 10


def test_centred_frames_see_an_impulse_in_their_middle():
    iq = torch.zeros(1, 16384, dtype=torch.complex64)
    iq[0, 256 * 10] = 1
    recipe = replace(EXACT, center=True, size=(256, 65), window="hann")
    assert recipe(iq, RATE).db[0, 0, 0].argmax() == 10


def test_unshifted_and_transposed_pictures_are_the_same_picture():
    iq = tone(-0.125)
    plain = EXACT(iq, RATE).db
    torch.testing.assert_close(replace(EXACT, fftshift=False)(iq, RATE).db, plain.roll(128, dims=2))
    turned = replace(EXACT, axes="time-frequency")(iq, RATE).db
    torch.testing.assert_close(turned, plain.transpose(2, 3))


@pytest.mark.parametrize(("source", "target"), [(6, 4), (256, 64), (5, 8), (7, 7)])
def test_area_weights_are_shares_of_each_cell(source, target):
    index, share = (part.numpy() for part in _area(source, target))
    matrix = np.zeros((target, source))
    np.add.at(matrix, (np.arange(target)[:, None], index), share)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-6)
    # Each source cell spreads over the target in equal total measure: the mean is kept.
    np.testing.assert_allclose(matrix.sum(0), target / source, rtol=1e-5)
    if (source, target) == (6, 4):
        np.testing.assert_allclose(matrix[1], [0, 1 / 3, 2 / 3, 0, 0, 0], atol=1e-6)


def test_colour_maps_floor_and_ceiling_to_the_ends_of_the_table():
    recipe = PRESETS["rf-gpt"]
    made = recipe(white(40_000), 20e6)
    assert made.db.shape == (1, 3, 512, 512)
    assert recipe.in_chans == 3
    table = _colour_table("viridis")
    padded = made.db[0, :, :, -1]
    torch.testing.assert_close(padded, table[0][:, None].expand(3, 512))
    assert table[0].tolist() == pytest.approx([68, 1, 84], abs=1)
    assert table[255].tolist() == pytest.approx([253, 231, 37], abs=1)
    loud = recipe(1e3 * tone(0.25, 320_000), 20e6)
    assert loud.db[0, :, :, 0].unique(dim=1).shape[1] > 1


def test_capture_shorter_than_a_window_is_refused():
    with pytest.raises(CaptureError, match=r"a capture of 255 samples .* at least 256 samples"):
        SMALL(white(255), RATE)
    with pytest.raises(CaptureError, match="a capture of 0 samples"):
        SMALL.of_capture(Capture(np.zeros(0, np.complex64), RATE))
    assert SMALL(white(256), RATE).valid.sum() == 1


def test_recipe_that_does_not_pad_refuses_short_captures():
    with pytest.raises(CaptureError, match="record longer or use a recipe that pads"):
        replace(SMALL, short="error")(white(16000), RATE)


def test_recipe_that_does_not_resize_refuses_other_frame_counts():
    with pytest.raises(CaptureError, match="exactly 64 for recipe 'small'"):
        EXACT(white(32768), 2 * RATE)


def test_of_capture_refuses_nan_and_resamples_where_asked():
    iq = white(20_000)[0].numpy()
    broken = iq.copy()
    broken[3] = np.nan
    with pytest.raises(CaptureError, match="IQ sample 3"):
        SMALL.of_capture(Capture(broken, RATE))
    fixed = replace(SMALL, sample_rate=RATE)
    made = fixed.of_capture(Capture(tone(0.1, 40_000)[0].numpy(), 2 * RATE))
    assert made.valid.all()
    # 0.1 cycles a sample at the double rate are 0.2 at the recipe's: bin 51, row 32 + 12.
    assert (made.db[0, 0, :, 1:-1].argmax(0) == 32 + 12).all()
    with pytest.raises(CaptureError, match="the rate of recipe"):
        fixed(white(), 2 * RATE)


def test_of_capture_begins_where_it_is_told():
    iq = white(40_000)
    made = SMALL.of_capture(Capture(iq[0].numpy(), RATE), start=10_000 / RATE)
    torch.testing.assert_close(made.db, SMALL(iq[:, 10_000:], RATE).db)


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_survive_json(name):
    recipe = recipe_named(name)
    again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe
    recipe.require_same(again)


def test_mismatch_names_both_recipes_and_what_differs():
    with pytest.raises(RecipeMismatch, match=r"'small'.*'lwm'.*n_fft 256 against 512"):
        SMALL.require_same(PRESETS["lwm"])
    SMALL.require_same(replace(SMALL, name="another"))


def test_impossible_recipes_are_refused():
    with pytest.raises(ConfigError, match="window no longer than the FFT"):
        replace(SMALL, win_length=512)
    with pytest.raises(ConfigError, match="ceiling_db > floor_db"):
        replace(SMALL, floor_db=50)
    with pytest.raises(ConfigError, match="positive sizes"):
        replace(SMALL, hop=0)
    with pytest.raises(ConfigError, match="one of .*'small'"):
        recipe_named("smal")
    plain = SMALL.to_dict()
    plain["fft"] = plain.pop("n_fft")
    with pytest.raises(ConfigError, match=r"\['fft', 'n_fft'\]"):
        Recipe.from_dict(plain)


def test_odd_fft_has_its_rows_in_order_of_frequency():
    recipe = replace(SMALL, n_fft=255, win_length=255, hop=256, size=(51, 64), resize="area")
    for bin_ in (-127, -30, 0, 64, 127):
        assert recipe(tone(bin_ / 255), RATE).db[0, 0, :, 5].argmax() == (bin_ + 127) // 5
