"""The metrics of a run, epoch by epoch, for those who watch it elsewhere.

``metrics.jsonl`` is the record; TensorBoard, Trackio and Weights & Biases get copies of it under
the same names (``test_accuracy``, ``losses/0``, ``agreement/stem``), after the epoch's checkpoint
is on the disk. A run that goes on goes on in the same log, and no step is in it twice.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor

from localgrad.analysis.agreement import agreement
from localgrad.errors import LocalgradError
from localgrad.experiment.build import Experiment
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.precision import autocast


class Log(Protocol):
    """A copy of the metrics."""

    def begin(self, history: list[dict[str, Any]], about: dict[str, Any]) -> None:
        """Start, or go on after ``history``: bring the log up to there."""

    def epoch(self, metrics: dict[str, Any]) -> None:
        """Add an epoch."""

    def close(self) -> None:
        """Write what is left."""


class RunLog:
    """Every log that a run's options ask for.

    Args:
        experiment: what is trained.
        folder: the run's.

    Raises:
        LocalgradError: a package is missing, or the agreement cannot be measured.
    """

    def __init__(self, experiment: Experiment, folder: RunFolder) -> None:
        from localgrad.experiment.log_tensorboard import TensorBoardLog
        from localgrad.experiment.log_tracker import TrackerLog

        options = experiment.config.log
        if options.agreement and experiment.mesh is not None:
            raise LocalgradError(
                "log.agreement needs the whole network in one process: leave it out, or analyse "
                "the finished run"
            )
        self._experiment, self._agreement = experiment, options.agreement
        self._batch: tuple[Tensor, Tensor] | None = None
        self._logs: list[Log] = []
        if not folder.writes:
            return
        if options.tensorboard:
            self._logs.append(TensorBoardLog(folder / "tensorboard"))
        for package, project in (("trackio", options.trackio), ("wandb", options.wandb)):
            if project is not None:
                tree = experiment.config.model_dump(mode="json")
                self._logs.append(TrackerLog(package, project, tree, folder))

    def completed(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Return an epoch's metrics with ``agreement``, where it is asked for."""
        if not self._agreement:
            return metrics
        return {**metrics, "agreement": self._cosines()}

    @contextmanager
    def open(self, history: list[dict[str, Any]], about: dict[str, Any]) -> Iterator[None]:
        """Log in here, after the epochs that there are already."""
        for log in self._logs:
            log.begin(history, about)
        try:
            yield
        finally:
            for log in self._logs:
                log.close()

    def epoch(self, metrics: dict[str, Any]) -> None:
        """Add an epoch to every log."""
        for log in self._logs:
            log.epoch(metrics)

    def _cosines(self) -> dict[str, float | None]:
        """Return each unit's cosine on the first training batch; nothing that trains changes."""
        one = self._experiment
        if self._batch is None:
            self._batch = one.train.first()
        parameters = list(one.learner.parameters())
        waiting = [p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        try:
            with autocast(one.device, one.config.precision):
                found = agreement(one.learner, *self._batch)
        finally:
            for parameter, gradient in zip(parameters, waiting, strict=True):
                parameter.grad = gradient
        return {entry.unit: entry.cosine for entry in found}


def scalars(metrics: dict[str, Any]) -> dict[str, float]:
    """Return an epoch's numbers under plain names.

    >>> scalars({"epoch": 1, "lr": 0.1, "losses": [2.5, 2.0], "agreement": {"a": None, "b": 1.0}})
    {'lr': 0.1, 'losses/0': 2.5, 'losses/1': 2.0, 'agreement/b': 1.0}
    """
    found: dict[str, float] = {}
    for key, value in metrics.items():
        parts = value if isinstance(value, dict) else {}
        if isinstance(value, list):
            parts = dict(enumerate(value))
        elif not isinstance(value, dict) and key != "epoch":
            parts, key = {key: value}, ""
        for name, number in parts.items():
            if isinstance(number, int | float):
                found[f"{key}/{name}" if key else str(name)] = number
    return found


def package(name: str, option: str) -> Any:
    """Import what a log needs.

    Raises:
        LocalgradError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise LocalgradError(
            f"{option} needs {error.name}: pip install 'localgrad[{option.removeprefix('log.')}]'"
        ) from error
