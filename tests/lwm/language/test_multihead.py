"""The multi-head ViT: it learns what there is to learn, and goes through the same scorer."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from lwm.data.dataset import SpectrogramDataset
from lwm.errors import ConfigError, DatasetError
from lwm.hub import from_pretrained, weights_sha256
from lwm.language.datamodule import label_values
from lwm.language.metrics import summary
from lwm.language.multihead import MOST_ANSWERS, MultiHeadAnswerer, MultiHeadViT, Targets, fit_multihead, targets_of
from lwm.language.questions import Question, questions_about
from lwm.language.score import ask_questions

KINDS = ("technology", "link", "padded")


def trained(world, epochs: int, frozen: bool = True, seed: int = 0) -> MultiHeadViT:
    """Heads on the world's tower."""
    train = SpectrogramDataset(world.data, "train")
    samples = np.arange(len(train))
    targets = targets_of(train, samples, KINDS, seed)
    torch.manual_seed(seed)
    model = MultiHeadViT(from_pretrained(world.tower), targets.answers, 32, frozen)
    losses = fit_multihead(model, train, samples, targets, epochs, 24, seed, learning_rate=5e-3)
    assert len(losses) == epochs
    assert losses[-1] < losses[0]
    return model


def accuracies(world, model: MultiHeadViT, kinds: Sequence[str] = KINDS) -> dict:
    """Summary on the test split."""
    test = SpectrogramDataset(world.data, "test")
    asked = questions_about(test, range(len(test)), kinds, 0)
    return summary(ask_questions(MultiHeadAnswerer(model), test, asked, label_values(test)), kinds)


def test_it_tells_held_out_captures_from_a_frozen_tower(world) -> None:
    model = trained(world, 20)
    found = accuracies(world, model)
    assert found["technology_accuracy"] >= 0.95 > found["technology_majority"] + 0.4
    assert found["padded_accuracy"] >= 0.95
    assert found["parse_failures"] == 0
    assert 0 <= found["ece"] <= 0.3
    assert weights_sha256(model.encoder) == weights_sha256(from_pretrained(world.tower))


def test_an_encoder_that_is_not_frozen_learns_too(world) -> None:
    model = trained(world, 2, frozen=False)
    assert weights_sha256(model.encoder) != weights_sha256(from_pretrained(world.tower))


def test_the_same_seed_gives_the_same_weights(world) -> None:
    first, again = (weights_sha256(trained(world, 2)) for _ in range(2))
    assert first == again


def test_targets_are_the_true_answers(world) -> None:
    train = SpectrogramDataset(world.data, "train")
    samples = np.array([5, 3, 11])
    targets = targets_of(train, samples, ("technology", "padded", "absence", "description"), 0)
    assert "description" not in targets.answers
    assert targets.rates.tolist() == [pytest.approx(7.68e6)] * 3
    place = list(targets.answers).index("technology")
    told = [targets.answers["technology"][int(code)] for code in targets.codes[:, place]]
    assert told == [train.record(int(sample))["technology"] for sample in samples]
    # Each sample is asked about one technology's absence: the other heads do not know its answer.
    absent = [number for number, topic in enumerate(targets.answers) if topic.startswith("absence ")]
    assert ((targets.codes[:, absent] >= 0).sum(1) == 1).all()
    assert all(len(values) <= MOST_ANSWERS for values in targets.answers.values())


def test_a_loss_of_unknown_answers_is_zero_and_known_ones_count_alone(world) -> None:
    model = MultiHeadViT(from_pretrained(world.tower), {"link": ["a", "b"], "snr": ["0 dB", "5 dB", "10 dB"]})
    logits = {"link": torch.tensor([[2.0, 0.0], [0.0, 0.0]]), "snr": torch.zeros(2, 3)}
    assert float(model.loss(logits, torch.full((2, 2), -1))) == 0
    known = model.loss(logits, torch.tensor([[0, -1], [-1, -1]]))
    assert float(known) == pytest.approx(float(np.log1p(np.exp(-2.0))))
    both = model.loss(logits, torch.tensor([[0, 1], [-1, -1]]))
    assert float(both) == pytest.approx((float(known) + float(np.log(3))) / 2)


def test_what_it_has_no_head_for_is_not_answered(world) -> None:
    model = MultiHeadViT(from_pretrained(world.tower), {"link": ["downlink", "uplink"]})
    x = SpectrogramDataset(world.data, "test").batch([0])["spectrogram"]
    found = MultiHeadAnswerer(model)(x, [Question(0, "users", "How many users?", "users")])
    assert (found.texts, found.confidences) == ([""], [0.0])


def test_nothing_to_learn_is_refused(world) -> None:
    tower = from_pretrained(world.tower)
    with pytest.raises(ConfigError, match="no kind"):
        MultiHeadViT(tower, {})
    train = SpectrogramDataset(world.data, "train")
    targets = targets_of(train, np.array([0]), KINDS, 0)
    with pytest.raises(DatasetError, match="1 samples"):
        fit_multihead(MultiHeadViT(tower, targets.answers), train, np.array([0]), targets, 1, 8, 0)


def test_rare_answers_weigh_as_much_as_common_ones_and_labels_are_counted() -> None:
    codes = torch.tensor([[0, -1], [0, 0], [0, -1], [1, 0]])
    targets = Targets(codes, {"link": ["a", "b"], "snr": ["0 dB"]}, torch.ones(4))
    assert targets.labels() == {"link": 4, "snr": 2}
    weights = targets.weights()
    assert weights["link"].tolist() == pytest.approx([4 / 6, 2.0])
    assert weights["snr"].tolist() == [1.0]
    loss = torch.nn.functional.cross_entropy(torch.zeros(4, 2), codes[:, 0], weights["link"], reduction="none")
    assert float(loss[:3].sum()) == pytest.approx(float(loss[3]))
