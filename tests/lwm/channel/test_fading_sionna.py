"""Fading against Sionna's channel in the time domain, where Sionna is installed: the same paths through both."""

from importlib.metadata import distributions

import numpy as np
import pytest
import torch

from lwm.channel import TDLDraw, apply_channel, tap_gains

# Asked of the distribution: sionna-rt alone also has a module `sionna`, whose import needs a system library.
if "sionna" not in {found.name for found in distributions()}:
    pytest.skip("needs sionna", allow_module_level=True)
from sionna.phy import channel


@pytest.mark.parametrize("profile", ["TDL-C", "TDL-E"])
def test_output_is_that_of_sionna(profile):
    rate, doppler, samples, reach = 30.72e6, 3000.0, 700, 250
    rng = np.random.default_rng(3)
    spectrum = rng.standard_normal(samples) + 1j * rng.standard_normal(samples)
    iq = np.fft.ifft(spectrum * (np.abs(np.fft.fftfreq(samples)) < 0.4)).astype(np.complex64)
    draw = TDLDraw(profile, 100e-9, seed=4)
    times = (np.arange(samples + 2 * reach) - reach) / rate
    gains = torch.from_numpy(tap_gains(draw, doppler, times))[None, None, None, None, None]
    delays = torch.from_numpy(draw.delays_s.astype(np.float32))[None, None, None]
    taps = channel.cir_to_time_channel(rate, gains, delays, -reach, reach)
    through = channel.ApplyTimeChannel(samples, 2 * reach + 1, device="cpu")
    theirs = through(torch.from_numpy(iq)[None, None, None], taps)[0, 0, 0, reach:-reach].numpy()
    ours = apply_channel(iq, rate, draw, doppler)
    # Theirs is a sinc cut at 250 samples; the edges of the capture excite what it cuts.
    inner = slice(100, -100)
    assert np.linalg.norm((ours - theirs)[inner]) < 2e-3 * np.linalg.norm(theirs[inner])
