"""Reconstruction accuracy against loops over squares."""

import pytest
import torch

from lwm.models.encoder import patchify
from lwm.tasks.occupancy import occupied_cells, on_all_patches


@pytest.mark.parametrize("patch", [4, 8])
def test_squares_are_compared_one_by_one(patch: int) -> None:
    generator = torch.Generator().manual_seed(0)
    truth, guess = (torch.randn(3, 1, 16, 32, generator=generator) for _ in range(2))
    valid = torch.arange(32) < torch.tensor([32, 18, 8])[:, None]
    grid = (16 // patch, 32 // patch)
    mask = torch.rand(3, grid[0] * grid[1], generator=generator) < 0.6
    patches = [patchify(x, patch) for x in (guess, truth)]
    found = occupied_cells(patches[0], patches[1], mask, valid, patch, grid)
    expected: list[tuple[int, int]] = []
    for sample in range(3):
        real = truth[sample, 0][:, valid[sample]]
        threshold = float(real.mean() + 0.5 * real.std(correction=0))
        for row in range(0, 16, 4):
            for column in range(0, 32, 4):
                hidden = mask[sample, row // patch * grid[1] + column // patch]
                if hidden and valid[sample, column : column + 4].all():
                    square = (sample, 0, slice(row, row + 4), slice(column, column + 4))
                    expected.append((int(guess[square].mean() > threshold), int(truth[square].mean() > threshold)))
    assert list(zip(found[0].tolist(), found[1].tolist(), strict=True)) == expected
    assert {pair[0] for pair in expected} == {pair[1] for pair in expected} == {0, 1}


def test_predictions_of_some_patches_are_put_among_the_others() -> None:
    target = torch.arange(12.0).reshape(1, 6, 2)
    index = torch.tensor([[1, 4]])
    full = on_all_patches(torch.full((1, 2, 2), -1.0), index, target)
    assert (full[0, [1, 4]] == -1).all()
    assert torch.equal(full[0, [0, 2, 3, 5]], target[0, [0, 2, 3, 5]])
    assert on_all_patches(target, None, target) is target
