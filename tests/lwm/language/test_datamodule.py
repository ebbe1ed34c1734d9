"""Instruction batches."""

import pickle
from itertools import pairwise

import pytest
import torch

from lwm.errors import ConfigError, DatasetError
from lwm.language.batches import Encoded, collate, collate_packed, pack, require_trainable
from lwm.language.chat import IGNORED
from lwm.language.datamodule import InstructionDataModule, PlannedOrder


@pytest.fixture(scope="module")
def module(world) -> InstructionDataModule:
    """Set up with a stand-in for the tower: each sample's RF token is its mean level."""
    made = InstructionDataModule(str(world.data), batch_size=16, seed=3)
    made.setup("fit")
    made.prepare("fit", made.make_chat(), 1, 1024, lambda x: x.mean((2, 3))[..., None])
    return made


def test_batches_are_padded_at_the_right_and_labels_leave_padding_out() -> None:
    batch = collate([[5, 6, 7], [8]], [[IGNORED, 6, 7], [8]], pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_every_sample_comes_once_an_epoch_with_its_own_rf_token(module: InstructionDataModule) -> None:
    loader = module.train_dataloader()
    batches = list(loader)
    index = torch.cat([batch["index"] for batch in batches])
    tokens = module.rf_tokens("train")
    assert sorted(index.tolist()) == list(range(len(tokens)))
    for batch in batches:
        torch.testing.assert_close(batch["rf"], tokens[batch["index"]])
        assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
        places = (batch["input_ids"] == module.part("train").chat.rf_id).sum(1)
        assert places.tolist() == [1] * len(places)


def test_worker_processes_give_the_same_batches(world, module: InstructionDataModule) -> None:
    ours = list(module.train_dataloader())
    again = pickle.loads(pickle.dumps(module.part("train")))
    torch.testing.assert_close([again[(0, number)] for number in range(len(again))], ours)


def test_epochs_differ_and_can_be_drawn_again(module: InstructionDataModule) -> None:
    loader = module.train_dataloader()

    def epoch(number: int) -> list[list[int]]:
        loader.set_epoch(number)
        return [row for batch in loader for row in batch["input_ids"].tolist()]

    first = epoch(0)
    assert epoch(1) != first
    assert epoch(0) == first


def test_batches_hold_pairs_of_like_length(module: InstructionDataModule) -> None:
    batches = list(module.train_dataloader())
    waste = sum(int((batch["attention_mask"] == 0).sum()) for batch in batches)
    total = sum(batch["attention_mask"].numel() for batch in batches)
    assert waste / total < 0.1
    lengths = [batch["input_ids"].shape[1] for batch in batches]
    assert any(first > second for first, second in pairwise(lengths))


def test_the_limit_draws_samples(world) -> None:
    module = InstructionDataModule(str(world.data), limit=10)
    module.setup("fit")
    module.prepare("fit", module.make_chat(), 1, None, lambda x: x.mean((2, 3))[..., None])
    assert len(module.rf_tokens("train")) == len(module.rf_tokens("validation")) == 10


def test_what_is_not_ready_says_so(world) -> None:
    with pytest.raises(ConfigError, match="batch_size 0"):
        InstructionDataModule(str(world.data), batch_size=0)
    module = InstructionDataModule(str(world.data))
    module.setup("fit")
    with pytest.raises(DatasetError, match="no batches of split"):
        module.rf_tokens("train")


def test_labels_and_tokenizer_are_those_of_the_train_split(module: InstructionDataModule) -> None:
    assert module.labels["technology"] == ["alpha", "beta", "gamma"]
    assert module.labels["link"] == ["downlink", "uplink"]
    assert len(module.part("train").chat.encode("Which technology is this?")) <= 6


def test_the_answer_tokens_of_a_step_are_those_of_its_batches(module: InstructionDataModule) -> None:
    part = module.part("train")
    part.window = 4
    try:
        batches = [part[(1, number)] for number in range(len(part))]
    finally:
        part.window = 1
    counted = [int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches]
    for number, batch in enumerate(batches):
        first = number // 4 * 4
        assert batch["step"].tolist() == [sum(counted[first : first + 4]), 4]
        assert batch["place"].tolist() == [1, number]


def test_packed_rows_hold_every_conversation_once_beside_its_rf_token(world) -> None:
    made = InstructionDataModule(str(world.data), batch_size=16, seed=3, packed=120)
    made.setup("fit")
    made.prepare("fit", made.make_chat(), 1, 1024, lambda x: x.mean((2, 3))[..., None])
    part = made.part("train")
    batch, plan = part[(0, 0)], part.plan(0)[0][0]
    assert sorted(batch["index"].tolist()) == sorted(pair.row for pair in plan)
    assert batch["input_ids"].shape[1] <= 120
    assert len(batch["input_ids"]) < 16
    torch.testing.assert_close(batch["rf"], made.rf_tokens("train")[batch["index"]])
    wanted = {pair.row: pair for pair in plan}
    found = [
        batch["input_ids"][row][batch["segments"][row] == number]
        for row in range(len(batch["input_ids"]))
        for number in range(1, int(batch["segments"][row].max()) + 1)
    ]
    for ids, row in zip(found, batch["index"].tolist(), strict=True):
        assert ids.tolist() == wanted[row].ids


def test_packing_fills_rows_and_gives_a_long_conversation_one_of_its_own() -> None:
    pairs = [Encoded(row, [1] * length, [IGNORED] * (length - 1) + [1]) for row, length in enumerate((3, 9, 5, 5, 20))]
    rows = pack(pairs, 10)
    assert [[len(pair.ids) for pair in row] for row in rows] == [[20], [9], [5, 5], [3]]
    made = collate_packed(rows[2:], 0)
    assert made["position_ids"].tolist() == [[0, 1, 2, 3, 4] * 2, [0, 1, 2] + [0] * 7]
    assert made["segments"].tolist() == [[1] * 5 + [2] * 5, [1] * 3 + [0] * 7]


def test_processes_share_out_every_batch_and_stay_level() -> None:
    order = PlannedOrder(7)
    assert [list(order.walk(2, 0, rank, 2)) for rank in (0, 1)] == [[(2, 0), (2, 2), (2, 4)], [(2, 1), (2, 3), (2, 5)]]
    assert list(order.walk(2, 2, 1, 2)) == [(2, 5)]


def test_a_conversation_that_cannot_be_learned_from_is_refused() -> None:
    with pytest.raises(ConfigError, match="without a single labelled token"):
        require_trainable(Encoded(0, [1, 2], [IGNORED, IGNORED]), "pair 7", None)
    with pytest.raises(ConfigError, match="pair 7 of 3 tokens; expected at most 2, the language model's context"):
        require_trainable(Encoded(0, [1, 2, 3], [IGNORED, 2, 3]), "pair 7", 2)


def test_a_trained_tower_gets_the_pictures(world) -> None:
    made = InstructionDataModule(str(world.data), batch_size=4, limit=8)
    made.setup("fit")
    made.prepare("fit", made.make_chat(), 1, None, None)
    part = made.part("train")
    batch = part[(0, 0)]
    assert "rf" not in batch
    torch.testing.assert_close(batch["spectrogram"], part.data.batch(part.samples[batch["index"]])["spectrogram"])
    with pytest.raises(DatasetError, match="no RF tokens"):
        made.rf_tokens("train")
