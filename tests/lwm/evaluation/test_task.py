"""Task files: what ships is valid, what is wrong is said in one line."""

from pathlib import Path

import pytest

from lwm.errors import ConfigError
from lwm.evaluation.regimes.names import REGIMES
from lwm.evaluation.task import BUDGETS, load_task, task_from_dict
from lwm.shipped import shipped_configs

# Of scenes and of sensing, with files and verbs of their own.
OTHERS = {"tasks/segmentation", "tasks/activity"}


@pytest.mark.parametrize("name", sorted(set(shipped_configs("tasks/")) - OTHERS))
def test_shipped_tasks_load_by_name(name: str) -> None:
    task = load_task(name)
    assert {5, 20} <= set(task.k)
    assert task.episodes >= 3
    # Whatever is compared, the two that catch self-deception are with it.
    assert {"frozen", "random", "trivial"} <= set(task.models)


def test_snr_mobility_is_the_joint_task_on_unseen_channels() -> None:
    task = load_task("tasks/snr_mobility")
    assert task.labels == ("snr", "mobility")
    assert task.split == "test"
    assert task.where == 'technology == "lte" and mobility in ["pedestrian", "vehicular"]'


def test_a_new_task_is_only_a_file() -> None:
    anomaly, regression = load_task("tasks/anomaly"), load_task("tasks/snr_regression")
    assert list(anomaly.label) == ["clean", "jammed"]
    assert (anomaly.metric, anomaly.head, anomaly.labels) == ("macro_f1", "linear", ())
    assert (regression.metric, regression.head, regression.target) == ("mae", "regression", "snr_db")
    heads = {c.name: regression.head_of(c) for c in regression.contestants if c.carries_head}
    assert set(heads.values()) == {"regression"}
    assert {c.regime for c in load_task("tasks/snr_mobility").contestants} == set(REGIMES)


def test_encoders_and_networks_from_scratch_get_the_same_training() -> None:
    tuned, scratch = BUDGETS["tuned"], BUDGETS["scratch"]
    assert (tuned.samples, tuned.batch_size, len(tuned.rates)) == (scratch.samples, scratch.batch_size, 2)
    # Many samples are seen as often as few are, by both: 1,400 five times, 10 a hundred and sixty times.
    assert tuned.steps(1400) == scratch.steps(1400) == 438
    assert tuned.steps(10) == scratch.steps(10) == 160


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labls": ["snr"]}, r"no key labls; expected keys among \['name', 'labels'"),
        ({"training": {"scratch": {"epoch": 3}}}, r"no key training.scratch.epoch; expected keys among \['samples'"),
        ({"training": {"vgg": {}}}, "keys among"),
        ({"k": [0]}, "at least 1 of each"),
        ({"k": "many"}, "k is 'many'; expected a list of whole numbers"),
        ({"labels": []}, "at least one label"),
        ({"models": ["frozen", "vgg"]}, "contestant 'vgg'"),
        ({"models": ["frozen", "frozen"]}, "each once"),
        ({"models": ["frozen", "encoder/frozen"]}, "each once"),
        ({"models": []}, "one contestant or more"),
        ({"label": {"a": "snr > 0"}}, "at least one label column, or an expression"),
        ({"metric": "mae"}, "metric 'mae'"),
        ({"target": "snr_db", "metric": "accuracy"}, r"one of \['mae'\]"),
        ({"test_channels": 1.0}, "between 0 and 1"),
        ({"where": ["lte"]}, r"where is \['lte'\]; expected a text"),
        ({"training": {"scratch": {"rates": []}}}, "at least one rate"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task_from_dict({"name": "t", "labels": ["snr"]} | change, "t.yaml")


def test_missing_keys_and_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key name is missing"):
        task_from_dict({"labels": ["snr"]}, "t.yaml")
    with pytest.raises(ConfigError, match="at least one label column"):
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
    assert task.overridden(None, None, ["knn"]).models == ("knn",)
    with pytest.raises(ConfigError, match="0 episodes"):
        task.overridden(None, 0)
