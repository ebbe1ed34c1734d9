"""Views keep what is in a picture and move where it is."""

import torch

from lwm.models.masking import generator_for
from lwm.tasks.augment import FREQUENCY_SHARE, shifted_views


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
