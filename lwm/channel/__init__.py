"""What lies between the transmitter's and the receiver's baseband: fading, sites, impairments, noise.

:func:`receive` does it all for many receivers of one waveform; a frequency offset is
:func:`lwm.signal.resample.shift`, a timing offset :func:`delay`.
"""

from lwm.channel.draw import ChannelDraw, Rays
from lwm.channel.fading import apply_channel, delay, doppler_hz, tap_gains
from lwm.channel.impairments import FAMILIES, Impairment, impair
from lwm.channel.link import Conditions, Received, receive
from lwm.channel.mobility import MOBILITY, draw_speed
from lwm.channel.noise import add_noise
from lwm.channel.profiles import PROFILES
from lwm.channel.sites import SITES, SiteDraw, SiteTable, draw_site, site_table
from lwm.channel.tdl import DELAY_SPREADS, TDLDraw, draw_tdl

__all__ = [
    "DELAY_SPREADS",
    "FAMILIES",
    "MOBILITY",
    "PROFILES",
    "SITES",
    "ChannelDraw",
    "Conditions",
    "Impairment",
    "Rays",
    "Received",
    "SiteDraw",
    "SiteTable",
    "TDLDraw",
    "add_noise",
    "apply_channel",
    "delay",
    "doppler_hz",
    "draw_site",
    "draw_speed",
    "draw_tdl",
    "impair",
    "receive",
    "site_table",
    "tap_gains",
]
