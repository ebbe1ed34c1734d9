"""Task files: what ships is valid, what is wrong is said in one line."""

from pathlib import Path

import pytest

from lwm.errors import ConfigError
from lwm.evaluation.task import BUDGETS, load_task, task_from_dict
from lwm.shipped import shipped_configs


@pytest.mark.parametrize("name", shipped_configs("tasks/"))
def test_shipped_tasks_load_by_name(name: str) -> None:
    task = load_task(name)
    assert task.k == (5, 20)
    assert task.episodes >= 3


def test_snr_mobility_is_the_joint_task_on_unseen_channels() -> None:
    task = load_task("tasks/snr_mobility")
    assert task.labels == ("snr", "mobility")
    assert task.split == "test"
    assert task.where == 'technology == "lte" and mobility in ["pedestrian", "vehicular"]'


def test_every_scratch_network_gets_at_least_the_encoders_steps() -> None:
    steps = {name: budget.samples // budget.batch_size for name, budget in BUDGETS.items()}
    assert min(steps["cnn"], steps["resnet18"]) >= steps["finetuned"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labls": ["snr"]}, r"no key labls; expected keys among \['name', 'labels'"),
        ({"training": {"cnn": {"epoch": 3}}}, r"no key training.cnn.epoch; expected keys among \['samples'"),
        ({"training": {"vgg": {}}}, "keys among"),
        ({"k": [0]}, "at least 1 of each"),
        ({"k": "many"}, "k is 'many'; expected a list of whole numbers"),
        ({"labels": []}, "at least one label"),
        ({"models": ["frozen", "vgg"]}, r"compares \['vgg'\]"),
        ({"test_channels": 1.0}, "between 0 and 1"),
        ({"where": ["lte"]}, r"where is \['lte'\]; expected a text"),
        ({"training": {"cnn": {"rates": []}}}, "at least one rate"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task_from_dict({"name": "t", "labels": ["snr"]} | change, "t.yaml")


def test_missing_keys_and_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key labels is missing"):
        task_from_dict({"name": "t"}, "t.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="a mapping with keys"):
        load_task(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_task(tmp_path / "broken.yaml")
    with pytest.raises(ConfigError, match="no config file"):
        load_task(tmp_path / "absent.yaml")


def test_overrides_apply() -> None:
    task = task_from_dict({"name": "t", "labels": ["snr"], "where": "snr <= 0"}, "t.yaml")
    assert task.where == "snr <= 0"
    changed = task.overridden([7], 1)
    assert (changed.k, changed.episodes) == ((7,), 1)
    assert task.overridden(None, None) == task
    with pytest.raises(ConfigError, match="0 episodes"):
        task.overridden(None, 0)
