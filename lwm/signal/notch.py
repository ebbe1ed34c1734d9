"""DC removed from a recording while it is read."""

import math
from dataclasses import replace

import numpy as np
from scipy.signal import butter, lfilter, lfilter_zi

from lwm.errors import ConfigError
from lwm.signal.recording import Complex, Recording

LOWEST = 1e-5
"""Least corner as a share of the sample rate: the filter settles within 150,000 samples."""

_SETTLED = math.log(1e4)
"""Time constants after which what came before is down to a part in ten thousand."""


def without_dc(recording: Recording, corner: float) -> Recording:
    """The recording behind a high-pass of first order (Butterworth, bilinear), on I and Q alike: a notch at 0 Hz.

    Power response ``1 / (1 + (tan(pi fc/fs) / tan(pi f/fs))^2)``: -3 dB at ``corner`` on both sides, nothing at 0 Hz.
    Any part can be read by itself: the filter runs in over the samples before it, so that the result does not depend
    on how a recording is cut, to a part in 10^4 of its DC. At the beginning the filter starts as if the mean of its
    first samples had always been there.

    Args:
        recording: what to read.
        corner: Hz.

    Raises:
        ConfigError: not between 1e-5 of the sample rate and a quarter of it.
    """
    rate = recording.sample_rate
    if not LOWEST * rate <= corner <= rate / 4:
        raise ConfigError(f"DC notch {corner} Hz", f"{LOWEST * rate:g} to {rate / 4:g} Hz for {recording.path}")
    b, a = butter(1, corner, "highpass", fs=rate)
    warm = math.ceil(_SETTLED / -math.log(-a[1]))
    steady = lfilter_zi(b, a)

    def load(first: int, count: int) -> Complex:
        before = min(first, warm)
        samples = recording.load(first - before, count + before)
        head = samples[:warm]
        if head.size < warm:
            # However short the part: the mean of the same samples.
            head = recording.load(first - before, min(warm, recording.samples - first + before))
        level = head.mean(dtype=np.complex128)
        filtered, _ = lfilter(b, a, samples, zi=steady * level)
        return filtered[before:].astype(np.complex64)

    return replace(recording, load=load, facts=recording.facts | {"dc_notch_hz": corner})
