"""Merging an encoder's tokens, and the adapter behind it."""

import pytest
import torch

from lwm.errors import ConfigError
from lwm.hub import check_model, from_pretrained, save_pretrained
from lwm.language.adapter import RFAdapter
from lwm.language.llm import build_llm
from lwm.language.merge import RFMerge
from lwm.language.rfgpt import RFGPT
from lwm.language.tokenizer import ChatTokenizer
from lwm.models.encoder import build_encoder
from lwm.signal.recipe import recipe_named


def test_pixel_shuffle_keeps_every_token_of_a_cell_row_by_row() -> None:
    tokens = torch.randn(2, 8 * 6, 5)
    grid = tokens.reshape(2, 8, 6, 5)
    merge = RFMerge((8, 6), (4, 2), "pixel_shuffle")
    merged = merge(tokens)
    assert (merge.count, merge.factor, merge.cell) == (8, 6, (2, 3))
    assert merged.shape == (2, 8, 30)
    # Token 3 of the merged grid is row 1, column 1: rows 2 and 3, columns 3 to 5 of the encoder's.
    wanted = torch.cat([grid[:, row, column] for row in (2, 3) for column in (3, 4, 5)], dim=1)
    torch.testing.assert_close(merged[:, 3], wanted, rtol=0, atol=0)


def test_the_mean_of_a_shuffled_cell_is_the_mean() -> None:
    tokens = torch.randn(3, 8 * 4, 7)
    shuffled = RFMerge((8, 4), (2, 2), "pixel_shuffle")(tokens).unflatten(2, (8, 7))
    torch.testing.assert_close(shuffled.mean(2), RFMerge((8, 4), (2, 2), "mean")(tokens))


def test_none_leaves_every_token_and_derives_their_number() -> None:
    tokens = torch.randn(2, 12, 5)
    merge = RFMerge((3, 4), (2, 2), "none")
    assert (merge.count, merge.factor) == (12, 1)
    assert merge(tokens) is tokens


@pytest.mark.parametrize("kind", ["mean", "mean_spread", "pixel_shuffle", "none"])
@pytest.mark.parametrize("adapter", ["linear", "mlp"])
def test_every_kind_reports_its_tokens_and_goes_through_a_folder(tmp_path, kind: str, adapter: str) -> None:
    tower = build_encoder("tiny", recipe_named("small"), seed=1)
    chat = ChatTokenizer.train(["Which technology is this?"], 300)
    model = RFGPT(tower, build_llm("test", chat.vocab_size), chat, {}, (2, 4), kind, adapter=adapter).eval()
    x = torch.randn(2, 1, 64, 64)
    rf = model.encode(x)
    rows, columns = tower.grid_size
    assert model.rf_tokens == (rows * columns if kind == "none" else 8)
    assert rf.shape[:2] == (2, model.rf_tokens)
    assert chat.prompt("Why?", model.rf_tokens).count(chat.rf_id) == model.rf_tokens
    again = from_pretrained(save_pretrained(model, tmp_path / "model"))
    assert again.get_config() == model.get_config()
    torch.testing.assert_close(again.golden(x), model.golden(x))
    assert check_model(tmp_path / "model") == []


def test_the_adapter_standardises_and_projects() -> None:
    tokens = 5 + 3 * torch.randn(64, 4, 6)
    for kind in ("linear", "mlp"):
        adapter = RFAdapter(6, 8, kind)
        adapter.fit(tokens)
        flat = tokens.flatten(0, 1)
        torch.testing.assert_close(adapter.mean, flat.mean(0))
        torch.testing.assert_close(adapter.std, flat.std(0, correction=0))
        standard = (tokens - flat.mean(0)) / flat.std(0, correction=0)
        first = torch.nn.functional.linear(standard, adapter.layers[0].weight, adapter.layers[0].bias)
        if kind == "mlp":
            last = adapter.layers[2]
            first = torch.nn.functional.linear(torch.nn.functional.gelu(first), last.weight, last.bias)
        torch.testing.assert_close(adapter(tokens), first)
    with pytest.raises(ConfigError, match="adapter"):
        RFAdapter(6, 8, "deep")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="merge"):
        RFMerge((4, 4), (2, 2), "max")  # type: ignore[arg-type]


def test_a_tower_that_trains_gets_gradients_and_one_that_does_not_gets_none() -> None:
    tower = build_encoder("tiny", recipe_named("small"), seed=1)
    chat = ChatTokenizer.train(["Why?"], 300)
    model = RFGPT(tower, build_llm("test", chat.vocab_size), chat, {}, (2, 2)).train()
    x = torch.randn(1, 1, 64, 64)
    assert not model.encode(x).requires_grad
    assert not model.tower.training
    model.train_tower()
    assert model.tower.training
    model.encode(x).sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.tower.parameters())
    model.train_tower(False)
    assert not model.tower.training
    assert not model.encode(x).requires_grad
