"""``lwm fewshot``: which report is asked for, by the task's YAML or by what the data are."""

from typing import Any

from lwm.errors import ConfigError
from lwm.evaluation.own_data import is_own_data


def fewshot(
    data: str,
    out: str,
    model: str | None = None,
    config: str | None = None,
    k: list[int] | None = None,
    episodes: int | None = None,
    models: list[str] | None = None,
    head: str = "linear",
    seed: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    workers: int | None = None,
    split_within_recordings: bool = False,
    sample_rate: float | None = None,
    datatype: str | None = None,
    center_frequency: float | None = None,
) -> dict[str, Any]:
    """What a few labels are worth: k-shot episodes of a task, or your own recordings in a folder per class.

    Args:
        data: data set with the task's labels, or a folder with a subfolder of recordings for each class.
        out: folder for results.json, tables, pictures; for recordings also the head that `lwm predict` uses.
        model: model folder of an encoder or a mixture; segmentation and sensing can do without.
        config: YAML file of the task, or the name of one that ships; none for a folder of recordings.
        k: training samples a class, instead of the task's.
        episodes: draws of the training samples, instead of the task's.
        models: what is compared, instead of the task's; with ``resume`` the runs of others are kept for another time.
        head: for recordings: registered head that tells the classes apart.
        seed: seed of the draws, of random weights and of training.
        overwrite: replace the results that ``out`` holds.
        resume: keep the runs that ``out`` holds and do the missing ones.
        workers: for tasks of k-shot episodes, on a CPU: processes that share the runs; 0 for none, by default one a
            core where there are enough runs to share.
        split_within_recordings: for recordings: cut those of a class that has too few of them in time.
        sample_rate: for recordings that do not say theirs: Hz.
        datatype: for raw IQ: sample type, such as ci16_le.
        center_frequency: for recordings that do not say theirs: Hz.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: a task for recordings or none for a data set, or options that do not go together.
        LWMError: what the report itself refuses.
    """
    if is_own_data(data):
        given = {"--config": config, "--k": k, "--episodes": episodes, "--models": models, "--workers": workers}
        _refuse_task_options(data, given)
        from lwm.evaluation.own_data import own_data

        reading = {"sample_rate": sample_rate, "datatype": datatype, "center_frequency": center_frequency}
        return own_data(_needed(model), data, out, head, seed, overwrite, resume, split_within_recordings, reading)
    if config is None:
        raise ConfigError(f"no --config for data set {data}", "a task's YAML file", "for example tasks/technology")
    from lwm.evaluation.special import is_special, special_report

    if is_special(config):
        if resume:
            raise ConfigError(f"--resume for {config}", "none: its report is made in one go", "use --overwrite")
        if models:
            raise ConfigError(f"--models for {config}", "none: its YAML lists regimes")
        if workers is not None:
            raise ConfigError(f"--workers for {config}", "none: its runs are done one after another")
        return special_report(config, model, data, out, k, episodes, seed, overwrite)
    from lwm.evaluation.fewshot import fewshot as sweep

    return sweep(config, _needed(model), data, out, k, episodes, models, seed, overwrite, resume, workers)


def _refuse_task_options(data: str, options: dict[str, Any]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(f"{', '.join(given)} for the folder of recordings {data}", "none of a task's options")


def _needed(model: str | None) -> str:
    if model is None:
        raise ConfigError("no --model", "a model folder of an encoder or a mixture of experts")
    return model
