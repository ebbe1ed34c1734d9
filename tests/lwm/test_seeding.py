"""Draws are named, not ordered."""

from lwm.seeding import rng_for


def test_a_draw_depends_on_its_name_only() -> None:
    first = rng_for(3, "train", "lte", 17).standard_normal(4)
    rng_for(3, "train", "lte", 16).standard_normal(100)
    assert (rng_for(3, "train", "lte", 17).standard_normal(4) == first).all()


def test_names_seeds_and_indices_differ() -> None:
    paths = [(3, "train", 1), (3, "train", 2), (3, "test", 1), (4, "train", 1), (3, "train", 1, 0)]
    draws = {rng_for(seed, *path).integers(2**62) for seed, *path in paths}
    assert len(draws) == len(paths)
