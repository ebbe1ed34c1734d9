"""Pictures: axes, boxes and padding are where the signal is."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from lwm.errors import ConfigError
from lwm.signal.capture import Capture, Emission
from lwm.signal.plot import box_label, png_bytes, spectrogram_figure, upright
from lwm.signal.recipe import PRESETS

RATE = 1.024e6
SMALL = PRESETS["small"]


def capture(samples=16384):
    tone = np.exp(2j * np.pi * 0.25 * np.arange(samples)).astype(np.complex64)
    return Capture(tone, RATE, emissions=[Emission("LTE", "downlink", "QPSK", 1e-3, 4e-3, 2e5, 3e5, 10.0)])


def boxes(figure):
    return [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle) and not patch.get_fill()]


def test_axes_are_milliseconds_and_megahertz():
    axes = spectrogram_figure(capture(), SMALL).axes[0]
    low, high = axes.get_ylim()
    assert axes.get_xlim() == (0.0, 16.0)
    # Half a bin lower than -fs/2..fs/2, since each bin is centred on its frequency.
    assert (low, high) == (pytest.approx(-0.512 - 0.002), pytest.approx(0.512 - 0.002))
    image = axes.images[0].get_array()
    row = int(np.argmax(image[:, 10]))
    assert low + (row + 0.5) / 64 * (high - low) == pytest.approx(0.256, abs=(high - low) / 64)


def test_emission_is_boxed_and_labelled():
    figure = spectrogram_figure(capture(), SMALL)
    (box,) = boxes(figure)
    assert box.get_xy() == (pytest.approx(1.0), pytest.approx(0.2))
    assert (box.get_width(), box.get_height()) == (pytest.approx(3.0), pytest.approx(0.1))
    assert [text.get_text() for text in figure.axes[0].texts] == ["LTE downlink QPSK 10 dB"]


def test_many_small_boxes_of_a_kind_share_one_label():
    many = [Emission("NR", start=i * 1e-3, stop=i * 1e-3 + 2e-4, low=0, high=1e5) for i in range(10)]
    figure = spectrogram_figure(capture(), SMALL, emissions=[*many, Emission("WLAN", start=1.0, stop=2.0, high=1e5)])
    assert len(boxes(figure)) == 10
    assert [text.get_text() for text in figure.axes[0].texts] == ["NR"]


def test_boxes_follow_the_start():
    figure = spectrogram_figure(capture(20_000), SMALL, start=2e-3)
    (box,) = boxes(figure)
    assert (box.get_x(), box.get_width()) == (pytest.approx(0.0), pytest.approx(2.0))


def test_padding_is_hatched_from_its_first_column():
    figure = spectrogram_figure(capture(8192), SMALL)
    (hatched,) = [patch for patch in figure.axes[0].patches if patch.get_hatch()]
    assert (hatched.get_x(), hatched.get_width()) == (pytest.approx(8.0), pytest.approx(8.0))
    assert not [patch for patch in spectrogram_figure(capture(), SMALL).axes[0].patches if patch.get_hatch()]


@pytest.mark.parametrize("change", [{}, {"fftshift": False}, {"axes": "time-frequency"}, {"channels": "viridis"}])
def test_finished_pictures_stand_upright_whatever_the_recipe(change):
    recipe = replace(SMALL, **change)
    picture = recipe.of_capture(capture()).db[0].numpy()
    turned = upright(picture, recipe)
    assert turned.shape == (64, 64, recipe.in_chans)
    assert np.argmax(turned[:, 5].sum(-1)) == 48
    figure = spectrogram_figure(picture, recipe, sample_rate=RATE, title="t")
    assert figure.axes[0].get_title() == "t"
    assert png_bytes(figure, dpi=40).startswith(b"\x89PNG")


def test_picture_without_a_rate_is_refused():
    with pytest.raises(ConfigError, match="without a sample rate"):
        spectrogram_figure(np.zeros((1, 64, 64)), SMALL)


def test_empty_and_silent_pictures_are_drawn():
    png_bytes(spectrogram_figure(np.full((1, 64, 64), SMALL.floor_db), SMALL, sample_rate=RATE), dpi=30)
    silent = np.zeros(64, dtype=bool)
    figure = spectrogram_figure(np.zeros((1, 64, 64)), SMALL, sample_rate=RATE, valid=silent)
    (hatched,) = [patch for patch in figure.axes[0].patches if patch.get_hatch()]
    assert hatched.get_width() == pytest.approx(16.0)


def test_labels_say_what_is_known():
    assert box_label(Emission("LTE", modulation="16QAM")) == "LTE 16QAM"
    assert box_label(Emission("")) == "?"


def test_pyplot_is_left_alone(root):
    import subprocess
    import sys

    code = "import lwm.signal.plot, sys; assert not {'matplotlib', 'matplotlib.pyplot'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
