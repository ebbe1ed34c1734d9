"""What can be known to be wrong with a study before anything is generated or trained."""

from lwm.data.dataset import SpectrogramDataset
from lwm.errors import ConfigError, DatasetError
from lwm.evaluation.task import load_task
from lwm.study.plan import Job
from lwm.tasks.pretrain import MaskedModeling


def check_jobs(jobs: list[Job]) -> None:
    """Read every task and build the options of every arm.

    Raises:
        ConfigError: a task or config that does not exist, or an option that does not exist or has an impossible value.
    """
    for job in jobs:
        for task in job.study.tasks.get(job.dataset, ()):
            load_task(task)
        options = job.config()["model"]["init_args"]
        try:
            MaskedModeling(**options)
        except TypeError as error:
            raise ConfigError(f"study: arm {job.arm!r} on {job.dataset!r}: {error}", "options of its base") from error


def check_data(jobs: list[Job]) -> None:
    """See that the data sets hold what tasks and targets ask for.

    Raises:
        DatasetError: a label is missing, or the clean pictures are.
    """
    for job in {job.data: job for job in jobs}.values():
        dataset = SpectrogramDataset(job.data, split="test")
        tasks = [load_task(name) for name in job.study.tasks.get(job.dataset, ())]
        wanted = {label for task in tasks for label in (*task.labels, "channel")}
        wanted |= {"technology", "channel"} if job.dataset in job.study.occupancy else set()
        missing = sorted(wanted - set(dataset.label_names))
        if missing:
            raise DatasetError(f"data set {job.data} without the labels {missing}", f"some of {sorted(dataset.labels)}")
        clean = job.dataset in job.study.occupancy or any(
            each.config()["model"]["init_args"].get("target") == "clean" for each in jobs if each.data == job.data
        )
        if clean and not dataset.has_clean:
            raise DatasetError(f"data set {job.data} without clean pictures", "store_clean: true in its plan")
