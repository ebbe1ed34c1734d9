"""Captions, instructions and RF-GPT: an encoder, a linear adapter and a language model that answers about radio."""
