"""Facts of records: against emissions placed by hand, and captions made of them."""

from typing import Any

import numpy as np
import pytest

from lwm.data.plan import NOISE
from lwm.language.captions import OF_SIGNAL, caption, facts_of, megahertz, title_of
from lwm.language.facts import CANNOT_TELL, counted, regions_of, seen_of
from lwm.seeding import rng_for

COLUMNS = 64
MS = 1e-3
RECORD = {
    "technology": "gamma",
    "link": "downlink",
    "modulation": "QPSK",
    "mobility": "vehicular",
    "snr_db": 13.4,
    "sample_rate": 15.36e6,
    "bandwidth": 10e6,
    "duration": 0.0041,
    "valid_columns": 17,
    "emissions": [{"technology": "gamma", "start": 0.0, "stop": 0.0041, "low": -4.5e6, "high": 4.5e6}],
    "facts": {"subcarrier_spacing": 30e3, "number_of_ues": 3},
}


def seen(*boxes: tuple[float, float, float, float], technologies: tuple[str, ...] = ()) -> dict[str, str]:
    """Facts of a capture of 16 ms at 8 Msamples/s with emissions given in ms and MHz."""
    named = technologies or ("gamma",) * len(boxes)
    emissions = [
        {"technology": name, "start": a * MS, "stop": b * MS, "low": c * 1e6, "high": d * 1e6}
        for name, (a, b, c, d) in zip(named, boxes, strict=True)
    ]
    record: dict[str, Any] = {"emissions": emissions, "duration": 16 * MS, "sample_rate": 8e6, "valid_columns": 64}
    return facts_of(record, COLUMNS)


def test_facts_are_rounded_to_their_grids() -> None:
    assert facts_of(RECORD, COLUMNS) == {
        "technology": "gamma",
        "link": "downlink",
        "modulation": "QPSK",
        "mobility": "vehicular",
        "snr": "15",
        "numerology": "30",
        "users": "3",
        "emissions": "1",
        "bandwidth": "9",
        "temporal": "continuous",
        "place": "middle third, throughout",
        "sample_rate": "15.36",
        "duration": "4",
        "valid": "30",
        "padded": "yes",
    }


def test_an_unstated_fact_is_left_out() -> None:
    assert facts_of({"technology": "adsb"}, COLUMNS) == {"technology": "adsb"}
    # A recording without annotations may hold anything: it has no emissions to count, not none.
    bare = facts_of({"technology": "adsb", "emissions": [], "duration": 0.016, "sample_rate": 2e6}, COLUMNS)
    assert set(bare) == {"technology", "duration", "sample_rate"}


def test_of_noise_alone_nothing_about_a_signal_can_be_told() -> None:
    record = {"technology": NOISE, "emissions": [], "duration": 0.016, "sample_rate": 7.68e6, "valid_columns": 64}
    facts = facts_of(record, COLUMNS)
    assert {facts[name] for name in OF_SIGNAL} == {CANNOT_TELL}
    assert (facts["emissions"], facts["duration"], facts["padded"]) == ("0", "16", "no")
    assert caption(facts) == "Only noise is seen; there is no emission. It lasts 16 ms. It fills the window."


@pytest.mark.parametrize(
    ("boxes", "count", "temporal"),
    [
        ([(0, 16, -2, 2)], "1", "continuous"),
        ([(0, 15.8, -2, 2)], "1", "continuous"),
        ([(0, 8, -2, 2), (8.1, 16, -2, 2)], "1", "continuous"),  # the gap is less than a column of 0.25 ms
        ([(0, 7, -2, 2), (9, 16, -2, 2)], "2", "bursty"),
        ([(0, 16, -3, -1), (0, 16, 1, 3)], "2", "continuous"),
        ([(0, 16, -3, 0), (0, 16, -1, 3)], "1", "continuous"),
        ([(0, 4, -3, -1), (3, 8, -2, 1), (8, 12, 0, 3)], "1", "bursty"),  # a chain
        ([(1 + 5 * i, 3 + 5 * i, -2, 2) for i in range(3)], "3", "periodic"),
        ([(0, 2, -2, 2), (5, 7, -2, 2), (10, 12, -2, 2)], "3", "periodic"),  # by its stops: one start is the window's
        ([(0, 2, -2, 2), (8, 10, -2, 2)], "2", "bursty"),  # two do not make a period
        ([(1, 2, -2, 2), (4, 5, -2, 2), (12, 13, -2, 2)], "3", "bursty"),
        ([(i, i + 0.5, -2, 2) for i in range(8)], "8", "periodic"),
        ([(i, i + 0.5, -2, 2) for i in range(9)], "more than 8", "periodic"),
    ],
)
def test_emissions_are_counted_and_named_by_their_time(boxes: Any, count: str, temporal: str) -> None:
    facts = seen(*boxes)
    assert (facts["emissions"], facts["temporal"]) == (count, temporal)


def test_emissions_of_two_technologies_are_never_one() -> None:
    assert seen((0, 16, -3, 1), (0, 16, -1, 3), technologies=("gamma", "delta"))["emissions"] == "2"


def test_occupied_bandwidth_is_the_union_inside_the_capture() -> None:
    assert seen((0, 8, -2, 0), (4, 16, -1, 1))["bandwidth"] == "3"
    assert seen((0, 16, -3, -2.4), (0, 16, 2, 2.8))["bandwidth"] == "1"
    assert seen((0, 16, -10, 10))["bandwidth"] == "8"  # the sample rate
    assert seen((0, 16, -0.1, 0.1))["bandwidth"] == "1"  # never nothing
    assert "bandwidth" not in seen((0, 16, 5, 6))  # outside the capture


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ((0, 16, -4, 4), "whole window"),
        ((0, 5, -4, 4), "whole band, early"),
        ((6, 10, -3.9, 3.9), "whole band, middle"),
        ((0, 16, -4, -2), "lower third, throughout"),
        ((12, 16, 2, 4), "upper third, late"),
        ((6, 10, -1, 1), "middle third, middle"),
    ],
)
def test_the_place_of_an_emission(box: Any, place: str) -> None:
    assert seen(box)["place"] == place
    # A shorter one elsewhere does not change it; one that is as long makes it ambiguous.
    start, stop, low, high = box
    if stop - start < 10:
        later = 11 if stop < 11 else 0
        assert seen(box, (later, later + 1, low, high))["place"] == place
        assert "place" not in seen(box, (later, later + stop - start, low, high))


def test_regions_agree_with_a_flood_fill() -> None:
    """Random boxes on a grid: regions are counted by labelling the picture that they paint."""
    from scipy.ndimage import label

    rng = rng_for(3, "boxes")
    for _ in range(50):
        sides, corners = rng.integers(1, 16, (6, 2)), rng.integers(0, 48, (6, 2))
        boxes = np.stack([corners[:, 0], corners[:, 0] + sides[:, 0], corners[:, 1], corners[:, 1] + sides[:, 1]], 1)
        painted = np.zeros((64, 64), bool)
        emissions = []
        for start, stop, low, high in boxes:
            painted[start:stop, low:high] = True
            emissions.append({"technology": "x", "start": start, "stop": stop, "low": low - 32, "high": high - 32})
        found = seen_of({"emissions": emissions, "duration": 64.0, "sample_rate": 64.0, "valid_columns": 64}, 64)
        assert found is not None
        assert len(regions_of(found)) == label(painted, np.ones((3, 3)))[1]


def test_an_installed_technology_gives_its_title() -> None:
    assert title_of("lte") == "LTE"
    assert title_of("adsb") == "adsb"


def test_a_caption_says_every_fact_and_that_a_short_capture_was_padded() -> None:
    text = caption(facts_of(RECORD, COLUMNS))
    for said in ("gamma downlink", "9 MHz", "QPSK", "15 dB", "vehicular", "4 ms", "padded; 30 %", "with one emission"):
        assert said in text
    whole = caption(facts_of(RECORD | {"valid_columns": 64}, COLUMNS))
    assert "fills the window" in whole
    assert "padded" not in whole
    assert "{" not in text + whole
    assert (
        caption({"technology": "WLAN", "link": "both"}) == "The capture shows one WLAN signal of both link directions."
    )


def test_megahertz_has_no_trailing_zeros() -> None:
    assert [megahertz(f) for f in (20e6, 15.36e6, 1.92e6, 2.4e6)] == ["20", "15.36", "1.92", "2.4"]
    assert [counted(number) for number in (0, 8, 9, 40)] == ["0", "8", "more than 8", "more than 8"]
