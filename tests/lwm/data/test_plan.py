"""Plans: every shipped one is read, and wrong ones say which keys exist."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lwm.data.plan import ViewPlan, load_plan, parse_plan
from lwm.errors import ConfigError
from lwm.shipped import shipped_configs


def test_shipped_plans_are_read_and_survive_json() -> None:
    assert {"generate/demo", "generate/tiny"} <= set(shipped_configs("generate"))
    for name in shipped_configs("generate"):
        plan = load_plan(name)
        assert parse_plan(plan.to_dict(), name) == plan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, r"no key colour; expected keys among \['technologies', 'recipe'"),
        ({"view": {"rate": 1}}, r"no key view\.rate; expected keys among \['sample_rates'"),
        ({"channel": {"snr_db": [0]}}, r"key channel\.draws is missing"),
        ({"view": [1]}, "view is .*expected a mapping with keys"),
        ({"samples": {"train": "many"}}, "samples.train is .*expected a whole number"),
        ({"samples": {"train": 2.5}}, "samples.train is .*expected a whole number"),
        ({"samples": {"dev": 2}}, "samples; expected counts for some of"),
        ({"samples": {"validation": 2}}, "channel.draws of .*validation"),
        ({"store_clean": "yes"}, "store_clean is 'yes'; expected true or false"),
        ({"view": {"activity": [0.5]}}, "view.activity is .*expected 2 numbers"),
        ({"view": {"activity": [0.5, 2]}}, "view.activity; expected two shares"),
        ({"view": {"shortest": 1e-6}}, r"view.shortest; expected at least .* \(a window\)"),
        ({"technologies": ["bursts", "morse"]}, "technologies; expected some of .*'bursts'"),
        ({"recipe": "huge"}, "no recipe named 'huge'; expected one of"),
        ({"samples_per_waveform": 0}, "samples_per_waveform; expected 1 or more"),
    ],
)
def test_wrong_plans(write_plan: Callable[..., str], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_plan(write_plan(**changes))
    assert "\n" not in str(caught.value)


def test_numbers_may_be_written_as_yaml_1_1_does_not_know_them(write_plan: Callable[..., str]) -> None:
    plan = load_plan(write_plan(view={"sample_rates": ["2e6"], "short_share": 0}))
    assert plan.view.sample_rates == (2e6,)


def test_no_such_plan(tmp_path: object) -> None:
    with pytest.raises(ConfigError, match=r"no config file 'nothing'.*'generate/demo', .*'generate/tiny'"):
        load_plan("nothing")


def test_broken_yaml_is_one_line(write_plan: Callable[..., str]) -> None:
    path = write_plan()
    with open(path, "a") as file:
        file.write("]: [")
    with pytest.raises(ConfigError, match="is not YAML") as caught:
        load_plan(path)
    assert "\n" not in str(caught.value)


def test_scaling_keeps_proportions_and_every_split(write_plan: Callable[..., str]) -> None:
    plan = load_plan(write_plan(samples={"train": 900, "validation": 0, "test": 100}))
    assert plan.scaled(200).samples == {"train": 90, "validation": 0, "test": 10}
    assert plan.scaled(3).samples == {"train": 1, "validation": 0, "test": 1}
    with pytest.raises(ConfigError, match="--samples"):
        plan.scaled(0)


def test_views_stay_in_their_ranges() -> None:
    plan = ViewPlan(sample_rates=(2e6, 8e6), bandwidths=(4e6,), short_share=0.5, tuning_error=0.1)
    rng = np.random.default_rng(0)
    views = [plan.draw(rng, 16e-3) for _ in range(2000)]
    rooms = {2e6: 1e6 + 0.2e6, 8e6: 2e6 + 0.8e6}
    assert all(abs(view.offset) <= rooms[view.sample_rate] for view in views)
    assert all(0.3 <= view.activity <= 1 for view in views)
    durations = np.array([view.duration for view in views])
    assert durations.min() >= 1e-3
    assert durations.max() == 16e-3
    assert np.mean(durations < 16e-3) == pytest.approx(0.5, abs=0.05)
