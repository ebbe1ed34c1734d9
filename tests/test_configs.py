"""Every YAML in ``configs/`` is short, parses against the real signatures, and runs at tiny size.

Plans and tasks are run by the demo test (tiny plan, few-shot); here each is at least read by the code that runs it.
Studies are built arm by arm, and a tiny one is run, in the tests of :mod:`lwm.study`.
"""

from pathlib import Path

import pytest

from lwm.cli import main
from lwm.data.plan import load_plan
from lwm.evaluation.segmentation import load_segmentation_task
from lwm.evaluation.sensing import load_sensing_task
from lwm.evaluation.special import is_special
from lwm.evaluation.task import load_task
from lwm.shipped import config_path, shipped_configs

LINES = 40
TECHNOLOGIES = {"generate/aligned": {"lte"}, "generate/scenes": {"lte", "nr"}}
KINDS = {"generate", "pretrain", "router", "rfgpt", "studies", "tasks"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny plan's data set."""
    out = tmp_path_factory.mktemp("configs") / "data"
    assert main(["generate", "--config", "generate/tiny", "--out", str(out), "--workers", "0"]) == 0
    return out


@pytest.fixture(scope="module")
def experts(data: Path) -> dict[str, Path]:
    """Model folders of two steps of every pretraining config."""
    folders = {}
    for name in shipped_configs("pretrain"):
        run, folder = data.parent / name, data.parent / "models" / name
        fit(name, data, run)
        assert main(["export", "--checkpoint", str(run / "checkpoints" / "last.ckpt"), "--out", str(folder)]) == 0
        folders[name.removeprefix("pretrain/")] = folder
    return folders


def fit(config: str, data: Path, out: Path, *options: str) -> None:
    """Two steps of a config on a data set."""
    words = ["fit", "--config", config, "--data.init_args.data", str(data), "--data.init_args.batch_size", "4"]
    assert main([*words, "--trainer.max_steps", "2", "--out", str(out), *options]) == 0
    assert (out / "run.json").is_file()


def test_every_kind_is_run_by_a_test() -> None:
    assert {name.split("/")[0] for name in shipped_configs()} == KINDS


@pytest.mark.parametrize("name", shipped_configs())
def test_files_are_short(name: str) -> None:
    assert len(config_path(name).read_text().splitlines()) < LINES


@pytest.mark.parametrize("name", shipped_configs("generate"))
def test_plans_are_read(name: str) -> None:
    plan = load_plan(name)
    assert set(plan.technologies) == TECHNOLOGIES.get(name, {"lte", "nr", "wlan"})


@pytest.mark.parametrize("name", shipped_configs("tasks"))
def test_tasks_are_read(name: str) -> None:
    readers = {"tasks/segmentation": load_segmentation_task, "tasks/activity": load_sensing_task}
    assert is_special(name) == (name in readers)
    assert readers.get(name, load_task)(name).name == name.removeprefix("tasks/")


def test_router_and_rfgpt_configs_fit_on_the_experts(data: Path, experts: dict[str, Path]) -> None:
    # One expert a protocol, of one shape; the other configs make encoders of other sizes.
    listed = "[" + ",".join(f'"{experts[name]}"' for name in ("lte", "nr", "wlan")) + "]"
    for name in shipped_configs("router"):
        fit(name, data, data.parent / name, "--model.init_args.experts", listed)
        checkpoint, moe = data.parent / name / "checkpoints" / "last.ckpt", data.parent / "models" / name
        assert main(["export", "--checkpoint", str(checkpoint), "--out", str(moe)]) == 0
    for name in shipped_configs("rfgpt"):
        # Pretrained language models are nothing for a test: the smallest shape stands in for them, and a CPU for GPUs.
        parts = ["--model.init_args.tower", str(moe), "--model.init_args.llm", "test"]
        box = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.strategy", "auto"]
        fit(name, data, data.parent / name, *parts, *box)
