"""A calibrated model folder carries its curves, answers as before, and is sound."""

from pathlib import Path

import pytest

from lwm.errors import DatasetError
from lwm.hub import check_model, from_pretrained
from lwm.language.calibrate import calibrate
from lwm.language.confidence import Confidence
from lwm.language.converse import Conversation


def test_a_calibrated_folder_keeps_its_curves_and_its_answers(world, tmp_path: Path) -> None:
    found = calibrate(world.model, world.data, tmp_path / "sure", limit=120)
    assert found["fitted_on"] > 50
    assert {"technology", "link"} <= set(found["kinds"])
    assert 0 <= found["ece_after"] <= 0.2
    again = from_pretrained(tmp_path / "sure")
    curves = Confidence.from_dict(again.confidence)
    assert curves.calibrated
    assert check_model(tmp_path / "sure") == []
    before, after = (Conversation(folder, remember=False) for folder in (world.model, tmp_path / "sure"))
    for talk in (before, after):
        talk.add(f"{world.data}:3")
    question = "Which technology is this?"
    said, sure = before.ask(question), after.ask(question)
    assert sure.text == said.text
    assert sure.confidence == pytest.approx(curves.of(sure.log_probability, "technology"))
    assert 0 < sure.confidence < 1


def test_without_a_validation_split_nothing_is_fitted(world, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no split 'nothing'"):
        calibrate(world.model, world.data, tmp_path / "sure", limit=60, check="nothing")
    assert not (tmp_path / "sure").exists()
