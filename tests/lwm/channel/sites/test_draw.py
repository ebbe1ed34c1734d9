"""Draws of a site: unit power, delays and Doppler against closed forms, both kinds of fading."""

import json

import numpy as np
import pytest
from scipy.special import j0

from lwm.channel.sites import SITES, SiteDraw, draw_site, site_table
from lwm.errors import ConfigError


def gain_at(draw: SiteDraw, turns: np.ndarray) -> np.ndarray:
    """Gains ``[taps, times]`` of the contract, with time in turns of the largest Doppler."""
    cosines, amplitudes = draw.rays
    return (amplitudes[..., None] * np.exp(2j * np.pi * cosines[..., None] * turns)).sum(axis=1)


@pytest.mark.parametrize("fading", ["rayleigh", "traced"])
def test_draws_have_the_first_arrival_at_0_and_unit_power(fading):
    for index in range(200):
        draw = draw_site(3, index, fading=fading)
        assert draw.delays_s[0] == 0.0
        assert (np.diff(draw.delays_s) > 0).all()
        assert draw.rays.cosines.shape == draw.rays.amplitudes.shape
        assert len(draw.rays.cosines) == len(draw.delays_s)
        assert np.abs(draw.rays.cosines).max() <= 1
        assert (np.abs(draw.rays.amplitudes) ** 2).sum() == pytest.approx(1.0)


def test_mean_power_over_draws_is_1():
    # Mean over 2,000 draws of the power of all taps at time 0. Each is at most as spread as one Rayleigh tap (variance
    # 1), so the standard error is at most 1 / sqrt(2000) = 0.022: three of them.
    power = [(np.abs(gain_at(draw_site(5, index, "munich"), np.zeros(1))) ** 2).sum() for index in range(2000)]
    assert np.mean(power) == pytest.approx(1.0, abs=0.067)


def receiver_with(site: str, sight: bool, paths: int) -> int:
    """First receiver of a site in or out of sight with at least so many paths."""
    table = site_table(site)
    return int(np.flatnonzero((table.line_of_sight == sight) & (table.path_counts >= paths))[0])


def test_traced_doppler_is_the_closed_form_of_each_arrival():
    receiver = receiver_with("munich", True, 5)
    draw = SiteDraw("munich", receiver, "traced", seed=11)
    table = site_table("munich")
    paths = table.paths(receiver)
    assert draw.travel[2] == 0
    assert np.linalg.norm(draw.travel) == pytest.approx(1)
    # One unit vector towards each arrival, dotted with the direction of travel; then the channel at the carrier is
    # that of a terminal displaced by half a wavelength, each path turned by the shorter way that it now has.
    zenith, azimuth = table.zeniths_rad[paths], table.azimuths_rad[paths]
    arrival = np.stack([np.sin(zenith) * np.cos(azimuth), np.sin(zenith) * np.sin(azimuth), np.cos(zenith)], axis=1)
    wavelength = 299_792_458 / table.carrier_hz
    moved = 0.5 * wavelength * draw.travel
    amplitude = 10 ** (table.powers_db[paths] / 20) * np.exp(1j * table.phases_rad[paths])
    amplitude = amplitude / np.linalg.norm(amplitude)
    expected = (amplitude * np.exp(2j * np.pi / wavelength * (arrival @ moved))).sum()
    assert gain_at(draw, np.array([0.5])).sum() == pytest.approx(expected, abs=1e-12)


def test_driving_at_the_transmitter_raises_the_frequency_of_the_direct_path():
    table = site_table("simple_street_canyon")
    receiver = receiver_with("simple_street_canyon", True, 1)
    towards = table.transmitter_m - table.receivers_m[receiver]
    draws = [SiteDraw("simple_street_canyon", receiver, "traced", seed) for seed in range(40)]
    along = np.array([draw.travel @ towards / np.linalg.norm(towards) for draw in draws])
    direct = np.array([draw.rays.cosines[0, 0] for draw in draws])
    # Half a step of azimuth and of zenith.
    assert np.abs(direct - along).max() <= np.pi / 256 + np.pi / 510
    assert along.min() < -0.5
    assert along.max() > 0.5


def test_faded_taps_have_the_traced_powers_and_the_jakes_autocorrelation():
    receiver = receiver_with("florence", False, 6)
    table = site_table("florence")
    powers = 10 ** (table.powers_db[table.paths(receiver)] / 10)
    draws = [SiteDraw("florence", receiver, "rayleigh", seed) for seed in range(3000)]
    turns = np.array([0.0, 0.2, 0.5])
    gains = np.array([gain_at(draw, turns) for draw in draws])
    autocorrelation = (gains * gains[..., :1].conj()).mean(axis=0)
    expected = np.zeros(len(draws[0].delays_s))
    excess = table.delays_s[table.paths(receiver)] - table.first_arrivals_s[receiver]
    for delay, power in zip(excess, powers / powers.sum(), strict=True):
        expected[np.abs(draws[0].delays_s - delay).argmin()] += power
    # Standard error of a mean of 3,000 products of unit-power Rayleigh taps: at most 1 / sqrt(3000) of the tap's power.
    error = 4.5 * expected[:, None] / np.sqrt(3000)
    assert (np.abs(autocorrelation - expected[:, None] * j0(2 * np.pi * turns)) <= error).all()


def test_direct_path_does_not_fade():
    receiver = receiver_with("etoile", True, 4)
    table = site_table("etoile")
    at = table.paths(receiver)
    share = 10 ** (table.powers_db[at] / 10)
    share = share[table.los[at]].sum() / share.sum()
    first = np.array([gain_at(SiteDraw("etoile", receiver, "rayleigh", seed), np.zeros(1))[0, 0] for seed in range(20)])
    assert np.abs(first) ** 2 == pytest.approx(np.full(20, share))


def test_draws_are_the_same_from_their_dict_and_differ_by_seed_and_index():
    draw = draw_site(7, 2, ["etoile", "florence"])
    again = SiteDraw.from_dict(json.loads(json.dumps(draw.to_dict())))
    assert again == draw
    assert hash(again) == hash(draw)
    assert again.id == draw.id
    assert draw.to_dict()["model"] == "site"
    assert np.array_equal(again.rays.amplitudes, draw.rays.amplitudes)
    others = [
        SiteDraw(draw.site, draw.receiver, "rayleigh", 7, 3),
        SiteDraw(draw.site, draw.receiver, "rayleigh", 8, 2),
    ]
    assert len({draw.id, *(other.id for other in others)}) == 3
    assert all(not np.allclose(other.rays.amplitudes, draw.rays.amplitudes) for other in others)


def test_draw_site_reaches_every_site_and_keeps_away_from_those_not_named():
    seen = [draw_site(1, index) for index in range(100)]
    assert {draw.site for draw in seen} == set(SITES)
    assert len({draw.receiver for draw in seen}) > 90
    assert {draw_site(1, index, SITES[:4]).site for index in range(100)} == set(SITES[:4])


def test_facts_are_those_of_the_table():
    draw = SiteDraw("munich", 17)
    table = site_table("munich")
    assert draw.facts["received_power_db"] == pytest.approx(table.received_power_db[17], abs=0.01)
    assert draw.facts["distance_m"] == pytest.approx(table.distances_m[17], abs=0.01)
    assert draw.facts["line_of_sight"] == table.line_of_sight[17]
    assert json.loads(json.dumps(draw.facts)) == draw.facts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("munich", 2000), "0 to 1999"),
        (("munich", -1), "0 to 1999"),
        (("munich", 0, "ricean"), "'rayleigh', 'traced'"),
        (("munich", 0, "traced", -1), "seed -1; expected a whole number, 0 or more"),
        (("munich", 0, "traced", "3"), "seed '3'; expected a whole number"),
        (("munich", 0, "traced", 0, 1.5), "index 1.5; expected a whole number"),
        (("munich", 2.5), "receiver 2.5; expected a whole number, 0 to 1999"),
        ((5, 0), "no site 5; expected one of"),
        (("nowhere", 0), "one of"),
    ],
)
def test_impossible_draws_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SiteDraw(*arguments)


def test_numbers_of_numpy_and_paths_make_the_same_draw(tmp_path):
    draw = SiteDraw("munich", np.int64(3), "traced", np.uint8(2), np.int32(1))
    assert draw == SiteDraw("munich", 3, "traced", 2, 1)
    assert np.array_equal(draw.travel, SiteDraw("munich", 3, "traced", 2, 1).travel)
    assert json.loads(json.dumps(draw.to_dict())) == draw.to_dict()
    assert draw_site(np.int64(7), np.int64(2)) == draw_site(7, 2)
    site_table("munich").save(tmp_path / "a.npz")
    assert SiteDraw(tmp_path / "a.npz", 3) == SiteDraw(str(tmp_path / "a.npz"), 3)
    with pytest.raises(ConfigError, match="seed 1.5; expected a whole number"):
        draw_site(1.5, 0)


def test_traced_draws_say_that_their_phases_hold_at_one_carrier():
    assert "phases hold at the table's carrier" in " ".join(SiteDraw.__doc__.split())


def test_dicts_of_something_else_are_refused():
    plain = SiteDraw("munich", 0).to_dict()
    with pytest.raises(ConfigError, match="model 'tdl'"):
        SiteDraw.from_dict({**plain, "model": "tdl"})
    with pytest.raises(ConfigError, match="exactly"):
        SiteDraw.from_dict({**plain, "speed": 3})
    with pytest.raises(ConfigError, match="no site to draw from"):
        draw_site(0, 0, [])
