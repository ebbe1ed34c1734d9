"""Views keep what is in a picture and move where it is."""

import torch

from lwm.models.masking import generator_for
from lwm.tasks.augment import FREQUENCY_SHARE, GAIN_DB, NOISE_BELOW_DB, rf_views, shifted_views


def test_views_move_a_spot_within_their_bounds() -> None:
    x = torch.zeros(64, 1, 20, 16)
    x[:, :, 4, 3] = 1.0
    seen = shifted_views(x, torch.ones(64, 16, dtype=torch.bool), generator_for(0, "views"))
    assert (seen.sum((1, 2, 3)) == 1).all()
    _, _, row, column = seen.nonzero(as_tuple=True)
    most = int(FREQUENCY_SHARE * 20)
    distance = torch.minimum((row - 4).abs(), (row - (19 - 4)).abs())
    assert int(distance.max()) == most
    assert {bool(value) for value in row < 10} == {True, False}, "some are mirrored, some are not"
    assert len(set(column.tolist())) > 8


def test_padded_pictures_stay_in_time() -> None:
    x = torch.randn(8, 1, 20, 16)
    valid = torch.ones(8, 16, dtype=torch.bool)
    valid[:, 10:] = False
    seen = shifted_views(x, valid, generator_for(0, "views"))
    assert torch.equal(seen.sort(2).values, x.sort(2).values), "only rows were permuted"


def test_views_come_from_the_generator_alone() -> None:
    x = torch.randn(8, 1, 20, 16)
    valid = torch.ones(8, 16, dtype=torch.bool)
    first, second = (shifted_views(x, valid, generator_for(3, "views", 7)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, shifted_views(x, valid, generator_for(3, "views", 8)))


def noise_pictures(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    power = -torch.rand(batch, 1, 20, 16, generator=generator).clamp(min=1e-6).log()
    return 10 * power.log10(), torch.ones(batch, 16, dtype=torch.bool)


def test_receptions_keep_level_within_the_gain_and_snr_within_the_noise() -> None:
    x, valid = noise_pictures(256)
    signal = x.clone()
    signal[:, :, 5:8] += 20
    seen = rf_views({"spectrogram": signal, "clean": signal}, valid, -200.0, generator_for(0, "views"))
    power, before = (10 ** (picture / 10) for picture in (seen["clean"], signal))
    gain = 10 * (power.sum((1, 2, 3)) / before.sum((1, 2, 3))).log10()
    # Shifts and a split between two rows keep the energy, so the level changes by the gain alone.
    assert gain.abs().max() <= GAIN_DB + 1e-3
    assert gain.min() < -0.9 * GAIN_DB
    assert gain.max() > 0.9 * GAIN_DB
    added = 10 ** (seen["spectrogram"] / 10) - power
    assert added.min() >= -1e-4
    floor = power.flatten(1).quantile(0.1, dim=1)
    # Mean of 320 exponential draws: four standard errors are 22 %.
    assert (added.mean((1, 2, 3)) < 1.22 * floor * 10 ** (-NOISE_BELOW_DB / 10) * 1.05).all()


def test_receptions_move_by_fractions_of_a_row() -> None:
    x = torch.full((200, 1, 40, 4), -100.0)
    x[:, :, 20] = 0.0
    valid = torch.ones(200, 4, dtype=torch.bool)
    seen = rf_views({"spectrogram": x, "clean": x}, valid, -300.0, generator_for(1, "views"))["clean"]
    power = 10 ** (seen[:, 0, :, 0] / 10)
    centre = (power * torch.arange(40)).sum(1) / power.sum(1)
    moved = centre - 20
    assert moved.abs().max() <= FREQUENCY_SHARE * 40 + 1e-3
    # Uniform within +-4 rows: the standard deviation is 4 / sqrt(3), to 4 standard errors of 200 draws.
    assert abs(float(moved.std()) - 4 / 3**0.5) < 0.5
    assert (moved - moved.round()).abs().max() > 0.4


def test_padding_stays_and_draws_come_from_the_generator() -> None:
    x, valid = noise_pictures(8)
    valid[3:, 10:] = False
    once, again = (rf_views({"spectrogram": x}, valid, -40.0, generator_for(5))["spectrogram"] for _ in range(2))
    assert torch.equal(once, again)
    assert torch.equal(once[3:, ..., 10:], x[3:, ..., 10:])
    assert not torch.equal(once[3:, ..., :10], x[3:, ..., :10])
