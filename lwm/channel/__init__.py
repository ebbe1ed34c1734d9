"""Fading, noise and offsets between the transmitter and the receiver.

A frequency offset is :func:`lwm.signal.resample.shift`.
"""

from lwm.channel.fading import apply_channel, doppler_hz, tap_gains
from lwm.channel.mobility import MOBILITY, draw_speed
from lwm.channel.noise import add_noise
from lwm.channel.profiles import PROFILES
from lwm.channel.tdl import DELAY_SPREADS, ChannelDraw, draw_channel

__all__ = [
    "DELAY_SPREADS",
    "MOBILITY",
    "PROFILES",
    "ChannelDraw",
    "add_noise",
    "apply_channel",
    "doppler_hz",
    "draw_channel",
    "draw_speed",
    "tap_gains",
]
