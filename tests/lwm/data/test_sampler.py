"""Orders: every sample once, seeds, shares, balance, groups, ranks."""

import numpy as np
import pytest

from lwm.data import sampler
from lwm.data.sampler import PlainOrder, Pool, ShuffledOrder
from lwm.errors import ConfigError


def _pool(size: int, chunk: int = 4, first: int = 0, name: str = "all") -> Pool:
    return Pool(name, np.arange(first, first + size), np.arange(size) // chunk)


def _epoch(order: ShuffledOrder | PlainOrder, epoch: int, rank: int = 0, world: int = 1) -> list[list[int]]:
    return [batch.tolist() for batch in order.walk(epoch, 0, rank, world)]


def _flat(batches: list[list[int]]) -> list[int]:
    return [i for batch in batches for i in batch]


@pytest.mark.parametrize("window", [8192, 50])
def test_an_epoch_holds_every_sample_once(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr(sampler, "WINDOW", window)
    order = ShuffledOrder([_pool(240)], 12, seed=3)
    epochs = [_flat(_epoch(order, epoch)) for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(240))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[1] == _flat(_epoch(ShuffledOrder([_pool(240)], 12, seed=3), 1))
    assert epochs[1] != _flat(_epoch(ShuffledOrder([_pool(240)], 12, seed=4), 1))


def test_windows_mix_whole_chunks_of_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "WINDOW", 64)
    order = np.array(_flat(_epoch(ShuffledOrder([_pool(1024, chunk=8)], 64, seed=0), 0)))
    for window in order.reshape(16, 64):
        chunks, sizes = np.unique(window // 8, return_counts=True)
        assert (sizes == 8).all()
        # Eight chunks drawn of 128: their mean number is 63.5 with a standard error of 12.7; five of those.
        assert abs(chunks.mean() - 63.5) < 64
        assert not np.array_equal(np.sort(window), window)
    assert np.std(order.reshape(16, 64).mean(1)) < 5 * 1024 / np.sqrt(12 * 8)


def test_the_rest_is_left_out_unless_it_is_all() -> None:
    assert [len(b) for b in _epoch(ShuffledOrder([_pool(14)], 4, 0), 0)] == [4, 4, 4]
    assert [len(b) for b in _epoch(ShuffledOrder([_pool(3)], 4, 0), 0)] == [3]


def test_shares_are_kept_to_within_one_sample_and_no_sample_comes_twice_too_often() -> None:
    pools = [_pool(100, name="a"), _pool(900, first=100, name="b")]
    order = ShuffledOrder(pools, 50, seed=1, shares=[3, 1])
    seen = np.zeros(1000, int)
    for epoch in range(4):
        indices = np.array(_flat(_epoch(order, epoch)))
        assert abs((indices < 100).sum() - 750) <= 1
        seen += np.bincount(indices, minlength=1000)
        # A batch is drawn without replacement from the epoch: hypergeometric, standard deviation below 3.1 of 50.
        per_batch = (indices.reshape(-1, 50) < 100).sum(1)
        assert np.abs(per_batch - 37.5).max() < 5 * 3.1
    assert np.ptp(seen[:100]) <= 1
    assert seen[100:].tolist().count(1) == 900 - (seen[100:] == 2).sum()
    assert seen[100:].sum() == 1000


def test_even_batches_hold_each_class_alike() -> None:
    sizes, first, pools = (100, 10, 40), 0, []
    for number, size in enumerate(sizes):
        pools.append(_pool(size, first=first, name=str(number)))
        first += size
    order = ShuffledOrder(pools, 16, seed=0, even=True)
    batches = _epoch(order, 2)
    assert len(batches) == 150 // 16
    for batch in batches:
        counts = np.bincount(np.searchsorted([100, 110], batch, side="right"), minlength=3)
        assert np.ptp(counts) <= 1
        assert counts.sum() == 16


def test_grouped_batches_hold_one_group_and_lose_only_rests() -> None:
    groups = np.random.default_rng(0).integers(0, 3, 200)
    order = ShuffledOrder([_pool(200)], 16, seed=0, groups=groups)
    batches = _epoch(order, 1)
    assert len(batches) == sum(count // 16 for count in np.bincount(groups)) == order.total
    assert all(len(set(groups[batch])) == 1 and len(batch) == 16 for batch in batches)
    flat = _flat(batches)
    assert len(set(flat)) == len(flat)
    kinds = [int(groups[batch[0]]) for batch in batches]
    assert kinds != sorted(kinds)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_one_order(world: int) -> None:
    order = ShuffledOrder([_pool(170)], 8, seed=5)
    alone = _epoch(order, 1)
    parts = [_epoch(order, 1, rank, world) for rank in range(world)]
    assert {len(part) for part in parts} == {21 // world}
    woven = [part[step] for step in range(21 // world) for part in parts]
    assert woven == alone[: len(woven)]


@pytest.mark.parametrize(("size", "batch", "world"), [(20, 8, 1), (20, 8, 2), (17, 4, 3), (5, 8, 4)])
def test_plain_order_gives_every_sample_to_one_rank(size: int, batch: int, world: int) -> None:
    order = PlainOrder(size, batch, world)
    parts = [_epoch(order, 0, rank, world) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    assert sorted(_flat([b for part in parts for b in part])) == list(range(size))
    assert all(0 < len(b) <= batch for part in parts for b in part)
    if world == 1:
        assert [len(b) for b in parts[0]] == [8, 8, 4]


def test_fewer_samples_than_ranks_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 samples for 4 processes"):
        PlainOrder(3, 8, 4)
