"""OFDM modulation of a resource grid with the 3GPP cyclic-prefix lengths."""

from functools import lru_cache
from itertools import groupby

import numpy as np
import numpy.typing as npt
from scipy import fft

Complex = npt.NDArray[np.complex64]


@lru_cache
def cp_lengths(n_fft: int, numerology: int = 0, extended: bool = False) -> tuple[int, ...]:
    """Cyclic-prefix lengths in samples of the symbols of one half-subframe of 0.5 ms.

    TS 36.211 table 6.12-1 and TS 38.211 clause 5.3.1: the first symbol of every 0.5 ms is longer by 16 kappa.

    Args:
        n_fft: FFT size; sample rate is ``n_fft * 15 kHz * 2**numerology``.
        numerology: mu, 0 for LTE.
        extended: extended cyclic prefix (numerology 0 in LTE, 2 in NR).
    """
    if extended:
        return (n_fft // 4,) * (6 << numerology)
    short = 9 * n_fft // 128
    extra = (n_fft << numerology) // 128
    return (short + extra,) + (short,) * ((7 << numerology) - 1)


def modulate(grid: Complex, n_fft: int, prefixes: tuple[int, ...], dc_null: bool = False) -> Complex:
    """Samples of a resource grid.

    Args:
        grid: complex64 ``[symbols, subcarriers]``, lowest frequency first, an even number of subcarriers, symbols a
            multiple of ``len(prefixes)``.
        n_fft: FFT size, at least the number of subcarriers (+1 with ``dc_null``).
        prefixes: cyclic-prefix lengths of one period of symbols.
        dc_null: LTE downlink: the carrier at 0 Hz is left empty between the two halves.

    Returns:
        complex64 ``[samples]``; unit power when every subcarrier of an n_fft grid had unit power and filled it,
        in general the mean power of the grid over n_fft bins.
    """
    symbols, subcarriers = grid.shape
    half = subcarriers // 2
    bins = np.zeros((symbols, n_fft), dtype=np.complex64)
    first = 1 if dc_null else 0
    bins[:, first : first + half] = grid[:, half:]
    bins[:, n_fft - half :] = grid[:, :half]
    time = fft.ifft(bins, axis=1, norm="ortho", overwrite_x=True).reshape(-1, len(prefixes), n_fft)
    samples = np.empty((len(time), sum(prefixes) + n_fft * len(prefixes)), dtype=np.complex64)
    place = number = 0
    for prefix, run in groupby(prefixes):
        count = len(list(run))
        stop = place + count * (prefix + n_fft)
        # A view: symbols of one prefix length are rows of equal length, copied in two strokes.
        rows = samples[:, place:stop].reshape(len(time), count, prefix + n_fft)
        rows[..., :prefix] = time[:, number : number + count, n_fft - prefix :]
        rows[..., prefix:] = time[:, number : number + count]
        place, number = stop, number + count
    return samples.reshape(-1)
