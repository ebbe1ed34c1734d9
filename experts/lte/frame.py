"""Time structure of the LTE downlink: bandwidths, downlink symbols of a frame, their places in samples."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lwm.phy.ofdm import cp_lengths

SUBFRAMES = 10
"""Subframes of 1 ms in a frame."""

FRAME = 0.01
"""Seconds of a frame."""

SUBCARRIER_SPACING = 15e3
"""Hz."""

RESOURCE_BLOCKS = {1.4e6: 6, 3e6: 15, 5e6: 25, 10e6: 50, 15e6: 75, 20e6: 100}
"""Channel bandwidth in Hz -> downlink resource blocks N_RB (TS 36.101 table 5.6-1)."""

FFT_SIZES = {6: 128, 15: 256, 25: 512, 50: 1024, 75: 1536, 100: 2048}
"""N_RB -> FFT size; the sample rate is 15 kHz times it."""

UPLINK_DOWNLINK = ("DSUUUDSUUU", "DSUUDDSUUD", "DSUDDDSUDD", "DSUUUDDDDD", "DSUUDDDDDD", "DSUDDDDDDD", "DSUUUDSUUD")
"""Subframes of each uplink-downlink configuration (TS 36.211 table 4.2-2): downlink, special, uplink."""

_DWPTS_NORMAL = (3, 9, 10, 11, 12, 3, 9, 10, 11, 6)
_DWPTS_EXTENDED = (3, 8, 9, 10, 3, 8, 9, 5)


def dwpts_symbols(extended: bool) -> tuple[int, ...]:
    """Symbols of DwPTS by special-subframe configuration (TS 36.211 table 4.2-1)."""
    return _DWPTS_EXTENDED if extended else _DWPTS_NORMAL


def slot_symbols(extended: bool) -> int:
    """OFDM symbols of a slot of 0.5 ms: 7 with the normal cyclic prefix, 6 with the extended one."""
    return 6 if extended else 7


@lru_cache
def downlink_symbols(pattern: tuple[int, int] | None, extended: bool) -> npt.NDArray[np.bool_]:
    """Which symbols the base station transmits, bool ``[10 subframes, symbols of a subframe]``.

    Args:
        pattern: uplink-downlink and special-subframe configuration of frame structure type 2, None for type 1.
        extended: extended cyclic prefix.
    """
    symbols = 2 * slot_symbols(extended)
    if pattern is None:
        return np.ones((SUBFRAMES, symbols), dtype=bool)
    count = {"D": symbols, "S": dwpts_symbols(extended)[pattern[1]], "U": 0}
    lengths = np.array([count[kind] for kind in UPLINK_DOWNLINK[pattern[0]]])
    return np.arange(symbols) < lengths[:, None]


@lru_cache
def control_symbols(n_rb: int, cfi: int, tdd: bool) -> tuple[int, ...]:
    """OFDM symbols of the control region of each subframe of a frame (TS 36.211 table 6.7-1).

    Narrow carriers (up to 10 resource blocks) have one symbol more than the CFI; subframes 1 and 6 of frame
    structure type 2 have at most two, whatever the cell's CFI.
    """
    wanted = cfi + (1 if n_rb <= 10 else 0)
    return tuple(min(wanted, 2) if tdd and subframe in (1, 6) else wanted for subframe in range(SUBFRAMES))


@lru_cache
def symbol_edges(n_fft: int, extended: bool) -> npt.NDArray[np.int64]:
    """First sample of each symbol of a subframe and the subframe's length at the end, ``[symbols + 1]``."""
    lengths = np.array(cp_lengths(n_fft, extended=extended) * 2) + n_fft
    return np.concatenate([[0], np.cumsum(lengths)])
