"""Tables of TR 38.901 and the draws made from them."""

import json

import numpy as np
import pytest

from lwm.channel import PROFILES, TDLDraw, draw_tdl
from lwm.channel.draw import SINUSOIDS
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
    draw = TDLDraw("TDL-A", 100e-9, seed=1)
    assert draw.delays_s.max() == pytest.approx(965.86e-9)
    assert draw.delays_s[1] == pytest.approx(38.19e-9)


def test_draw_survives_json_and_stands_for_the_same_angles():
    draw = draw_tdl(3, 17)
    again = TDLDraw.from_dict(json.loads(json.dumps(draw.to_dict())))
    assert again == draw
    assert again.id == draw.id
    for mine, theirs in zip(draw.rays, again.rays, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_draws_differ_by_index_and_by_seed():
    draws = [draw_tdl(seed, index) for seed in (0, 1) for index in range(50)]
    assert len({draw.id for draw in draws}) == 100
    assert {draw.profile for draw in draws} == set(PROFILES)
    assert all(30e-9 <= draw.delay_spread_s <= 300e-9 for draw in draws)


def test_each_sector_of_the_circle_holds_one_sinusoid():
    cosines, amplitudes = TDLDraw("TDL-A", 1e-7, seed=5).rays
    assert cosines.shape == amplitudes.shape == (23, SINUSOIDS)
    edges = np.cos(2 * np.pi / SINUSOIDS * np.arange(SINUSOIDS + 1))
    low, high = np.minimum(edges[:-1], edges[1:]), np.maximum(edges[:-1], edges[1:])
    assert ((cosines >= low - 1e-12) & (cosines <= high + 1e-12)).all()
    np.testing.assert_allclose((np.abs(amplitudes) ** 2).sum(axis=1), PROFILES["TDL-A"].powers)


def test_line_of_sight_is_one_more_ray_of_the_first_tap():
    cosines, amplitudes = TDLDraw("TDL-D", 1e-7, seed=5).rays
    assert cosines.shape == amplitudes.shape == (13, SINUSOIDS + 1)
    assert cosines[0, -1] == 0.7
    assert abs(amplitudes[0, -1]) ** 2 == pytest.approx(PROFILES["TDL-D"].los_power)
    assert not amplitudes[1:, -1].any()
    assert (np.abs(amplitudes) ** 2).sum() == pytest.approx(1)


@pytest.mark.parametrize("spread", [-1e-9, 2e-5, float("nan"), float("inf")])
def test_delay_spread_out_of_range_is_refused_with_the_range(spread):
    with pytest.raises(ConfigError, match=r"delay spread .* expected 0 to 1e-05 s"):
        TDLDraw("TDL-A", spread, seed=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": "1"}, "seed '1'; expected a whole number, 0 or more"),
        ({"seed": 1.5}, "seed 1.5; expected a whole number"),
        ({"index": True}, "index True; expected a whole number"),
        ({"delay_spread_s": "1e-7"}, "delay spread '1e-7'; expected a number, 0 to 1e-05 s"),
        ({"delay_spread_s": None}, "delay spread None; expected a number"),
        ({"delay_spread_s": 10**400}, "delay spread beyond 1e308 s; expected 0 to"),
        ({"profile": ["TDL-A"]}, "no channel profile"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        TDLDraw(**{"profile": "TDL-A", "delay_spread_s": 1e-7, "seed": 0, **wrong})


def test_numbers_of_numpy_make_the_same_draw():
    draw = TDLDraw("TDL-A", np.float32(2**-23), np.int64(4), np.uint8(2))
    assert draw == TDLDraw("TDL-A", 2.0**-23, 4, 2)
    assert json.loads(json.dumps(draw.to_dict())) == draw.to_dict()
    np.testing.assert_array_equal(draw.rays.cosines, TDLDraw("TDL-A", 1e-7, 4, 2).rays.cosines)
    assert draw_tdl(np.int64(3), np.int64(17), delay_spreads_s=np.array([1e-8, 1e-7])) == draw_tdl(
        3, 17, delay_spreads_s=(1e-8, 1e-7)
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"profiles": []}, r"channel profiles \[\]; expected a list of some of"),
        ({"profiles": "TDL-A"}, "channel profiles 'TDL-A'"),
        ({"delay_spreads_s": (1e-8,)}, "the smallest and the largest"),
        ({"delay_spreads_s": ("a", 1e-7)}, "smallest delay spread 'a'; expected a number"),
        ({"seed": "x"}, "seed 'x'; expected a whole number"),
        ({"index": -1}, "index -1; expected a whole number"),
    ],
)
def test_draws_from_nothing_or_from_the_wrong_kind_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        draw_tdl(**{"seed": 0, "index": 0, **wrong})


def test_unknown_profile_and_fields_are_refused():
    with pytest.raises(ConfigError, match="no channel profile 'EPA'; expected one of .*'TDL-A'"):
        TDLDraw("EPA", 1e-7, seed=0)
    with pytest.raises(ConfigError, match="expected exactly"):
        TDLDraw.from_dict({"model": "tdl", "profile": "TDL-A", "spread": 1e-7})
    with pytest.raises(ConfigError, match="of model 'site'; expected 'tdl'"):
        TDLDraw.from_dict({"model": "site"})
    with pytest.raises(ConfigError, match="0 or more"):
        TDLDraw("TDL-A", 1e-7, seed=-1)
