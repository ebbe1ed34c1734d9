"""The loss computes the answers' logits only, and packing and padding change nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lwm.errors import DatasetError
from lwm.language.batches import Encoded, collate, collate_packed, pack
from lwm.language.rfgpt import RFGPT
from lwm.language.tokenizer import ChatTokenizer
from lwm.models.encoder import build_encoder
from lwm.signal.recipe import recipe_named
from lwm.tasks.instruct_loss import answer_loss, block_causal, logits_at

TEXTS = [
    ("Which technology is this?", "alpha"),
    ("Describe the capture, please, and do not leave anything out.", "a longer answer, in words"),
    ("SNR?", "20 dB"),
    ("Link?", "downlink"),
    ("What is not there, if you look at the whole band?", "beta"),
]
FAMILIES = {
    "qwen2": {},
    "llama": {"tie_word_embeddings": False},
    # Logits are squashed after the output layer: what is around it must still happen.
    "gemma2": {"final_logit_softcapping": 3.0, "head_dim": 16},
}


def model_of(family: str = "qwen2") -> RFGPT:
    """A tiny RF-GPT of a family, weights drawn by a seed."""
    torch.manual_seed(0)
    chat = ChatTokenizer.train([text for pair in TEXTS for text in pair], 300)
    llm = {
        "model_type": family,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
    } | FAMILIES[family]
    shape = {"labels": {}, "tokens": [2, 2], "merge": "mean", "layer": None, "adapter": "linear"}
    tower = build_encoder("tiny", recipe_named("small"), seed=0)
    model = RFGPT.build(tower, {"llm": llm, "chat": chat.get_config()} | shape).train()
    if family == "gemma2":
        model.llm.set_attn_implementation("eager")
    return model


def pairs_of(model: RFGPT) -> list[Encoded]:
    return [Encoded(row, *model.chat.pair(*text, model.rf_tokens)) for row, text in enumerate(TEXTS)]


def padded(model: RFGPT) -> dict[str, Tensor]:
    pairs = pairs_of(model)
    return collate([pair.ids for pair in pairs], [pair.labels for pair in pairs], model.chat.pad_id)


def plain_loss(model: RFGPT, rf: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The way of every tutorial: all logits, the padding masked, shifted labels."""
    logits = model(rf, batch["input_ids"], batch["attention_mask"])
    return cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )


def gradients(model: RFGPT, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert len(ours) > 10
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_all_logits(family: str) -> None:
    model = model_of(family)
    rf, batch = torch.randn(5, 4, model.tower.num_features), padded(model)
    ours, wanted = answer_loss(model, rf, batch), plain_loss(model, rf, batch)
    assert ours.tokens == sum(len(model.chat.encode(answer)) + 1 for _, answer in TEXTS)
    torch.testing.assert_close(ours.total, wanted, rtol=1e-5, atol=1e-4)
    same(gradients(model, ours.total), gradients(model, wanted))


def test_the_output_layer_sees_answer_tokens_only_and_is_as_before_afterwards() -> None:
    model, seen = model_of(), []
    head: Any = model.llm.get_output_embeddings()
    head.register_forward_hook(lambda _, given, out: seen.append(out.shape))
    rf, batch = torch.randn(5, 4, model.tower.num_features), padded(model)
    tokens = answer_loss(model, rf, batch).tokens
    assert list(seen[0]) == [1, tokens, model.llm.config.vocab_size]
    assert model(rf, batch["input_ids"], batch["attention_mask"]).shape[:2] == batch["input_ids"].shape


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_conversations_have_the_logits_of_single_ones(family: str) -> None:
    model = model_of(family).eval()
    pairs, rf = pairs_of(model), torch.randn(5, 4, model.tower.num_features)
    rows = pack(pairs, 2 * max(len(pair.ids) for pair in pairs))
    assert len(rows) < len(pairs)
    packed = collate_packed(rows, model.chat.pad_id)
    order = [pair.row for row in rows for pair in row]
    segments = packed["segments"]
    inside = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    with torch.no_grad():
        found = logits_at(model, rf[order], packed, inside)
        alone = []
        for pair in (pairs[number] for number in order):
            ids = torch.tensor([pair.ids])
            alone.append(model(rf[pair.row : pair.row + 1], ids, torch.ones_like(ids))[0, :-1])
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_packed_loss_and_gradients_are_those_of_padded_rows() -> None:
    model = model_of()
    pairs, rf = pairs_of(model), torch.randn(5, 4, model.tower.num_features)
    rows = pack(pairs, 100)
    order = [pair.row for row in rows for pair in row]
    ours = answer_loss(model, rf[order], collate_packed(rows, model.chat.pad_id))
    theirs = answer_loss(model, rf, padded(model))
    assert ours.tokens == theirs.tokens
    torch.testing.assert_close(ours.total, theirs.total, rtol=1e-5, atol=1e-4)
    same(gradients(model, ours.total), gradients(model, theirs.total))


def test_a_token_looks_at_its_own_conversation_up_to_itself() -> None:
    allowed = block_causal(torch.tensor([[1, 1, 2, 0]]))[0, 0].int().tolist()
    assert allowed == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_a_batch_without_labels_is_an_error_not_a_zero() -> None:
    model = model_of()
    batch = padded(model)
    batch["labels"] = torch.full_like(batch["labels"], -100)
    with pytest.raises(DatasetError, match="without a single answer token"):
        answer_loss(model, torch.randn(5, 4, model.tower.num_features), batch)
