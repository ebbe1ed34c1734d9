"""RF-GPT behind transformers: answers, training, peft and folders are RF-GPT's own."""

import json
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, TextIteratorStreamer

import lwm.hf
from lwm.errors import ConfigError, ModelError
from lwm.hub import check_model, from_pretrained, save_pretrained
from lwm.language.chat import IGNORED, Turn
from lwm.language.llm import build_llm
from lwm.language.rfgpt import RFGPT
from lwm.language.tokenizer import ChatTokenizer
from lwm.seeding import rng_for
from lwm.signal.capture import Capture
from lwm.signal.recipe import Recipe

QUESTIONS = ["Which technology is this?", "Sampled at 7.68 MHz. Is this downlink or uplink?", "What is the SNR?"]
TWO = [Turn("user", "Which of the two is louder?", 2)]
NEW = 12


@pytest.fixture(scope="module")
def model(encoder: Any) -> RFGPT:
    """With fresh weights spread widely enough that answers differ."""
    chat = ChatTokenizer.train([*QUESTIONS, TWO[0].text, "LTE downlink, 20 dB"] * 3, 300)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        llm = build_llm("test", chat.vocab_size)
        return RFGPT(encoder, llm, chat, {"technology": ["LTE"]}, (2, 4)).eval()


@pytest.fixture(scope="module")
def folder(model: RFGPT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pretrained(model, tmp_path_factory.mktemp("rfgpt") / "model")


@pytest.fixture(scope="module")
def wrapped(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder)


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def captures(recipe: Recipe) -> list[Capture]:
    """Noise, and noise beside tones."""
    rng = rng_for(5, "hf")
    rate = 1e6
    count = recipe.window_samples(rate)
    noise = (rng.normal(size=(3, count)) + 1j * rng.normal(size=(3, count))).astype(np.complex64)
    tones = np.exp(2j * np.pi * np.array([[0.0], [1e5], [-3e5]]) / rate * np.arange(count))
    return [
        Capture((part + 5 * n * tone).astype(np.complex64), rate)
        for n, (part, tone) in enumerate(zip(noise, tones, strict=True))
    ]


@pytest.fixture(scope="module")
def pictures(captures: list[Capture], recipe: Recipe) -> torch.Tensor:
    return torch.cat([recipe.of_capture(capture).db for capture in captures])


def generated(wrapped: Any, given: Any, **options: Any) -> torch.Tensor:
    made = wrapped.generate(**given, max_new_tokens=NEW, do_sample=False, **options)
    return made[:, given["input_ids"].shape[1] :]


def test_the_auto_classes_find_it(folder: Path, wrapped: Any, processor: Any, model: RFGPT) -> None:
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, lwm.hf.RFGPTConfig)
    assert isinstance(wrapped, lwm.hf.RFGPTForConditionalGeneration)
    assert isinstance(processor, lwm.hf.RFGPTProcessor)
    assert config.rf_tokens == model.rf_tokens == processor.rf_tokens == 8
    assert config.get_text_config().num_hidden_layers == 2
    own = model.state_dict()
    assert wrapped.rfgpt.state_dict().keys() == own.keys()
    assert all(torch.equal(value, own[name]) for name, value in wrapped.rfgpt.state_dict().items())


def test_batched_answers_are_rfgpts(
    wrapped: Any, processor: Any, model: RFGPT, captures: list[Capture], pictures: torch.Tensor
) -> None:
    prompts = [QUESTIONS[0], TWO, QUESTIONS[1]]
    shown = [[0], [1, 2], [0]]
    given = processor(prompts, [captures[i] for row in shown for i in row])
    assert torch.equal(given["pixel_values"], pictures[[0, 1, 2, 0]])
    assert not given["attention_mask"].all()
    found = processor.batch_decode(generated(wrapped, given))
    expected = model.generate(model.encode(pictures), prompts, NEW, captures=shown)
    assert found == expected.texts
    assert len(set(found)) == 3


def test_a_cache_changes_nothing_and_pictures_are_encoded_once(
    wrapped: Any, processor: Any, captures: list[Capture], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = processor(QUESTIONS[:2], captures[:2])
    calls: list[int] = []
    encode = wrapped.rfgpt.encode
    monkeypatch.setattr(wrapped.rfgpt, "encode", lambda x: calls.append(len(x)) or encode(x))
    cached = generated(wrapped, given)
    assert calls == [2]
    assert torch.equal(generated(wrapped, given, use_cache=False), cached)
    assert len(calls) == 1 + cached.shape[1]


def test_the_streamed_text_is_the_answer(wrapped: Any, processor: Any, captures: list[Capture]) -> None:
    given = processor(QUESTIONS[0], captures[1])
    whole = processor.decode(generated(wrapped, given)[0])
    streamer = TextIteratorStreamer(processor, skip_prompt=True, timeout=60)
    thread = Thread(target=generated, args=(wrapped, given), kwargs={"streamer": streamer})
    thread.start()
    assert "".join(streamer) == whole
    thread.join()


def test_several_answers_keep_a_prompts_pictures_together(
    wrapped: Any, processor: Any, captures: list[Capture]
) -> None:
    given = processor([TWO, QUESTIONS[0]], captures)
    beams = generated(wrapped, given, num_beams=2, num_return_sequences=2)
    alone = [
        generated(wrapped, processor(*part), num_beams=2, num_return_sequences=2)
        for part in ((TWO, captures[:2]), (QUESTIONS[0], captures[2]))
    ]
    expected = [text for part in alone for text in processor.batch_decode(part)]
    assert processor.batch_decode(beams) == expected


def test_messages_and_sources_of_every_kind(processor: Any, captures: list[Capture], pictures: torch.Tensor) -> None:
    plain = processor(QUESTIONS[0], captures[0])
    sources = [captures[0], pictures[0], pictures[0, 0].numpy()]
    for source in sources:
        message = {"role": "user", "content": [{"type": "capture", "capture": source}, _text(QUESTIONS[0])]}
        found = processor.apply_chat_template([message], return_dict=True)
        assert all(torch.equal(found[name], plain[name]) for name in plain)
    iq = processor(QUESTIONS[0], captures[0].iq, sample_rate=captures[0].sample_rate)
    assert torch.equal(iq["pixel_values"], plain["pixel_values"])
    with pytest.raises(ConfigError, match="show 1"):
        processor(QUESTIONS[0], captures)
    with pytest.raises(ConfigError, match="own tokens"):
        processor("<rf>", captures[0])
    with pytest.raises(ConfigError, match="tokenize"):
        processor.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)


def _text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def test_the_loss_is_on_labels_only(wrapped: Any, processor: Any, model: RFGPT, captures: list[Capture]) -> None:
    given = processor(QUESTIONS[:2], captures[:2], answers=["LTE", "downlink, 20 dB"])
    with torch.no_grad():
        out = wrapped(**given)
        logits = model(model.encode(given["pixel_values"]), given["input_ids"], given["attention_mask"])
    assert torch.equal(out.logits, logits)
    rows = [
        -logits[b, s].log_softmax(-1)[given["labels"][b, s + 1]]
        for b in range(2)
        for s in range(logits.shape[1] - 1)
        if given["labels"][b, s + 1] != IGNORED
    ]
    torch.testing.assert_close(out.loss, torch.stack(rows).mean())
    without = {name: value for name, value in given.items() if name != "pixel_values"}
    with pytest.raises(ModelError, match="places"):
        wrapped(**without)


def test_peft_learns_saves_and_merges(folder: Path, processor: Any, captures: list[Capture], tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    base = AutoModelForImageTextToText.from_pretrained(folder)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    tuned = get_peft_model(base, config)
    given = processor(QUESTIONS[:2], captures[:2], answers=["LTE", "downlink"])
    tuned(**given).loss.backward()
    learned = {name for name, value in tuned.named_parameters() if value.grad is not None}
    assert len(learned) == 8
    assert all("lora_" in name for name in learned)
    asked = processor(QUESTIONS, captures)
    expected = generated(tuned.eval(), asked)
    tuned.save_pretrained(tmp_path / "lora")
    with pytest.raises(ModelError, match="merge"):
        base.save_pretrained(tmp_path / "refused")
    fresh = AutoModelForImageTextToText.from_pretrained(folder)
    plain = generated(fresh, asked)
    again = PeftModel.from_pretrained(fresh, tmp_path / "lora").eval()
    assert torch.equal(generated(again, asked), expected)
    assert not torch.equal(plain, expected)
    again.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    assert torch.equal(generated(merged, asked), expected)


def test_a_round_trip_gives_the_same_answers_in_a_fresh_process(
    wrapped: Any, processor: Any, pictures: torch.Tensor, tmp_path: Path
) -> None:
    wrapped.save_pretrained(tmp_path / "again")
    assert check_model(tmp_path / "again") == []
    assert processor.save_pretrained(tmp_path / "again") == []
    processor.save_pretrained(tmp_path / "processor")
    assert AutoProcessor.from_pretrained(tmp_path / "processor").to_dict() == processor.to_dict()
    np.save(tmp_path / "x.npy", pictures.numpy())
    code = (
        "import json, numpy, lwm.hf\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n"
        f"folder = {str(tmp_path / 'again')!r}\n"
        "model = AutoModelForImageTextToText.from_pretrained(folder)\n"
        "processor = AutoProcessor.from_pretrained(folder)\n"
        f"given = processor({QUESTIONS!r}, list(numpy.load({str(tmp_path / 'x.npy')!r})))\n"
        f"made = model.generate(**given, max_new_tokens={NEW}, do_sample=False)\n"
        "print(json.dumps(made[:, given['input_ids'].shape[1]:].tolist()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    given = processor(QUESTIONS, list(pictures))
    assert json.loads(done.stdout.splitlines()[-1]) == generated(wrapped, given).tolist()


def test_bfloat16_answers_are_rfgpts_and_survive_a_folder(
    folder: Path, processor: Any, pictures: torch.Tensor, tmp_path: Path
) -> None:
    half = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    plain = from_pretrained(folder)
    for weight in plain.parameters():  # not the buffers: statistics and rotary frequencies stay float32
        weight.data = weight.data.bfloat16()
    expected = plain.answer(pictures, QUESTIONS, NEW).texts
    given = processor(QUESTIONS, list(pictures))
    assert processor.batch_decode(generated(half, given)) == expected
    half.save_pretrained(tmp_path / "half")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    assert processor.batch_decode(generated(again, given)) == expected


def test_what_a_folder_cannot_follow_is_refused(folder: Path, wrapped: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="load_in_4bit"):
        AutoModelForImageTextToText.from_pretrained(folder, load_in_4bit=True)
    with pytest.raises(ConfigError, match="push_to_hub"):
        wrapped.save_pretrained(tmp_path / "model", push_to_hub=True)
    with pytest.raises(OSError, match="nowhere"):
        AutoModelForImageTextToText.from_pretrained(tmp_path / "nowhere")
