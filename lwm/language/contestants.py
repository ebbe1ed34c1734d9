"""The contestants of the comparison: towers, language models and baselines, each as a stage."""

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lwm.console import say
from lwm.hub import MODELS, from_pretrained, save_pretrained, weights_sha256
from lwm.language.answerers import MajorityAnswerer, RandomAnswerer, RFGPTAnswerer
from lwm.language.chat import Turn
from lwm.language.compare import Contestant, Setting, Stage
from lwm.language.converse import load_rfgpt
from lwm.language.instructions import KINDS
from lwm.language.multihead import MultiHeadAnswerer, MultiHeadViT, fit_multihead, targets_of
from lwm.registry import load

GENERAL = (
    ("What is the capital of France?", ("paris",)),
    ("How many days are there in a week?", ("seven", "7")),
    ("What is the opposite of hot?", ("cold", "cool")),
)
"""Questions that have nothing to do with radio, and words of which a sensible answer holds one."""
_GENERAL_TOKENS = 48
_HIDDEN = 256


def default_stages(smollm: str | None = None) -> list[Stage]:
    """Every contestant of the issue; those with a pretrained language model where ``smollm`` says which."""
    stages = [
        Stage("random", "random answers", _random),
        Stage("majority", "commonest answer", partial(_majority, by_wording=False)),
        Stage("wording", "commonest answer to the wording", partial(_majority, by_wording=True)),
        Stage("multihead", "multi-head ViT, pretrained tower, frozen", partial(_multihead, tower=_pretrained)),
        Stage(
            "multihead-scratch", "multi-head ViT from scratch", partial(_multihead, tower=random_tower, frozen=False)
        ),
        Stage("rfgpt", "rfgpt-tiny, pretrained MoE tower, frozen", partial(_rfgpt, tower=_pretrained)),
        Stage("rfgpt-random", "rfgpt-tiny, random tower, frozen", partial(_rfgpt, tower=random_tower)),
        Stage("rfgpt-scratch", "rfgpt-tiny, tower from scratch", partial(_rfgpt, tower=random_tower, tower_rate=1e-3)),
        Stage(
            "rfgpt-along",
            "rfgpt-tiny, pretrained MoE tower, tuned",
            partial(_rfgpt, tower=_pretrained, tower_rate=2e-4),
        ),
    ]
    if smollm is not None:
        stages += [
            Stage("smollm-before", "SmolLM2-135M before tuning", partial(_untuned, path=smollm), pretrained=smollm),
            Stage("smollm-after", "SmolLM2-135M, LoRA", partial(_tuned, path=smollm), pretrained=smollm),
        ]
    return stages


def random_tower(setting: Setting) -> Path:
    """Model folder of a tower like the pretrained one with fresh weights, all of them; made once for each seed.

    Buffers stay: mean and standard deviation of the data are no training, and without them no tower works.
    """
    folder = setting.out / "random-tower"
    if not (folder / "config.json").is_file():
        known = from_pretrained(setting.tower)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.seed)
            fresh = load(MODELS, known.model_type).from_config(known.get_config(), known.recipe)
        buffers = dict(known.named_buffers())
        for name, buffer in fresh.named_buffers():
            buffer.copy_(buffers[name])
        save_pretrained(
            fresh.eval(), folder, {"seed": setting.seed, "command": "fresh weights", "like": str(setting.tower)}
        )
    return folder


def ask_general(model: Any) -> list[dict[str, Any]]:
    """What a language model says to :data:`GENERAL`, no capture shown, and whether it holds an expected word."""
    rf = torch.empty(0, model.rf_tokens, model.adapter.mean.numel(), device=next(model.parameters()).device)
    turns = [[Turn("user", question)] for question, _ in GENERAL]
    said = model.generate(rf, turns, _GENERAL_TOKENS, captures=[[] for _ in turns])
    records = []
    for (question, words), text in zip(GENERAL, said.texts, strict=True):
        records.append({"question": question, "said": text, "sensible": holds_word(text, words)})
        say(f"{question} {text!r}")
    return records


def holds_word(text: str, words: Sequence[str]) -> bool:
    """Whether one of some words, in lower case, stands in a text as a word of its own: no Paris in "comparison"."""
    return any(re.search(rf"\b{re.escape(word)}\b", text.casefold()) for word in words)


def _pretrained(setting: Setting) -> Path:
    return setting.tower


def _random(setting: Setting, folder: Path) -> Contestant:
    return Contestant(RandomAnswerer(setting.training_pairs, setting.seed), sees=False)


def _majority(setting: Setting, folder: Path, by_wording: bool) -> Contestant:
    return Contestant(MajorityAnswerer(setting.training_pairs, by_wording), sees=False)


def _multihead(setting: Setting, folder: Path, tower: Callable[[Setting], Path], frozen: bool = True) -> Contestant:
    limits, seed = setting.limits, setting.seed
    samples = setting.samples(limits.captures)
    targets = targets_of(setting.train, samples, [*KINDS], seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MultiHeadViT(from_pretrained(tower(setting)), targets.answers, _HIDDEN, frozen)
    losses = fit_multihead(model, setting.train, samples, targets, limits.epochs, limits.batch_size, seed)
    more: dict[str, Any] = {"losses": losses, "heads": {kind: len(values) for kind, values in targets.answers.items()}}
    more |= {"labels": targets.labels(), "captures_trained": len(samples)}
    return Contestant(MultiHeadAnswerer(model), tuple(targets.answers), more=more | _trained(model))


def _rfgpt(
    setting: Setting, folder: Path, tower: Callable[[Setting], Path], tower_rate: float | None = None
) -> Contestant:
    limits = setting.limits
    words = ["--model.init_args.llm", limits.llm, "--data.init_args.batch_size", str(limits.batch_size)]
    if tower_rate is not None:
        # The stages of rfgpt/tiny with a rate for the tower: a lower one where it knows something already.
        stages = [{"share": 1, "adapter": 2e-3}, {"share": 19, "adapter": 1e-3, "llm": 2e-3, "tower": tower_rate}]
        words += ["--model.init_args.stages", json.dumps(stages)]
    model = _fit(setting, folder, "rfgpt/tiny", tower(setting), (limits.captures, limits.epochs), words)
    more = {"rf_tokens": model.rf_tokens, "captures_trained": len(setting.samples(limits.captures))}
    return Contestant(RFGPTAnswerer(model), reads=True, more=_trained(model) | more)


def _tuned(setting: Setting, folder: Path, path: str) -> Contestant:
    limits = setting.limits
    # The epochs say how long, not the config's steps.
    words = ["--model.init_args.llm", path, "--trainer.max_steps", "-1"]
    length = limits.pretrained_captures, limits.pretrained_epochs
    model = _fit(setting, folder, "rfgpt/smollm2", setting.tower, length, words)
    more: dict[str, Any] = {"general": ask_general(model)}
    more["captures_trained"] = len(setting.samples(limits.pretrained_captures))
    return Contestant(RFGPTAnswerer(model), reads=True, more=_trained(model) | more)


def _untuned(setting: Setting, folder: Path, path: str) -> Contestant:
    """The pretrained language model behind an adapter that nobody has trained."""
    from lwm.language.llm import load_llm
    from lwm.language.rfgpt import RFGPT

    loaded = load_llm(path)
    tower = from_pretrained(setting.tower)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.seed)
        model = RFGPT(tower, loaded.llm, loaded.chat, setting.labels, setting.limits.tokens, adapter="mlp").eval()
    samples = setting.samples(setting.limits.pretrained_captures)[:64]
    model.adapter.fit(model.encode(setting.train.batch(samples)["spectrogram"]))
    origin = {"llm": {**loaded.source._asdict(), "dequantised": loaded.dequantised}}
    more = _trained(model) | {"general": ask_general(model), "captures_trained": 0} | origin
    return Contestant(RFGPTAnswerer(model), reads=True, more=more)


def _fit(
    setting: Setting, folder: Path, config: str, tower: Path, length: tuple[int | None, int], more: Sequence[str]
) -> Any:
    """Tune by a shipped config through ``lwm fit`` and ``lwm export``, so many captures and epochs; an interrupted run
    goes on where it stopped."""
    captures, epochs = length
    rows, columns = setting.limits.tokens
    run, out = folder / "run", folder / "model"
    words = ["fit", "--config", config, "--seed_everything", str(setting.seed), "--out", str(run), "--resume"]
    words += ["--trainer.max_epochs", str(epochs), "--model.init_args.tower", str(tower)]
    words += ["--model.init_args.token_rows", str(rows), "--model.init_args.token_columns", str(columns)]
    words += ["--data.init_args.data", str(setting.data), "--data.init_args.seed", str(setting.seed)]
    words += ["--data.init_args.limit", "null" if captures is None else str(captures)]
    setting.lwm(*words, *more)
    checkpoint = run / "checkpoints" / "last.ckpt"
    setting.lwm("export", "--checkpoint", str(checkpoint), "--out", str(out), "--overwrite")
    return load_rfgpt(out)


def _trained(model: torch.nn.Module) -> dict[str, Any]:
    """What a model's weights are."""
    return {"parameters": sum(p.numel() for p in model.parameters()), "weights_sha256": weights_sha256(model)}
