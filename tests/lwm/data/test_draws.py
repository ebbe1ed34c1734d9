"""What is drawn for samples: sites kept apart, classes balanced, impairments at their levels."""

from collections import Counter

import pytest

from lwm.channel.sites import SiteDraw
from lwm.data.draws import ChannelPlan, ImpairmentPlan
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
        ({"sites": {"dev": ("munich",)}}, "channel.sites; expected lists of sites for some of"),
        ({"sites": {"train": ()}}, "at least one site"),
    ],
)
def test_wrong_plans_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        if "impairments" in wrong:
            ImpairmentPlan(wrong["impairments"])
        else:
            ChannelPlan(draws=DRAWS, **wrong)


def test_an_unknown_site_is_named():
    with pytest.raises(ConfigError, match="atlantis"):
        sited(train=["atlantis"])
