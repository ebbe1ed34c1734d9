"""Which report a task's YAML asks for."""

from pathlib import Path

import pytest

from lwm.errors import ConfigError, DatasetError
from lwm.evaluation.special import is_special, special_report


def test_the_head_decides() -> None:
    assert is_special("tasks/segmentation")
    assert is_special("tasks/activity")
    assert not is_special("tasks/technology")


def test_each_task_reaches_its_own_report(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="train"):
        special_report("tasks/segmentation", None, str(data), str(tmp_path / "a"), k=[2], episodes=1)
    with pytest.raises(DatasetError, match="no label 'activity'"):
        special_report("tasks/activity", None, str(data), str(tmp_path / "b"))


def test_folds_of_sensing_are_its_recordings(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--episodes"):
        special_report("tasks/activity", None, str(data), str(tmp_path / "a"), episodes=3)
