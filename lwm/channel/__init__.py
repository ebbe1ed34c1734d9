"""Fading, noise and offsets between the transmitter and the receiver."""
