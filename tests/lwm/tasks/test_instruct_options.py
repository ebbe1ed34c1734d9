"""Stages, their schedule, and options that make no sense."""

import itertools

import pytest

from lwm.errors import ConfigError
from lwm.tasks.instruct import InstructionTuning
from lwm.tasks.instruct_options import Lora, Schedule, Stage, Tuning, stages_of

TWO = [Stage(share=1, adapter=1e-3), Stage(share=3, adapter=1e-4, llm=2e-4)]


def test_shares_are_laid_over_the_steps() -> None:
    assert Schedule(TWO, 400).borders == [0, 100, 400]
    assert [Schedule(TWO, 400).at(step) for step in (0, 99, 100, 399, 400)] == [0, 0, 1, 1, 1]


def test_every_stage_has_a_step_however_short_the_run() -> None:
    stages = [Stage(share=0.01, adapter=1e-3), Stage(share=98, adapter=1e-3), Stage(share=0.01, llm=1e-3)]
    for total in (3, 4, 10):
        borders = Schedule(stages, total).borders
        assert borders[0] == 0
        assert borders[-1] == total
        assert all(later > earlier for earlier, later in itertools.pairwise(borders))
    with pytest.raises(ConfigError, match="2 steps for 3 stages"):
        Schedule(stages, 2)


def test_rates_rise_for_five_per_cent_of_a_stage_and_fall_as_a_cosine_to_its_end() -> None:
    schedule = Schedule(TWO, 400)
    # Stage two: 300 steps, 15 of warm-up; half way down the cosine the rate is half of the peak.
    assert schedule.rate("llm", 100) == pytest.approx(2e-4 / 16)
    assert schedule.rate("llm", 114) == pytest.approx(2e-4 * 15 / 16)
    assert schedule.rate("llm", 115) == pytest.approx(2e-4)
    half = (schedule.rate("llm", 257) + schedule.rate("llm", 258)) / 2
    assert half == pytest.approx(1e-4, rel=0.01)
    assert schedule.rate("llm", 399) < 0.01 * 2e-4
    assert all(schedule.rate("llm", step) == 0 for step in range(100))
    assert all(schedule.rate("tower", step) == 0 for step in range(400))
    # The adapter begins anew at the border.
    assert schedule.rate("adapter", 99) < 0.01 * 1e-3
    assert schedule.rate("adapter", 115) == pytest.approx(1e-4)


def test_stages_come_from_a_checkpoint_s_dicts_too() -> None:
    assert stages_of([{"share": 1, "adapter": 1e-3}, {"share": 3, "adapter": 1e-4, "llm": 2e-4}]) == TWO
    plain = InstructionTuning("tower", stages=TWO, lora=Lora(rank=4)).hparams
    assert InstructionTuning(**{key: value for key, value in plain.items() if key[0] != "_"}).stages == TWO
    assert plain["stages"][1] == {"share": 3, "adapter": 1e-4, "llm": 2e-4, "tower": 0.0}
    assert plain["lora"]["rank"] == 4


@pytest.mark.parametrize(
    "given",
    [
        {"share": 0, "adapter": 1e-3},
        {"share": 1},
        {"adapter": -1e-3, "llm": 1e-3},
        {"adapter": float("nan")},
        {"adapter": 1e-3, "llm": float("nan")},
        {"head": 1e-3},
    ],
)
def test_a_stage_that_trains_nothing_or_backwards_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"stage"):
        InstructionTuning("tower", stages=[given])  # type: ignore[list-item]


def test_other_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="no stage"):
        InstructionTuning("tower", stages=[])
    with pytest.raises(ConfigError, match="rank 0"):
        Lora(rank=0)
    with pytest.raises(ConfigError, match="warmup_share"):
        Tuning(warmup_share=1.0)
