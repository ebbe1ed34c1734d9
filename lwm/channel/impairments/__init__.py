"""RF impairments: families with physical units and a level, composable, batched, each recorded in the facts."""

from lwm.channel.impairments.analog import DCOffset, IQImbalance, PowerAmplifier
from lwm.channel.impairments.base import STAGES, Impairment, Stage
from lwm.channel.impairments.chain import impair
from lwm.channel.impairments.clock import SamplingClockOffset
from lwm.channel.impairments.converter import AutomaticGainControl, Quantisation
from lwm.channel.impairments.fading import TDLSweep
from lwm.channel.impairments.interference import AdjacentChannelInterferer, BurstNoise
from lwm.channel.impairments.oscillator import CarrierFrequencyOffset, PhaseNoise, Spurs

FAMILIES: dict[str, type[Impairment]] = {
    family.name: family
    for family in (
        IQImbalance,
        PowerAmplifier,
        TDLSweep,
        AdjacentChannelInterferer,
        BurstNoise,
        CarrierFrequencyOffset,
        PhaseNoise,
        Spurs,
        DCOffset,
        AutomaticGainControl,
        SamplingClockOffset,
        Quantisation,
    )
}
"""Families by name, in physical order."""

__all__ = [
    "FAMILIES",
    "STAGES",
    "AdjacentChannelInterferer",
    "AutomaticGainControl",
    "BurstNoise",
    "CarrierFrequencyOffset",
    "DCOffset",
    "IQImbalance",
    "Impairment",
    "PhaseNoise",
    "PowerAmplifier",
    "Quantisation",
    "SamplingClockOffset",
    "Spurs",
    "Stage",
    "TDLSweep",
    "impair",
]
