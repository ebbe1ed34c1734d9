"""The plan of a study: a YAML file that says what the runs share, in what they differ, and how they are judged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lwm.errors import ConfigError
from lwm.settings import load_settings
from lwm.shipped import config_path

OPTIONS = ("model", "init_args")
"""Where in a config of `lwm fit` the options of an arm go."""


@dataclass(frozen=True)
class Study:
    """One comparison of pretraining runs.

    Args:
        name: in titles and results.
        base: config of `lwm fit` that all runs share.
        data: name of a data set to the plan of `lwm generate` that makes it. Each arm is trained on each of them.
        arms: name of an arm to what it changes in the base's ``model.init_args``.
        options: name of a data set to what changes on it in every arm.
        sample_steps: samples that pass through each run, repeats counted.
        tasks: name of a data set to the few-shot tasks that judge frozen features on its test split.
        occupancy: data sets on which the occupancy of single patches is probed too.
        mask_ratios: ratios at which reconstruction is tried on the test split; none: not at all.
        k: labelled samples a class.
        episodes: draws of them.
        headlines: arms that further seeds are run for; all where empty.
    """

    name: str
    base: str
    data: dict[str, str]
    arms: dict[str, dict[str, Any]]
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    sample_steps: int = 60_000
    tasks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    occupancy: tuple[str, ...] = ()
    mask_ratios: tuple[float, ...] = ()
    k: tuple[int, ...] = (5, 20, 100)
    episodes: int = 5
    headlines: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key, named in (("options", self.options), ("tasks", self.tasks), ("occupancy", self.occupancy)):
            unknown = sorted(set(named) - set(self.data))
            if unknown:
                raise ConfigError(f"study: {key} of the data sets {unknown}", f"some of {sorted(self.data)}")
        unknown = sorted(set(self.headlines) - set(self.arms))
        if unknown:
            raise ConfigError(f"study: headlines {unknown}", f"some of {sorted(self.arms)}")
        if not (self.arms and self.data and self.sample_steps > 0 and self.k and self.episodes > 0):
            raise ConfigError("study: arms, data, sample_steps, k or episodes", "something of each")
        if not all(0 < ratio < 1 for ratio in self.mask_ratios):
            raise ConfigError(f"study: mask_ratios {list(self.mask_ratios)}", "shares between 0 and 1")

    def jobs(self, root: Path, data: Path, seeds: list[int]) -> list["Job"]:
        """Every run: all arms of the first seed, the headlines of the others; ``root`` and ``data`` as of the verb."""
        found = []
        for number, seed in enumerate(seeds):
            arms = self.headlines if number and self.headlines else tuple(self.arms)
            for dataset, plan in self.data.items():
                place = data / Path(plan).stem
                for arm in arms:
                    folder = root / "runs" / f"{dataset}-{arm}-{seed}"
                    found.append(Job(self, arm, dataset, seed, folder, place))
        return found


@dataclass(frozen=True)
class Job:
    """One run of a study: an arm, on a data set, from a seed.

    Args:
        study: the study.
        arm: name of the arm.
        dataset: name of the data set.
        seed: of weights, order, masks and probes.
        folder: where the run, its model and its records are kept.
        data: folder of the data set.
    """

    study: Study
    arm: str
    dataset: str
    seed: int
    folder: Path
    data: Path

    @property
    def records(self) -> Path:
        """File with what was measured; it is there when the job is done."""
        return self.folder / "records.json"

    @property
    def baselines(self) -> Path:
        """File with what random weights and plain statistics reach on the same data set and seed."""
        return self.folder.parent.parent / "baselines" / f"{self.dataset}-{self.seed}.json"

    def config(self) -> dict[str, Any]:
        """Config of `lwm fit`: the base with the data set's and the arm's changes."""
        plain: dict[str, Any] = yaml.safe_load(config_path(self.study.base).read_text(encoding="utf-8"))
        options = merged(self.study.options.get(self.dataset, {}), self.study.arms[self.arm])
        options = merged(options, {"training": {"seed": self.seed}})
        plain = merged(plain, {OPTIONS[0]: {OPTIONS[1]: options}})
        batch = int(plain["data"]["init_args"]["batch_size"])
        plain["trainer"] = plain.get("trainer", {}) | {
            "max_steps": -(-self.study.sample_steps // batch),
            "max_epochs": -1,
        }
        plain["data"]["init_args"]["data"] = str(self.data)
        plain["out"] = str(self.folder / "fit")
        plain["seed_everything"] = self.seed
        return plain


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``, mapping by mapping."""
    found = dict(base)
    for key, value in changes.items():
        mine = found.get(key)
        found[key] = merged(mine, value) if isinstance(mine, Mapping) and isinstance(value, Mapping) else value
    return found


def load_study(config: str) -> Study:
    """The study in a YAML file, or the one that ships under a name such as ``studies/objectives``.

    Raises:
        ConfigError: no such file or name, not YAML, or a key that does not exist or has an impossible value.
    """
    return load_settings(Study, config)
