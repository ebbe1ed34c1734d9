"""Captures, how they are read and written, and the recipe that makes them a model input."""
