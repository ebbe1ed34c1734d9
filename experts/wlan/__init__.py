"""WLAN: the OFDM PHY of IEEE 802.11a/g (IEEE Std 802.11-2020 clause 17) under DCF traffic."""

from experts.wlan.config import WLANConfig
from experts.wlan.technology import WLAN

__all__ = ["WLAN", "WLANConfig"]
