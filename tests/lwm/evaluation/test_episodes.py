"""Episodes: seeded, stratified, disjoint, independent of order."""

from dataclasses import replace

import numpy as np
import pytest

from lwm.errors import ConfigError, DatasetError
from lwm.evaluation.episodes import EpisodeDraw, Samples, content_key, join_labels
from lwm.evaluation.task import FewShotTask

TASK = FewShotTask(name="t", labels=("a",), k=(2, 5), episodes=3, test_per_class=7, test_channels=0.35)


def samples(count: int = 240, classes: int = 3, channels: int = 20, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    codes = np.arange(count) % classes
    channel = rng.integers(channels, size=count)
    keys = np.array([content_key(bytes([i % 256, i // 256])) for i in range(count)])
    return Samples([f"c{i}" for i in range(classes)], codes, np.array([f"x{i}" for i in channel]), keys)


def reordered(given: Samples, order: np.ndarray) -> Samples:
    return Samples(given.classes, given.codes[order], given.channels[order], given.keys[order])


def test_same_seed_same_episodes_and_other_seed_others() -> None:
    given = samples()
    first, again, other = (EpisodeDraw(given, TASK, seed) for seed in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.train, b.train)
        assert np.array_equal(a.validation, b.validation)
        assert np.array_equal(a.test, b.test)
    assert not np.array_equal(first.episode(5, 0).train, other.episode(5, 0).train)
    assert not np.array_equal(first.episode(5, 0).train, first.episode(5, 1).train)


def test_no_sample_in_two_parts_and_no_channel_on_both_sides() -> None:
    given = samples()
    draw = EpisodeDraw(given, TASK, 0)
    for episode in draw:
        parts = [episode.train, episode.validation, episode.test]
        joined = np.concatenate(parts)
        assert len(np.unique(joined)) == len(joined)
        support = set(given.channels[np.concatenate(parts[:2])])
        assert not support & set(given.channels[episode.test])
        assert set(given.channels[episode.test]) <= draw.test_channels


def test_parts_are_stratified_and_k_is_nested() -> None:
    given = samples()
    draw = EpisodeDraw(given, TASK, 0)
    small, large = draw.episode(2, 1), draw.episode(5, 1)
    assert np.bincount(given.codes[small.train]).tolist() == [2] * 3
    assert np.bincount(given.codes[large.train]).tolist() == [5] * 3
    assert np.bincount(given.codes[large.validation]).tolist() == [TASK.validation_per_class(5)] * 3
    assert np.bincount(given.codes[large.test]).tolist() == [7] * 3
    assert set(small.train) <= set(large.train)


def test_order_of_samples_does_not_matter() -> None:
    given = samples()
    order = np.random.default_rng(3).permutation(len(given.codes))
    mixed = reordered(given, order)
    for a, b in zip(EpisodeDraw(given, TASK, 0), EpisodeDraw(mixed, TASK, 0), strict=True):
        for mine, theirs in ((a.train, b.train), (a.validation, b.validation), (a.test, b.test)):
            assert np.array_equal(given.keys[mine], mixed.keys[theirs])


def test_order_of_classes_does_not_matter() -> None:
    given = samples()
    turned = replace(given, classes=given.classes[::-1], codes=2 - given.codes)
    a, b = EpisodeDraw(given, TASK, 0), EpisodeDraw(turned, TASK, 0)
    assert a.test_channels == b.test_channels
    assert set(a.episode(5, 2).train) == set(b.episode(5, 2).train)
    assert set(a.test) == set(b.test)


def test_share_of_test_channels_holds_in_every_class_even_where_a_channel_has_one_class() -> None:
    channels = np.repeat(np.arange(30), 8)
    given = replace(samples(240), codes=channels % 3, channels=channels.astype(str))
    draw = EpisodeDraw(given, TASK, 4)
    is_test = np.isin(given.channels, sorted(draw.test_channels))
    shares = [is_test[given.codes == code].mean() for code in range(3)]
    assert np.allclose(shares, TASK.test_channels, atol=0.11)


def test_too_few_samples_name_the_class_and_the_number() -> None:
    with pytest.raises(DatasetError, match=r"class 'c0' has \d+ samples to learn from.*75 and 1 for k = 60"):
        EpisodeDraw(samples(), replace(TASK, k=(60,)), 0)


def test_one_channel_or_one_class_or_negative_seed_is_refused() -> None:
    one = replace(samples(), channels=np.array(["x"] * 240))
    with pytest.raises(DatasetError, match="1 channel draw"):
        EpisodeDraw(one, TASK, 0)
    with pytest.raises(DatasetError, match="at least two"):
        EpisodeDraw(samples(classes=1), TASK, 0)
    with pytest.raises(ConfigError, match="seed -1"):
        EpisodeDraw(samples(), TASK, -1)


def test_joined_labels_are_in_natural_order() -> None:
    names, codes = join_labels([np.array(["10", "-5", "5", "10"]), np.array(["b", "a", "a", "a"])])
    assert names == ["-5 a", "5 a", "10 a", "10 b"]
    assert codes.tolist() == [3, 0, 1, 2]
