"""MAC frames of the exchange: Data with a random body and the Ack that answers it (IEEE Std 802.11-2020 clause 9)."""

import zlib

import numpy as np

ACK_OCTETS = 14
"""Frame Control, Duration, RA and FCS (clause 9.3.1.4)."""

_DATA = 0x08
_ACK = 0xD4
_TO_DS = 0x01
_FROM_DS = 0x02


def with_fcs(frame: bytes) -> bytes:
    """The frame with its FCS, the CRC-32 of clause 9.2.4.8, least significant octet first."""
    return frame + zlib.crc32(frame).to_bytes(4, "little")


def draw_address(rng: np.random.Generator) -> bytes:
    """A random individual, locally administered MAC address (clause 9.2.4.3.4), 6 octets."""
    first, rest = int(rng.integers(256)), rng.bytes(5)
    return bytes([first & 0xFC | 0x02]) + rest


def data_frame(
    rng: np.random.Generator, octets: int, access_point: bytes, station: bytes, downlink: bool, nav: int, sequence: int
) -> bytes:
    """Data frame with FCS between a station and its access point (clause 9.3.2.1), body random.

    Args:
        rng: random state of the body.
        octets: length with header and FCS, 28 or more.
        access_point: BSSID, also the far end of the distribution system.
        station: address of the station.
        downlink: From DS (True) or To DS.
        nav: Duration field in us, 0..32767.
        sequence: sequence number, taken modulo 4096.
    """
    receiver, transmitter = (station, access_point) if downlink else (access_point, station)
    head = bytes([_DATA, _FROM_DS if downlink else _TO_DS]) + nav.to_bytes(2, "little")
    addresses = receiver + transmitter + access_point
    control = (sequence % 4096 << 4).to_bytes(2, "little")
    return with_fcs(head + addresses + control + rng.bytes(octets - 28))


def ack_frame(receiver: bytes) -> bytes:
    """Ack frame with FCS to the station whose frame it answers (clause 9.3.1.4), Duration 0."""
    return with_fcs(bytes([_ACK, 0, 0, 0]) + receiver)
