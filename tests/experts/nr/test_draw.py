"""Random draws: balance, few rejected, PRACH of the tables, every emission alone in its box, one plan for a draw."""

from dataclasses import replace

import numpy as np
import pytest

from experts.nr import NR, NRConfig, Uplink
from experts.nr.uplink.prach_configurations import configuration, configuration_indices
from lwm.errors import RejectedConfig
from lwm.seeding import rng_for

DRAWS = 240


@pytest.fixture(scope="module")
def drawn() -> list[NRConfig]:
    """Default draws of 1 ms; a rejected one is left out."""
    found = []
    for number in range(DRAWS):
        try:
            found.append(NR().sample(rng_for(31, number), duration=0.001))
        except RejectedConfig:
            continue
    return found


def test_few_default_draws_are_rejected(drawn):
    # Captures of 16 ms are rejected far less often: in 1 ms there may be no slot of the link.
    assert len(drawn) >= 0.95 * DRAWS


def within(values: list, share: float = 1.0) -> None:
    """Every value comes within five standard deviations of as often as the others: about 1 in 10^6 by chance."""
    names, counts = np.unique([str(value) for value in values], return_counts=True)
    expected = len(values) / len(names) * share
    deviation = np.sqrt(expected * (1 - 1 / len(names)))
    assert len(names) >= 2
    assert np.abs(counts - len(values) / len(names)).max() < 5 * deviation


def test_default_draws_are_balanced(drawn):
    """Uniform where nothing else decides: link, frequency range, bandwidth in FR2, modulation of each link."""
    within([config.link for config in drawn])
    within([config.carrier.frequency_range for config in drawn])
    within([config.bandwidth for config in drawn if config.carrier.frequency_range == "FR2"])
    for link in ("downlink", "uplink"):
        within([config.users[0].modulation for config in drawn if config.link == link and config.users])
    within([config.ssb.period_ms for config in drawn if config.ssb])
    downlink = [config for config in drawn if config.link == "downlink"]
    assert {len(config.users) for config in downlink} >= {1, 2, 3, 4, 6, 8}
    assert {bool(config.csi_rs) for config in downlink} == {True, False}
    uplink = [config.uplink for config in drawn if config.uplink]
    assert {len(each.srs) for each in uplink} == set(range(9))
    assert {report.pucch.format for each in uplink for report in each.reports} == set(range(5))


def test_drawn_pucch_belongs_to_ues_with_pusch(drawn):
    reports = [
        (report.pucch.rnti, len(config.users))
        for config in drawn
        if config.uplink and config.users
        for report in config.uplink.reports
    ]
    assert len(reports) > 50
    assert all(1 <= rnti <= users for rnti, users in reports)


def test_prach_of_fr1_is_a_row_of_the_standards_tables(drawn):
    """TS 38.211 tables 6.3.3.2-2 and -3, by what is left of the configuration index: format and occasions."""
    legal = {
        paired: [
            configuration(index, paired, spacing) for index in configuration_indices(paired) for spacing in (15, 30)
        ]
        for paired in (True, False)
    }
    seen = set()
    for config in drawn:
        if config.uplink and config.uplink.prach and config.carrier.frequency_range == "FR1":
            prach = config.uplink.prach
            assert (prach.format, prach.occasions) in legal[config.tdd is None]
            assert prach.occasions.period[0] <= 2
            seen.add(prach.format)
    assert len(seen) >= 2


def share_in_boxes(capture) -> float:
    """Share of the energy inside the emissions, which must not overlap."""
    rate, inside = capture.sample_rate, 0.0
    for box in capture.emissions:
        part = capture.iq[round(box.start * rate) : round(box.stop * rate)].astype(complex)
        spectrum = np.abs(np.fft.fft(part)) ** 2 / part.size
        frequency = np.fft.fftfreq(part.size, 1 / rate)
        inside += spectrum[(frequency >= box.low) & (frequency <= box.high)].sum()
    return inside / np.sum(np.abs(capture.iq.astype(complex)) ** 2)


def outside(capture) -> float:
    """Share of the energy that the sidelobes of rectangular symbols with prefix put beyond the narrowest box.

    Closed form: the sinc-shaped density of each of K neighbouring subcarriers outside their band, their mean.
    """
    spacing = capture.facts["subcarrier_spacing"]
    count = round(min(box.high - box.low for box in capture.emissions) / spacing)
    step = 1 / 64
    offset = np.arange(-512, 512, step) + step / 2
    density = (1 + 9 / 128) * np.sinc((1 + 9 / 128) * offset) ** 2 * step
    below = np.cumsum(density)
    subcarrier = np.arange(count)
    inside = np.interp(count - 0.5 - subcarrier, offset, below) - np.interp(-0.5 - subcarrier, offset, below)
    return 1 - float(np.mean(inside))


def alone(config: NRConfig) -> dict[str, list[NRConfig]]:
    """The configuration's emitters, each alone, by channel."""
    if config.uplink is None:
        bare = replace(config, users=(), csi_rs=(), ssb=None)
        return {
            "SSB": [replace(bare, ssb=config.ssb)],
            "PDSCH": [replace(bare, users=(user,)) for user in config.users],
            "CSI-RS": [replace(bare, csi_rs=(each,)) for each in config.csi_rs],
        }
    bare = replace(config, users=(), uplink=Uplink())
    uplink = config.uplink
    return {
        "PUSCH": [replace(bare, users=(user,)) for user in config.users],
        "SRS": [replace(bare, uplink=Uplink(srs=(each,))) for each in uplink.srs],
        "PUCCH": [replace(bare, uplink=Uplink(reports=(each,))) for each in uplink.reports],
        "PRACH": [replace(bare, uplink=Uplink(prach=uplink.prach))],
    }


def test_every_drawn_emission_has_its_energy_in_its_box():
    """99 %, but for narrow PUCCH and SRS what their sidelobes leave, twice as much: few values, not their mean."""
    checked: dict[str, int] = {}
    for number in range(12):
        link = ("downlink", "uplink")[number % 2]
        rng = rng_for(32, number)
        config = NR().sample(rng, bandwidth=(20e6, 50e6)[number // 2 % 2], link=link, duration=0.006)
        for channel, singles in alone(config).items():
            for single in singles[:2]:
                try:
                    capture = NR().synthesize(single, rng)
                except RejectedConfig:
                    continue  # Not sent inside the capture.
                cut = any(box.start <= 0 or box.stop >= capture.duration for box in capture.emissions)
                if cut and channel in ("PUCCH", "SRS"):
                    continue  # Part of a symbol has wider sidelobes.
                allowed = max(0.01, 2 * outside(capture)) if channel in ("PUCCH", "SRS") else 0.01
                assert 1 - share_in_boxes(capture) < allowed, (number, channel)
                checked[channel] = checked.get(channel, 0) + 1
    assert set(checked) >= {"SSB", "PDSCH", "CSI-RS", "PUSCH", "SRS", "PUCCH"}


def test_the_plan_of_a_draw_is_that_of_the_same_configuration():
    """What ``sample`` keeps for ``synthesize`` changes nothing, and another configuration does not get it."""
    nr = NR()
    first, second = (nr.sample(rng_for(33, number), bandwidth=5e6, duration=0.003) for number in range(2))
    kept, fresh, again = (
        nr.synthesize(second, rng_for(4)),
        NR().synthesize(second, rng_for(4)),
        nr.synthesize(second, rng_for(4)),
    )
    np.testing.assert_array_equal(kept.iq, fresh.iq)
    np.testing.assert_array_equal(kept.iq, again.iq)
    assert kept.facts == fresh.facts
    np.testing.assert_array_equal(nr.synthesize(first, rng_for(4)).iq, NR().synthesize(first, rng_for(4)).iq)
