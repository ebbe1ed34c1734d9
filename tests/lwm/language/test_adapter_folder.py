"""Pretrained language models: loading, low-rank updates, and the folder that names its base."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lwm.errors import ConfigError, ModelError
from lwm.hub import check_model, from_pretrained, golden_input, save_pretrained
from lwm.hub_weights import weights_sha256
from lwm.language.adapter_folder import base_sha256, save_adapter
from lwm.language.chat import Turn
from lwm.language.llm import LLM_SIZES, Loaded, build_llm, is_pretrained, llm_config, load_llm
from lwm.language.rfgpt import RFGPT
from lwm.models.encoder import build_encoder
from lwm.models.lora import is_lora
from lwm.signal.recipe import recipe_named

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QUESTIONS = ["Which technology is this?", "Why?", "Is the link that we see here downlink or uplink?"]
LORA = {"rank": 2, "alpha": 8, "dropout": 0.1, "targets": ["q_proj", "down_proj"]}


def write_llm(folder: Path, seed: int = 0) -> Path:
    """A language model's folder as transformers writes it: fresh weights, 8 more rows than tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([*QUESTIONS, "user assistant system"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = TEMPLATE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        llm = build_llm(LLM_SIZES["test"] | {"attention_bias": True}, len(tokenizer) + 8)
    llm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``llm`` and ``tower``."""
    root = tmp_path_factory.mktemp("base")
    write_llm(root / "llm")
    save_pretrained(build_encoder("tiny", recipe_named("small"), seed=1), root / "tower")
    return root


@pytest.fixture(scope="module")
def loaded(base: Path) -> Loaded:
    """The language model."""
    return load_llm(base / "llm")


def tuned(base: Path, **options: object) -> tuple[RFGPT, Loaded]:
    """RF-GPT with updates that are not zero, as after tuning."""
    loaded = load_llm(base / "llm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = RFGPT(from_pretrained(base / "tower"), loaded.llm, loaded.chat, {}, (2, 2), **{"lora": LORA, **options})
        for name, value in model.llm.named_parameters():
            if is_lora(name):
                torch.nn.init.normal_(value, std=0.2)
    return model.eval(), loaded


def pictures(model: RFGPT) -> torch.Tensor:
    """Two pictures in dB."""
    return torch.from_numpy(golden_input(model.recipe))


def test_a_pretrained_model_comes_with_its_weights_and_its_chat(base: Path, loaded: Loaded) -> None:
    assert is_pretrained(str(base / "llm"))
    assert not is_pretrained("tiny")
    assert not is_pretrained({"model_type": "qwen2"})
    assert loaded.source == (str(base / "llm"), weights_sha256(loaded.llm), "float32", None)
    assert not loaded.dequantised
    assert loaded.llm.config.vocab_size == loaded.chat.vocab_size + 8
    again = build_llm(json.loads(json.dumps(llm_config(loaded.llm))), loaded.chat.vocab_size)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in loaded.llm.state_dict().items()
    }


@pytest.mark.parametrize("missing", ["nowhere", "nowhere.gguf", "config.json", "model.safetensors", "tokenizer.json"])
def test_a_language_model_that_is_not_there_is_one_line(base: Path, tmp_path: Path, missing: str) -> None:
    folder = shutil.copytree(base / "llm", tmp_path / "llm")
    if (folder / missing).exists():
        (folder / missing).unlink()
        given = folder
    else:
        given = tmp_path / missing
    with pytest.raises(ModelError, match="language model") as caught:
        load_llm(given)
    assert "\n" not in str(caught.value)


def test_bfloat16_stays_bfloat16(base: Path, tmp_path: Path) -> None:
    loaded = load_llm(base / "llm", "bfloat16")
    assert loaded.llm.dtype == torch.bfloat16
    model = RFGPT(from_pretrained(base / "tower"), loaded.llm, loaded.chat, {}, (2, 2)).eval()
    answers = model.answer(pictures(model), QUESTIONS[:2], 6)
    folder = save_pretrained(model, tmp_path / "model")
    again = from_pretrained(folder)
    assert again.llm.dtype == torch.bfloat16
    assert again.adapter.layers[0].weight.dtype == torch.float32
    assert again.answer(pictures(model), QUESTIONS[:2], 6) == answers
    with pytest.raises(ConfigError, match="float16"):
        load_llm(base / "llm", "float16")  # type: ignore[arg-type]


def test_updates_alone_learn_and_stay_in_the_folder(base: Path, tmp_path: Path) -> None:
    model, _ = tuned(base)
    learning = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {name for name in learning if not name.startswith("adapter.")} == {
        name for name, _ in model.named_parameters() if is_lora(name)
    }
    assert len([name for name in learning if is_lora(name)]) == 2 * 2 * 2
    again = from_pretrained(save_pretrained(model, tmp_path / "whole"))
    assert again.lora == LORA
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
    assert check_model(tmp_path / "whole") == []


def test_merged_updates_give_the_same_logits(base: Path, tmp_path: Path) -> None:
    model, loaded = tuned(base)
    bare = RFGPT(model.tower, load_llm(base / "llm").llm, loaded.chat, {}, (2, 2)).eval()
    bare.adapter.load_state_dict(model.adapter.state_dict())
    with torch.no_grad():
        before, without = model.golden(pictures(model)), bare.golden(pictures(model))
        model.merge_lora()
        after = model.golden(pictures(model))
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    assert float((before - without).abs().max()) > 0.1
    assert model.get_config()["lora"] is None
    assert set(model.state_dict()) == set(bare.state_dict())
    assert check_model(save_pretrained(model, tmp_path / "merged")) == []
    with pytest.raises(ConfigError, match="without LoRA"):
        model.merge_lora()


@pytest.mark.parametrize(
    "wrong",
    [{"rank": 0}, {"rank": 2.0}, {"alpha": 0}, {"dropout": 1.0}, {"targets": ["nothing"]}, {"bias": "all"}],
    ids=str,
)
def test_updates_that_cannot_be_are_refused(base: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="LoRA"):
        tuned(base, lora=wrong)


def test_an_adapter_only_folder_is_small_and_finds_its_base(base: Path, tmp_path: Path) -> None:
    model, loaded = tuned(base)
    assert base_sha256(model.llm) == loaded.source.sha256
    folder = save_adapter(model, tmp_path / "part", loaded.source, base / "tower", {"seed": 3})
    whole = save_pretrained(model, tmp_path / "whole")
    assert (folder / "model.safetensors").stat().st_size < (whole / "model.safetensors").stat().st_size / 4
    again = from_pretrained(folder)
    assert again.answer(pictures(model), QUESTIONS[:2], 8) == model.answer(pictures(model), QUESTIONS[:2], 8)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
    assert check_model(folder) == []


def test_a_moved_base_is_found_where_it_is_said_to_be(base: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(base, tmp_path / "moved")
    model, loaded = tuned(moved)
    folder = save_adapter(model, tmp_path / "part", loaded.source, moved / "tower")
    shutil.rmtree(moved)
    with pytest.raises(ModelError, match=rf"llm {moved / 'llm'} of SHA-256 {loaded.source.sha256[:12]}.*llm=PATH"):
        from_pretrained(folder)
    with pytest.raises(ModelError, match=r"tower .* SHA-256 .*tower=PATH"):
        from_pretrained(folder, llm=base / "llm")
    again = from_pretrained(folder, llm=base / "llm", tower=base / "tower")
    torch.testing.assert_close(again.golden(pictures(model)), model.golden(pictures(model)))
    assert any("cannot be loaded" in problem for problem in check_model(folder))


def test_a_wrong_base_is_refused_with_both_named(base: Path, tmp_path: Path) -> None:
    model, loaded = tuned(base)
    folder = save_adapter(model, tmp_path / "part", loaded.source, base / "tower")
    other = load_llm(write_llm(tmp_path / "other", seed=9)).source.sha256
    with pytest.raises(ModelError, match=rf"{other[:12]}.*{loaded.source.sha256[:12]}"):
        from_pretrained(folder, llm=tmp_path / "other")
    tower = build_encoder("tiny", recipe_named("small"), seed=2)
    save_pretrained(tower, tmp_path / "tower")
    mine = weights_sha256(model.tower)
    with pytest.raises(ModelError, match=rf"tower .*{weights_sha256(tower)[:12]}.*{mine[:12]}"):
        from_pretrained(folder, tower=tmp_path / "tower")


def test_a_base_that_was_trained_itself_cannot_be_left_out(base: Path, tmp_path: Path) -> None:
    model, loaded = tuned(base, lora=None)
    with torch.no_grad():
        next(model.llm.parameters()).add_(1e-3)
    with pytest.raises(ModelError, match="language model.*not trained"):
        save_adapter(model, tmp_path / "part", loaded.source, base / "tower")
    model, loaded = tuned(base)
    with torch.no_grad():
        next(model.tower.parameters()).add_(1e-3)
    with pytest.raises(ModelError, match="tower.*not trained"):
        save_adapter(model, tmp_path / "part", loaded.source, base / "tower")


@pytest.mark.parametrize("change", [{"base": {}}, {"base": 3}, {"tokens": None}, {"lora": {"rank": 3}}], ids=str)
def test_an_adapter_folder_that_was_tampered_with_is_one_line(
    base: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    model, loaded = tuned(base)
    folder = save_adapter(model, tmp_path / "part", loaded.source, base / "tower")
    config = json.loads((folder / "config.json").read_text())
    config["model"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError):
        from_pretrained(folder)


def test_several_captures_take_their_places_in_order(base: Path) -> None:
    model, _ = tuned(base)
    with torch.no_grad():
        rf = model.encode(pictures(model))
        said = [Turn("user", "Why?", 2), Turn("assistant", "So."), Turn("user", "Which?", 1)]
        ids = torch.tensor([model.chat.prompt(said, model.rf_tokens)])
        embedded = model.embed(rf[[1, 0, 1]], ids)
        places = ids[0] == model.chat.rf_id
        torch.testing.assert_close(embedded[0, places], model.adapter(rf[[1, 0, 1]]).flatten(0, 1))
    by_number = model.generate(rf, [said, "Why?"], 6, captures=[[1, 0, 1], [0]])
    assert by_number.texts[0] == model.generate(rf[[1, 0, 1]], [said], 6, captures=[[0, 1, 2]]).texts[0]
    assert by_number.texts[1] == model.generate(rf[:1], ["Why?"], 6).texts[0]
    for wrong in ([[1, 0], [0]], [[1, 0, 2], [0]], [[1, 0, 1]], None):
        with pytest.raises(ConfigError, match="captures"):
            model.generate(rf, [said, "Why?"], 6, captures=wrong)
    alone = [Turn("user", "Why?")]
    assert len(model.generate(rf, [alone], 3, captures=[[]]).texts) == 1
