"""Captions, instructions and RF-GPT."""
