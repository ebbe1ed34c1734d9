"""The recipe beside TorchSig's spectrogram, an independent implementation of RF-GPT's STFT."""

from dataclasses import replace

import numpy as np
import torch
from torchsig.utils.dsp import compute_spectrogram

from lwm.seeding import rng_for
from lwm.signal.recipe import recipe_named


def test_stft_equals_torchsigs() -> None:
    rate, frames = 1e6, 24
    preset = recipe_named("rf-gpt")
    recipe = replace(
        preset,
        duration=frames * preset.hop / rate,
        power_reference="full_scale",
        epsilon=1e-12,
        floor_db=-150.0,
        ceiling_db=150.0,
        size=(preset.n_fft, frames),
        resize="none",
        channels="grey",
    )
    rng = rng_for(0, "peer")
    samples = preset.hop * frames
    noise = rng.standard_normal(samples) + 1j * rng.standard_normal(samples)
    iq = (noise + 20 * np.exp(2j * np.pi * 0.13 * np.arange(samples))).astype(np.complex64)
    ours = recipe(torch.from_numpy(iq)[None], rate).db[0, 0].numpy()
    theirs = compute_spectrogram(iq, preset.n_fft, preset.hop)[::-1]
    # Ours is in units of white noise, theirs of the window's raw sum: one constant apart. Compared as power, for the
    # deepest nulls are float32 rounding in both.
    window = torch.blackman_window(preset.win_length)
    power, peer = 10 ** (ours / 10), 10 ** (theirs / 10) / float(window.square().sum())
    np.testing.assert_allclose(power, peer, rtol=1e-3, atol=1e-7 * peer.max())
