"""Tables of TR 38.901 and the draws made from them."""

import json

import numpy as np
import pytest

from lwm.channel import PROFILES, ChannelDraw, draw_channel
from lwm.channel.tdl import SINUSOIDS
from lwm.errors import ConfigError


@pytest.mark.parametrize(("name", "taps"), [("TDL-A", 23), ("TDL-B", 23), ("TDL-C", 24), ("TDL-D", 13), ("TDL-E", 14)])
def test_profile_has_the_taps_of_the_table_and_unit_power(name, taps):
    profile = PROFILES[name]
    assert len(profile.delays) == len(profile.powers_db) == taps
    assert profile.powers.sum() + profile.los_power == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", list(PROFILES))
def test_rms_delay_spread_of_the_normalised_table_is_one(name):
    # Clause 7.7.3 scales delays by the wanted spread, which only works on tables whose own spread is 1.
    profile = PROFILES[name]
    powers = np.append(profile.powers, profile.los_power)
    delays = np.append(profile.delays, 0.0)
    mean = powers @ delays
    assert np.sqrt(powers @ (delays - mean) ** 2) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("name", "factor_db"), [("TDL-D", 13.3), ("TDL-E", 22.0)])
def test_line_of_sight_has_the_k_factor_of_the_table(name, factor_db):
    profile = PROFILES[name]
    assert 10 * np.log10(profile.los_power / profile.powers[0]) == pytest.approx(factor_db, abs=0.01)


def test_delays_scale_with_the_delay_spread():
    draw = ChannelDraw("TDL-A", 100e-9, seed=1)
    assert draw.delays_s.max() == pytest.approx(965.86e-9)
    assert draw.delays_s[1] == pytest.approx(38.19e-9)


def test_draw_survives_json_and_stands_for_the_same_angles():
    draw = draw_channel(3, 17)
    again = ChannelDraw.from_dict(json.loads(json.dumps(draw.to_dict())))
    assert again == draw
    assert again.id == draw.id
    for mine, theirs in zip(draw.sinusoids, again.sinusoids, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_draws_differ_by_index_and_by_seed():
    draws = [draw_channel(seed, index) for seed in (0, 1) for index in range(50)]
    assert len({draw.id for draw in draws}) == 100
    assert {draw.profile for draw in draws} == set(PROFILES)
    assert all(30e-9 <= draw.delay_spread_s <= 300e-9 for draw in draws)


def test_each_sector_of_the_circle_holds_one_sinusoid():
    cosines, amplitude, los = ChannelDraw("TDL-D", 1e-7, seed=5).sinusoids
    assert cosines.shape == amplitude.shape == (13, SINUSOIDS)
    edges = np.cos(2 * np.pi / SINUSOIDS * np.arange(SINUSOIDS + 1))
    low, high = np.minimum(edges[:-1], edges[1:]), np.maximum(edges[:-1], edges[1:])
    assert ((cosines >= low - 1e-12) & (cosines <= high + 1e-12)).all()
    assert abs(los) ** 2 == pytest.approx(PROFILES["TDL-D"].los_power)


@pytest.mark.parametrize("spread", [-1e-9, 2e-5, float("nan"), float("inf")])
def test_delay_spread_out_of_range_is_refused_with_the_range(spread):
    with pytest.raises(ConfigError, match=r"delay spread .* expected 0 to 1e-05 s"):
        ChannelDraw("TDL-A", spread, seed=0)


def test_unknown_profile_and_fields_are_refused():
    with pytest.raises(ConfigError, match="no channel profile 'EPA'; expected one of .*'TDL-A'"):
        ChannelDraw("EPA", 1e-7, seed=0)
    with pytest.raises(ConfigError, match="expected exactly"):
        ChannelDraw.from_dict({"profile": "TDL-A", "spread": 1e-7})
    with pytest.raises(ConfigError, match="0 or more"):
        ChannelDraw("TDL-A", 1e-7, seed=-1)
