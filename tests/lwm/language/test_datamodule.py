"""Instruction batches."""

import pickle
from itertools import pairwise

import pytest
import torch

from lwm.errors import ConfigError, DatasetError
from lwm.language.datamodule import EpochSampler, InstructionDataModule, collate
from lwm.language.tokenizer import IGNORED


@pytest.fixture(scope="module")
def module(world) -> InstructionDataModule:
    """Set up with a stand-in for the tower: each sample's RF token is its mean level."""
    made = InstructionDataModule(str(world.data), batch_size=16, seed=3)
    made.setup("fit")
    made.encode("fit", lambda x: x.mean((2, 3))[..., None], 1)
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
        places = (batch["input_ids"] == module.tokenizer.rf_id).sum(1)
        assert places.tolist() == [1] * len(places)


def test_worker_processes_give_the_same_batches(world, module: InstructionDataModule) -> None:
    ours = list(module.train_dataloader())
    again = pickle.loads(pickle.dumps(module.train_dataloader().dataset))
    torch.testing.assert_close([again[(0, number)] for number in range(len(again))], ours)


def test_epochs_differ_and_can_be_drawn_again(module: InstructionDataModule) -> None:
    loader = module.train_dataloader()
    assert isinstance(loader.sampler, EpochSampler)

    def epoch(number: int) -> list[list[int]]:
        loader.sampler.set_epoch(number)
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
    module.encode("fit", lambda x: x.mean((2, 3))[..., None], 1)
    assert len(module.rf_tokens("train")) == len(module.rf_tokens("validation")) == 10


def test_what_is_not_ready_says_so(world) -> None:
    with pytest.raises(ConfigError, match="batch_size 0"):
        InstructionDataModule(str(world.data), batch_size=0)
    module = InstructionDataModule(str(world.data))
    module.setup("fit")
    with pytest.raises(DatasetError, match="RF tokens"):
        module.rf_tokens("train")


def test_labels_and_tokenizer_are_those_of_the_train_split(module: InstructionDataModule) -> None:
    assert module.labels["technology"] == ["alpha", "beta", "gamma"]
    assert module.labels["link"] == ["downlink", "uplink"]
    assert len(module.tokenizer.encode("Which technology is this?")) <= 6
