"""What is drawn for samples: sites kept apart, classes balanced, impairments at their levels."""

import dataclasses
from collections import Counter

import pytest

from lwm.channel.impairments import FAMILIES
from lwm.channel.sites import SiteDraw, site_table
from lwm.data.draws import CHANNELS_PER_SPLIT, IMPAIRMENTS, ChannelPlan, ImpairmentPlan
from lwm.data.manifest import SPLITS
from lwm.errors import ConfigError
from lwm.seeding import rng_for

DRAWS = {"train": 60, "validation": 10, "test": 20}


def sited(**sites):
    return ChannelPlan(draws=DRAWS, sites={name: tuple(found) for name, found in sites.items()})


def receivers(plan, split):
    draws = [plan.channel(0, split, number) for number in range(DRAWS[split])]
    assert all(isinstance(draw, SiteDraw) for draw in draws)
    return [(draw.site, draw.receiver) for draw in draws]


def test_no_receiver_is_in_two_splits_even_where_they_share_a_site():
    plan = sited(train=["munich", "etoile"], validation=["munich"], test=["etoile", "munich"])
    seen = {split: set(receivers(plan, split)) for split in SPLITS}
    assert len(set.union(*seen.values())) == sum(map(len, seen.values()))
    assert all(len(found) == DRAWS[split] for split, found in seen.items())


def test_no_receiver_is_in_two_splits_under_two_names_of_one_table(tmp_path):
    munich = site_table("munich")
    copies = [str(tmp_path / "copy.npz"), str(tmp_path / "renamed.npz")]
    munich.save(copies[0])
    dataclasses.replace(munich, name="elsewhere", carrier_hz=2e9, provenance={}).save(copies[1])
    plan = sited(train=["munich"], validation=["etoile", copies[0]], test=[copies[1]])
    places = {
        split: {tuple(site_table(site).receivers_m[at]) for site, at in receivers(plan, split) if site != "etoile"}
        for split in SPLITS
    }
    assert {split: len(found) for split, found in places.items()} == {"train": 60, "validation": 5, "test": 20}
    assert len(set.union(*places.values())) == 85
    # A table's order does not depend on its name either: the copies stand for the same receivers.
    same = sited(train=[copies[0]], validation=["etoile", copies[1]], test=["munich"])
    assert [at for _, at in receivers(same, "train")] == [at for _, at in receivers(plan, "train")]
    with pytest.raises(ConfigError, match="channel.sites of train .*expected each table once"):
        sited(train=["munich", copies[0]])


def test_too_few_receivers_for_the_splits_are_found_at_once_with_the_numbers(tmp_path):
    munich = site_table("munich")
    end = int(munich.offsets[3])
    rows = {"receivers_m": munich.receivers_m[:3], "offsets": munich.offsets[:4]}
    columns = ("delays_s", "powers_db", "phases_rad", "azimuths_rad", "zeniths_rad", "los")
    path = str(tmp_path / "three.npz")
    dataclasses.replace(munich, **rows, **{key: getattr(munich, key)[:end] for key in columns}).save(path)
    message = r"the 3 receivers of .*three.npz would be shared as \{'train': 2, 'validation': 0, 'test': 1\}"
    with pytest.raises(ConfigError, match=message):
        sited(train=[path], validation=[path], test=[path])
    even = ChannelPlan(draws=dict.fromkeys(SPLITS, 9), sites=dict.fromkeys(SPLITS, (path,)))
    seen = [{even.channel(0, split, number).receiver for number in range(9)} for split in SPLITS]
    assert sorted(seen, key=min) == [{0}, {1}, {2}]
    # A split without draws needs no receiver.
    ChannelPlan(draws={"train": 60, "test": 20}, sites=dict.fromkeys(SPLITS, (path,)))


def test_room_of_a_split_is_never_exceeded():
    with pytest.raises(ConfigError, match=rf"channel.draws {CHANNELS_PER_SPLIT + 1}; expected at most 1048576"):
        ChannelPlan(draws={"train": CHANNELS_PER_SPLIT + 1, "validation": 1})
    plan = ChannelPlan(draws={"train": CHANNELS_PER_SPLIT, "validation": 1})
    last = plan.channel(0, "train", CHANNELS_PER_SPLIT - 1)
    assert last.index + 1 == plan.channel(0, "validation", 0).index
    with pytest.raises(ConfigError, match="channel draw of train 1048576; expected a whole number, 0 to 1048575"):
        plan.channel(0, "train", CHANNELS_PER_SPLIT)


def test_a_plan_draws_every_family_but_fading():
    assert set(FAMILIES) - set(IMPAIRMENTS) == {"tdl_sweep"}
    ImpairmentPlan(dict.fromkeys(IMPAIRMENTS, (0.0, 0.5)))
    with pytest.raises(ConfigError, match="tdl_sweep.*a plan's fading is its channel's.*for evaluation"):
        ImpairmentPlan({"tdl_sweep": (0.0, 0.5)})


def test_an_unseen_site_is_in_the_test_alone_and_sites_get_equal_shares():
    plan = sited(train=["munich", "florence", "san_francisco"], test=["etoile"])
    assert Counter(site for site, _ in receivers(plan, "train")) == {"munich": 20, "florence": 20, "san_francisco": 20}
    assert {site for site, _ in receivers(plan, "test")} == {"etoile"}
    assert plan.channel(0, "validation", 0).model == "tdl"


def test_draws_are_the_same_everywhere_and_different_for_another_seed():
    plan = sited(train=["munich"])
    assert receivers(plan, "train") == receivers(sited(train=["munich"]), "train")
    assert plan.channel(0, "train", 3) == plan.channel(0, "train", 3)
    assert [plan.channel(1, "train", n).id for n in range(9)] != [plan.channel(0, "train", n).id for n in range(9)]


def test_every_run_of_the_classes_holds_each_once():
    plan = ChannelPlan(draws=DRAWS, snr_db=(0, 10), mobility=("static", "vehicular"))
    drawn = [plan.draw(0, "train", "lte", index, rng_for(0, index), 1e6) for index in range(8)]
    for block in (drawn[:4], drawn[4:]):
        classes = {(each.conditions.snr_db, each.mobility) for each in block}
        assert classes == set(plan.classes)


def test_impairments_come_in_their_share_and_range_of_levels():
    plan = ImpairmentPlan({"iq_imbalance": (0.1, 0.3), "quantisation": (0.0, 1.0)}, share=0.25)
    found = [plan.draw(rng_for(0, index), 7.68e6) for index in range(2000)]
    for name, (low, high) in plan.families.items():
        levels = [levels[name] for _, levels in found if levels[name]]
        # A share of 0.25 of 2,000 has a standard deviation of 0.0097.
        assert len(levels) / 2000 == pytest.approx(0.25, abs=0.03)
        assert low <= min(levels) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(levels) <= high
    for impairments, levels in found:
        assert {each.name for each in impairments} == {name for name, level in levels.items() if level}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"impairments": {"rust": (0, 1)}}, "rust.*expected some of"),
        ({"impairments": {"iq_imbalance": (0.5, 0.2)}}, "0 <= low <= high <= 1"),
        ({"impairments": {"iq_imbalance": (0.5, 2)}}, "0 <= low <= high <= 1"),
        ({"impairments": {"iq_imbalance": (0.5,)}}, "0 <= low <= high <= 1"),
        ({"impairments": {"iq_imbalance": 0.5}}, "0 <= low <= high <= 1"),
        ({"impairments": {"iq_imbalance": (0.0, float("nan"))}}, "0 <= low <= high <= 1"),
        ({"snr_db": (0, 101)}, r"channel.snr_db \[0, 101\]; expected different numbers of dB, -60 to 100"),
        ({"snr_db": (-61,)}, "-60 to 100"),
        ({"snr_db": (float("nan"),)}, "-60 to 100"),
        ({"snr_db": (float("inf"),)}, "-60 to 100"),
        ({"snr_db": ("10",)}, "-60 to 100"),
        ({"snr_db": ()}, "-60 to 100"),
        ({"snr_db": (3, 3)}, "different"),
        ({"carrier": (3e9, 2e11)}, r"channel.carrier .*1 <= low <= high <= 1e\+11 Hz"),
        ({"carrier": (0.0, 1e9)}, "channel.carrier"),
        ({"carrier": (2e9, 1e9)}, "channel.carrier"),
        ({"carrier": (float("nan"), 1e9)}, "channel.carrier"),
        ({"delay_spreads": (1e-8, 2e-5)}, r"channel.delay_spreads .*<= high <= 1e-05 s"),
        ({"delay_spreads": (0.0, 1e-7)}, "channel.delay_spreads"),
        ({"snr_reference": "band"}, "channel.snr_reference 'band'; expected one of .*'capture', 'emission'"),
        ({"fading": "ricean"}, "channel.fading 'ricean'; expected one of .*'rayleigh', 'traced'"),
        ({"draws": {"train": 2.5}}, "channel.draws of train: 2.5; expected a whole number"),
        ({"draws": {"train": "9"}}, "channel.draws of train: '9'; expected a whole number"),
        ({"draws": {"train": -1, "test": 3}}, "channel.draws of train: -1; expected a whole number, 0 or more"),
        ({"draws": {"train": 0}}, "not all 0"),
        ({"sites": {"dev": ("munich",)}}, "channel.sites; expected lists of sites for some of"),
        ({"sites": {"train": ()}}, "at least one site"),
    ],
)
def test_wrong_plans_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        if "impairments" in wrong:
            ImpairmentPlan(wrong["impairments"])
        else:
            ChannelPlan(**{"draws": DRAWS, **wrong})


def test_an_unknown_site_is_named():
    with pytest.raises(ConfigError, match="atlantis"):
        sited(train=["atlantis"])
