"""Captures, emissions and their errors."""

import math

import numpy as np
import pytest

from lwm.errors import CaptureError
from lwm.signal.capture import Capture, Emission


def ramp(samples=1000, rate=1e6, **more):
    return Capture(np.arange(samples, dtype=np.complex64), rate, **more)


@pytest.mark.parametrize("rate", [None, 0, -1.0, math.nan, math.inf])
def test_sample_rate_must_be_positive_and_the_remedy_is_named(rate):
    with pytest.raises(CaptureError, match=r"sample rate .*positive number of Hz; state it \(--sample_rate\)"):
        Capture(np.ones(4, np.complex64), rate)


def test_iq_must_have_one_dimension():
    with pytest.raises(CaptureError, match=r"shape \(2, 3\)"):
        Capture(np.ones((2, 3), np.complex64), 1e6)


@pytest.mark.parametrize("bad", [np.nan, complex(0, np.inf)])
def test_first_sample_that_is_not_finite_is_named(bad):
    capture = ramp()
    capture.iq[[7, 9]] = bad
    with pytest.raises(CaptureError, match="IQ sample 7 is not finite"):
        capture.require_finite()


def test_window_cuts_samples_and_moves_emissions():
    boxes = [Emission("a", start=1e-4, stop=4e-4, low=-1, high=1), Emission("b", start=8e-4, stop=9e-4, high=1)]
    part = ramp(emissions=boxes, facts={"x": 1}).window(2e-4, 5e-4)
    assert part.iq[0] == 200
    assert part.duration == pytest.approx(5e-4)
    (left,) = part.emissions
    assert (left.technology, left.start, left.stop) == ("a", 0.0, pytest.approx(2e-4))
    assert part.facts == {"x": 1}


def test_window_before_the_capture_is_refused():
    with pytest.raises(CaptureError, match="0 s or later"):
        ramp().window(-1e-4, 1e-4)


def test_emission_must_not_end_before_it_begins():
    for box in ({"start": 1.0, "stop": 0.5}, {"low": 1.0, "high": 0.0}, {"start": math.nan, "stop": 1.0}):
        with pytest.raises(CaptureError, match="stop >= start and high >= low"):
            Emission("x", **box)


def test_emission_clips_to_the_capture_or_vanishes():
    box = Emission("x", start=-1.0, stop=2.0, low=-5.0, high=50.0)
    inside = box.clipped(1.0, 10.0)
    assert (inside.start, inside.stop, inside.low, inside.high) == (0.0, 1.0, -5.0, 10.0)
    assert box.shifted(seconds=5.0).clipped(1.0, 10.0) is None
    assert box.shifted(hertz=-100.0).clipped(1.0, 10.0) is None
