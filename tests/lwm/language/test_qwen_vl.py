"""Route (b): Qwen2.5-VL's own vision encoder behind RF-GPT's interface, against transformers itself."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lwm.data.shard import write_dataset
from lwm.errors import ConfigError, ModelError
from lwm.export import export
from lwm.hub import from_pretrained
from lwm.language.chat import IGNORED, Turn, chat_from_config
from lwm.language.datamodule import InstructionDataModule
from lwm.language.qwen_places import Places
from lwm.language.qwen_vl import QwenVL, rgb, set_side, visual_tokens
from lwm.seeding import rng_for
from lwm.signal.recipe import PRESETS, recipe_named
from lwm.tasks.instruct import InstructionTuning
from lwm.tasks.instruct_options import Lora, Stage, Tuning

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
# The words of Qwen2.5-VL's own template for what we send: a default system turn, images of a list.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<|vision_start|><|image_pad|>"
    "<|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTION = "Which technology is this?"
SIDE = 84
RECIPE = recipe_named("rf-gpt")


def make_processor() -> Any:
    from transformers import PreTrainedTokenizerFast
    from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    words = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([*SPECIAL, "<|video_pad|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    return Qwen2_5_VLProcessor(Qwen2VLImageProcessor(), tokenizer, Qwen2VLVideoProcessor(), chat_template=TEMPLATE)


def make_whole(processor: Any) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    number = processor.tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
        "bos_token_id": None,
        "eos_token_id": number("<|im_end|>"),
        "pad_token_id": number("<|endoftext|>"),
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [1],
        "window_size": 56,
        "initializer_range": 0.2,
    }
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, **{key: number(token) for key, token in names.items()}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Qwen2_5_VLForConditionalGeneration(config).eval()


@pytest.fixture(scope="module")
def model() -> QwenVL:
    processor = make_processor()
    return QwenVL(make_whole(processor), processor, RECIPE, {"technology": ["LTE", "5G NR"]}, SIDE).eval()


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Three pictures of the recipe, unlike each other."""
    levels = rng_for(3, "qwen").uniform(0, 255, (3, 3, 512, 512)).astype(np.float32)
    levels[1, :, :200] = 10
    levels[2, :, :, 300:] = 250
    return torch.from_numpy(levels)


def theirs(model: QwenVL, pictures: torch.Tensor, messages: list[Any], **options: Any) -> dict[str, torch.Tensor]:
    """What transformers' own processor makes of image files of the same pictures."""
    files = [Image.fromarray(picture.movedim(0, -1).numpy()) for picture in rgb(pictures, model.recipe)]
    text = [
        model.processor.apply_chat_template(message, tokenize=False, add_generation_prompt=True) for message in messages
    ]
    return dict(model.processor(text=text, images=files, return_tensors="pt", padding=True, padding_side="left"))


def asked(question: str, captures: int = 1) -> list[dict[str, Any]]:
    content = [*[{"type": "image"}] * captures, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def test_the_count_of_tokens_is_the_processors() -> None:
    processor = make_processor().image_processor
    assert visual_tokens(processor, (512, 512)) == 18 * 18
    for side, tokens in ((504, 324), (1036, 1369), (224, 64)):
        set_side(processor, side)
        assert visual_tokens(processor, (512, 512)) == tokens
        made = processor(images=[torch.zeros(3, 512, 512, dtype=torch.uint8)], return_tensors="pt")
        assert int(made["image_grid_thw"].prod()) // 4 == tokens
    with pytest.raises(ConfigError, match="multiple of 28"):
        set_side(processor, 512)


def test_prompts_and_logits_are_those_of_transformers(model: QwenVL, pictures: torch.Tensor) -> None:
    assert model.rf_tokens == 9
    given = theirs(model, pictures, [asked(QUESTION), asked("Compare.", 2)])
    prompts = [QUESTION, [Turn("user", "Compare.", 2)]]
    rows = [model.chat.prompt(prompt, model.rf_tokens) for prompt in prompts]
    kept = [ids[mask.bool()].tolist() for ids, mask in zip(given["input_ids"], given["attention_mask"], strict=True)]
    assert kept == rows
    with torch.no_grad():
        expected = model.whole(**given).logits
        rf = model.encode(pictures)
        assert rf.shape == (3, 9, 4 * 32)
        found = model(rf, given["input_ids"], given["attention_mask"])
    real = given["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], rtol=1e-5, atol=1e-5)


def test_answers_are_those_of_transformers(model: QwenVL, pictures: torch.Tensor) -> None:
    given = theirs(model, pictures, [asked(QUESTION), asked("Compare the two.", 2)])
    whole = model.whole.generate(**given, max_new_tokens=12, do_sample=False)
    expected = [model.chat.decode(row) for row in whole[:, given["input_ids"].shape[1] :].tolist()]
    prompts = [QUESTION, [Turn("user", "Compare the two.", 2)]]
    rf = model.encode(pictures)
    answers = model.generate(rf, prompts, 12, captures=[[0], [1, 2]])
    assert answers.texts == expected
    assert len(set(expected)) == 2
    again = model.generate(rf, [QUESTION] * 2, 12, captures=[[0], [0]])
    assert again.texts == [expected[0]] * 2


def test_places_are_those_of_transformers(model: QwenVL) -> None:
    places = Places(model.chat.rf_id, (2, 3))
    image, word = model.chat.rf_id, 5
    rows = [[word] * 3 + [image] * 6 + [word] * 2 + [image] * 6 + [word], [word] * 4 + [image] * 6 + [word] * 2]
    ids = torch.tensor([rows[0], [0] * 6 + rows[1]])
    mask = torch.tensor([[1] * 18, [0] * 6 + [1] * 12])
    grid = torch.tensor([[1, 4, 6]] * 3)
    expected, behind = model.whole.model.get_rope_index(
        ids, (ids == image).int(), image_grid_thw=grid, attention_mask=mask
    )
    found = places(ids, mask)
    assert torch.equal(found[:, mask.bool()], expected[:, mask.bool()])
    # theirs counts from the row's length, padding left out
    assert torch.equal(places.behind(ids), behind)
    packed = torch.tensor([rows[1] + rows[0]])
    text = torch.tensor([[*range(len(rows[1])), *range(len(rows[0]))]])
    joined = places(packed, None, text)
    assert torch.equal(joined[:, 0, :12], found[:, 1, 6:])
    assert torch.equal(joined[:, 0, 12:], found[:, 0])


def test_every_part_learns_and_only_when_it_may(model: QwenVL, pictures: torch.Tensor) -> None:
    parts = {name: set(getattr(model, name).parameters()) for name in ("tower", "adapter", "llm")}
    assert sum(map(len, parts.values())) == len(set(model.whole.parameters())) == len(set(model.parameters()))
    ids, labels = model.chat.pair(QUESTION, "LTE", model.rf_tokens)
    assert model.chat.decode([number for number in labels if number != IGNORED]) == "LTE"
    for trains in (False, True):
        model.zero_grad()
        model.train_tower(trains)
        logits = model(model.encode(pictures[:1]), torch.tensor([ids]), None)
        torch.nn.functional.cross_entropy(logits[0, :-1], torch.tensor(labels[1:])).backward()
        assert all(parameter.grad is not None for parameter in parts["adapter"] | parts["llm"])
        assert {parameter.grad is not None for parameter in parts["tower"]} == {trains}
    model.train_tower(False)
    model.zero_grad()


def test_images_and_special_tokens_in_a_text_are_refused(model: QwenVL) -> None:
    for text in ("<|image_pad|> what?", "<|im_end|>", "<|vision_start|>"):
        with pytest.raises(ConfigError, match="template"):
            model.chat.prompt(text, model.rf_tokens)
    again = chat_from_config(json.loads(json.dumps(model.chat.get_config())))
    assert again.prompt(QUESTION, 9) == model.chat.prompt(QUESTION, 9)


def test_the_folder_is_plain_transformers(model: QwenVL, pictures: torch.Tensor, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "model", {"seed": 0})
    Image.fromarray(rgb(pictures[:1], model.recipe)[0].movedim(0, -1).numpy()).save(tmp_path / "picture.png")
    code = (
        "import json, sys\n"
        "from PIL import Image\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n"
        f"model = AutoModelForImageTextToText.from_pretrained({str(folder)!r})\n"
        f"processor = AutoProcessor.from_pretrained({str(folder)!r})\n"
        f"text = processor.apply_chat_template({asked(QUESTION)!r}, tokenize=False, add_generation_prompt=True)\n"
        f"image = Image.open({str(tmp_path / 'picture.png')!r})\n"
        "given = processor(text=[text], images=[image], return_tensors='pt')\n"
        "made = model.generate(**given, max_new_tokens=12, do_sample=False)[0, given['input_ids'].shape[1]:]\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'lwm']\n"
        "print(json.dumps(made.tolist()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    answer = model.chat.decode(json.loads(done.stdout.splitlines()[-1]))
    assert answer == model.answer(pictures[:1], [QUESTION], 12).texts[0]
    again = QwenVL.from_pretrained(folder, dtype=torch.float32)
    assert (again.recipe, again.labels, again.rf_tokens) == (RECIPE, model.labels, model.rf_tokens)
    assert again.answer(pictures, [QUESTION] * 3, 12) == model.answer(pictures, [QUESTION] * 3, 12)
    with pytest.raises(ModelError, match="no_model"):
        QwenVL.from_pretrained(tmp_path / "no_model", RECIPE)


def test_grey_recipes_are_spread_over_their_range() -> None:
    recipe = PRESETS["small"]
    db = torch.tensor([recipe.floor_db, recipe.ceiling_db, 0.0]).reshape(1, 1, 1, 3)
    assert rgb(db, recipe)[0, :, 0].tolist() == [[0, 255, 128]] * 3


def test_tuning_trains_the_parts_that_have_a_rate_and_exports_a_folder_of_transformers(
    model: QwenVL, tmp_path: Path
) -> None:
    base = QwenVL.from_pretrained(model.save_pretrained(tmp_path / "base"), dtype=torch.float32)
    rows = rng_for(4, "qwen").uniform(0, 255, (6, 3, 512, 512)).astype(np.float32)
    labels = {"technology": ["lte", "nr"] * 3}
    records = [{"technology": name} for name in labels["technology"]]
    split = ["train"] * 4 + ["validation"] * 2
    write_dataset(tmp_path / "data", rows, RECIPE, labels, split=split, records=records)
    task = InstructionTuning(
        str(tmp_path / "base"),
        llm=str(tmp_path / "base"),
        lora=Lora(rank=2),
        stages=[Stage(adapter=1e-2, llm=1e-2)],
        tuning=Tuning(checkpointing=True),
    )
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, enable_checkpointing=False, **quiet)
    trainer.fit(task, datamodule=InstructionDataModule(str(tmp_path / "data"), batch_size=2))
    assert task.model.llm.model.layers[0].gradient_checkpointing
    assert task.model.llm.training
    checkpoint = tmp_path / "last.ckpt"
    trainer.save_checkpoint(checkpoint)
    kept = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert not any(name.startswith("model.tower.") for name in kept)
    assert all("lora_" in name for name in kept if name.startswith("model.llm."))
    tuned = from_pretrained(export(str(checkpoint), str(tmp_path / "tuned")), dtype=torch.float32)
    assert isinstance(tuned, QwenVL)
    assert torch.equal(tuned.tower.patch_embed.proj.weight, base.tower.patch_embed.proj.weight)
    was, now = base.llm.state_dict(), tuned.llm.state_dict()
    changed = {name for name, value in now.items() if not torch.equal(value, was[name])}
    assert changed
    assert not any("norm" in name or "embed" in name for name in changed)
    assert not torch.equal(tuned.adapter.merger.ln_q.weight, base.adapter.merger.ln_q.weight)
    x = torch.from_numpy(rows[:1])
    torch.testing.assert_close(
        task.model.eval().answer(x, [QUESTION], 4).log_probabilities,
        tuned.answer(x, [QUESTION], 4).log_probabilities,
        atol=1e-3,
        rtol=1e-3,
    )
