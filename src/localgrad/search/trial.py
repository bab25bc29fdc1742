"""One trial: a decoupling trained for a few epochs, compared with others at each rung."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from localgrad.data import Dataset, TextDataset
from localgrad.errors import LocalgradError
from localgrad.experiment.build import build
from localgrad.experiment.config import Config
from localgrad.experiment.cost import time_steps
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.loop import Watcher, train
from localgrad.experiment.tree import read_options
from localgrad.search.task import Task

STEPS = 5  # timed, where time is weighed


class Halved(Exception):  # noqa: N818 - a decision, not an error
    """The trial is not good enough to go on."""


@dataclass
class Rungs(Watcher):
    """Compares a trial with others at each rung.

    Args:
        task: the trial.
        rungs: epochs after which trials are compared.
        watch: told the epoch and the accuracy after it.
    """

    task: Task
    rungs: list[int]
    watch: Callable[[Task, int, float], Any] = lambda task, epoch, accuracy: None
    accuracy: float | None = field(default=None, init=False)

    def epoch(self, metrics: dict[str, Any], epochs: int) -> None:
        """Note the accuracy; at a rung, end the trial unless it is among the best.

        Raises:
            Halved: it is not.
        """
        epoch, accuracy = int(metrics["epoch"]), float(metrics["test_accuracy"])
        self.task.note("epochs", epoch)
        self.task.note("accuracy", accuracy)
        self.accuracy = accuracy
        self.watch(self.task, epoch, accuracy)
        if epoch in self.rungs and epoch < epochs and not self.task.goes_on(epoch, accuracy):
            raise Halved


def trial_config(task: Task) -> Config:
    """Return the configuration of a trial's run, whole enough to train it again."""
    config = task.record.config
    return config.model_copy(
        update={
            "decoupling": str(task.folder),
            "epochs": config.search.epochs,
            "seed": task.seed,
            "out": str(task.folder),
        }
    )


def same_place(folder: RunFolder, config: Config) -> bool:
    """Whether the run in a folder was begun there."""
    file = folder / "config.yaml"
    return not file.exists() or read_options(file).get("out") == config.out


def run_trial(
    task: Task, data: Dataset | TextDataset, rungs: Rungs, stop: Callable[[], bool]
) -> dict[str, Any]:
    """Train a trial, from its checkpoint where it has one.

    Returns:
        The run's summary.

    Raises:
        Halved: at a rung.
        LocalgradError: it diverged.
        Interrupted: after saving, where ``stop`` asked for it.
    """
    config, folder = trial_config(task), RunFolder(task.folder)
    if folder.path.exists() and not same_place(folder, config):
        shutil.rmtree(folder.path)  # the search was moved: its paths are those of before
    experiment = build(config, data, decoupling=task.decoupling)
    try:
        if config.search.cost == "time" and "step seconds" not in task.trial.user_attrs:
            seconds = statistics.median(time_steps([experiment], STEPS)[0])
            task.note("step seconds", seconds)
        if not folder.finished and folder.checkpoint.exists():
            # its process may have ended between a rung and the decision
            for metrics in folder.metrics()[-1:]:
                rungs.epoch(metrics, config.epochs)
        return train(experiment, folder, rungs, resume=True, stop=stop)
    finally:
        experiment.learner.release()


def finish(task: Task, run: Callable[[], dict[str, Any]]) -> None:
    """Run a trial and tell the record how it ended.

    Raises:
        Interrupted: the trial stays as it is, to be put back.
    """
    start = time.perf_counter()
    try:
        summary = run()
    except Halved:
        _spent(task, start)
        task.prune()
    except (LocalgradError, torch.OutOfMemoryError) as error:
        _spent(task, start)
        task.fail(" ".join(str(error).split()))
    else:
        _spent(task, start)
        task.note("images/s", summary["images_per_second"])
        task.note("measured memory", summary["peak_memory_bytes"])
        task.note("epochs", summary["epochs"])
        task.note("accuracy", summary["test_accuracy"])
        task.complete(summary["test_accuracy"])
    _without_weights(task)


def _spent(task: Task, start: float) -> None:
    before = task.trial.user_attrs.get("seconds", 0.0)
    task.note("seconds", before + time.perf_counter() - start)


def _without_weights(task: Task) -> None:
    """Remove what only a trial under way needs: a proxy's weights are of no use."""
    shutil.rmtree(task.folder / "checkpoint", ignore_errors=True)
    (task.folder / "model.safetensors").unlink(missing_ok=True)
