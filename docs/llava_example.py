"""A spectrogram encoder as the vision tower of a LLaVA, with nothing but ``transformers``' own LLaVA.

    python docs/llava_example.py MODEL_FOLDER

The language model is tiny and random, so that this runs anywhere in seconds: it shows the wiring, not an answer. To
train, give ``build`` a pretrained model's config and put its weights into ``model.language_model``.
"""

import argparse
from typing import Any

import torch
from transformers import AutoModel, AutoProcessor, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import lwm.hf  # noqa: F401 -- registers the encoder with the Auto classes

VOCABULARY = 100
RF_TOKEN = VOCABULARY - 1
"""Token that stands for one token of a spectrogram."""


def build(folder: str) -> LlavaForConditionalGeneration:
    """A LLaVA whose vision tower is the encoder of a model folder, frozen; projector and language model are random."""
    tower = AutoModel.from_pretrained(folder, trust_remote_code=False)
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=text,
        image_token_index=RF_TOKEN,
        image_seq_length=tower.config.sequence_length,
        vision_feature_layer=-1,  # the encoder's last tokens
        vision_feature_select_strategy="full",  # there is no class token to drop
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower = tower
    model.model.vision_tower.requires_grad_(False)
    return model


def prompt(model: LlavaForConditionalGeneration, words: list[list[int]]) -> dict[str, torch.Tensor]:
    """Token numbers int64 ``[B, 1 + L + words]``: begin, one placeholder a spectrogram token, then the words."""
    placeholders = [RF_TOKEN] * model.config.image_seq_length
    rows = torch.tensor([[1, *placeholders, *row] for row in words])
    return {"input_ids": rows, "attention_mask": torch.ones_like(rows)}


def run(folder: str, steps: int = 5) -> dict[str, Any]:
    """Train the projector and the language model for a few steps on two noises, then generate."""
    torch.manual_seed(0)
    model, processor = build(folder), AutoProcessor.from_pretrained(folder)
    iq = torch.randn(2, 16_000, dtype=torch.complex64)
    pictures = processor(iq, sample_rate=1e6)["pixel_values"]

    inputs = prompt(model, [[5, 6, 7], [5, 8, 9]])
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == RF_TOKEN, -100)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = model(**inputs, pixel_values=pictures, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    model.eval()
    question = prompt(model, [[5], [5]])
    answer = model.generate(**question, pixel_values=pictures, max_new_tokens=4, do_sample=False)
    return {"model": model, "losses": losses, "answer": answer[:, question["input_ids"].shape[1] :]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="model folder of an encoder or a mixture of experts")
    found = run(parser.parse_args().folder)
    print(f"loss {found['losses'][0]:.3f} -> {found['losses'][-1]:.3f}; generated {found['answer'].tolist()}")
