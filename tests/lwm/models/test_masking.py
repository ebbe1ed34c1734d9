"""Masks: exact counts, shapes, seeds, and which cells a loss may count."""

import pytest
import torch

from lwm.errors import ConfigError
from lwm.models.encoder import patchify
from lwm.models.masking import (
    MaskKind,
    cell_weight,
    draw_mask,
    generator_for,
    masked_count,
    visible_index,
    weighted_mse,
)

KINDS: list[MaskKind] = ["random", "block", "time", "frequency"]


def draw(kind: MaskKind, grid: tuple[int, int] = (16, 16), ratio: float = 0.75, seed: int = 0) -> torch.Tensor:
    return draw_mask(kind, grid, ratio, 8, generator_for(seed, "mask"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.7, 0.75, 0.95])
def test_every_mask_hides_the_exact_number(kind: MaskKind, ratio: float) -> None:
    for grid in ((16, 16), (8, 4), (5, 7)):
        mask = draw(kind, grid, ratio)
        assert mask.shape == (8, grid[0] * grid[1])
        assert set(mask.sum(1).tolist()) == {masked_count(grid[0] * grid[1], ratio)}


@pytest.mark.parametrize("kind", KINDS)
def test_seed_decides_and_samples_differ(kind: MaskKind) -> None:
    assert torch.equal(draw(kind), draw(kind))
    assert not torch.equal(draw(kind), draw(kind, seed=1))
    assert len(torch.unique(draw(kind), dim=0)) > 1


def test_strips_are_whole_rows_and_columns() -> None:
    columns = draw("time").reshape(8, 16, 16)
    assert (columns.all(1).sum(1) == 12).all()
    assert (columns.any(1).sum(1) == 12).all()
    rows = draw("frequency").reshape(8, 16, 16)
    assert (rows.all(2).sum(1) == 12).all()


def test_blocks_hang_together() -> None:
    def alike_neighbours(mask: torch.Tensor) -> float:
        grid = mask.reshape(8, 16, 16)
        return (grid[:, :, 1:] == grid[:, :, :-1]).float().mean().item()

    assert alike_neighbours(draw("block", ratio=0.5)) > alike_neighbours(draw("random", ratio=0.5)) + 0.2


def test_every_patch_is_hidden_about_as_often() -> None:
    mask = draw_mask("random", (8, 8), 0.75, 4000, generator_for(0))
    # Four standard deviations of a binomial share of 4000 draws.
    assert (mask.float().mean(0) - 0.75).abs().max() < 4 * (0.75 * 0.25 / 4000) ** 0.5


def test_visible_index_is_the_complement() -> None:
    mask = draw("random")
    index = visible_index(mask)
    assert index.shape == (8, 64)
    assert not mask.gather(1, index).any()
    assert (index.diff(dim=1) > 0).all()


def test_padded_columns_weigh_nothing() -> None:
    valid = torch.arange(64) < torch.tensor([[64], [22]])
    weight = cell_weight(torch.ones(2, 16, dtype=torch.bool), valid, 16, 1, (4, 4))
    expected = patchify(valid[:, None, None, :].expand(-1, 1, 64, -1).float(), 16)
    torch.testing.assert_close(weight, expected)
    none = cell_weight(torch.zeros(2, 16, dtype=torch.bool), valid, 16, 1, (4, 4))
    assert none.sum() == 0


def test_weighted_error_is_a_mean_over_what_counts() -> None:
    weight = torch.tensor([[[1.0, 0.0, 1.0]]])
    prediction, target = torch.tensor([[[1.0, 9.0, 2.0]]]), torch.zeros(1, 1, 3)
    assert weighted_mse(prediction, target, weight).item() == pytest.approx(2.5)
    assert weighted_mse(prediction, target, weight * 0).item() == 0


def test_refusals() -> None:
    for ratio in (0.0, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="mask ratio"):
            masked_count(16, ratio)
    with pytest.raises(ConfigError, match=r"0\.99 hides 16 of 16"):
        masked_count(16, 0.99)
    with pytest.raises(ConfigError, match="'stripes'.*block"):
        draw("stripes")  # type: ignore[arg-type]
