"""What each process of a search does: draw, predict, train, tell; until there is nothing left."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from localgrad.chain import Chain
from localgrad.data import Dataset, TextDataset
from localgrad.errors import LocalgradError
from localgrad.experiment.build import build
from localgrad.experiment.building.data import load_data
from localgrad.experiment.config import Config, build_config
from localgrad.experiment.locks import locked
from localgrad.experiment.loop import Interrupted
from localgrad.experiment.options.kinds import Choice
from localgrad.search.baselines import Baseline, baselines
from localgrad.search.costs import Costs
from localgrad.search.record import Record
from localgrad.search.space import Space
from localgrad.search.task import Task
from localgrad.search.trial import Rungs, finish, run_trial

Run = Callable[[Task, Dataset | TextDataset, Rungs, Callable[[], bool]], dict[str, Any]]
WORKERS = "workers.lock"


class Subject:
    """The data without their test part, the network in units, the space, the predictions.

    Args:
        config: of the search.

    Raises:
        LocalgradError: the data or network cannot be built, the space is empty, or a head does not
            fit the network.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.data: Dataset | TextDataset = load_data(config, config.search.validation)
        experiment = build(config.model_copy(update={"method": Choice(name="backprop")}), self.data)
        experiment.learner.release()
        self.example: Tensor = experiment.test.first()[0][:2]
        self.chain = Chain.of(
            experiment.learner.backbone, self.example, config.granularity, config.units
        )
        self.space = Space.of(self.chain, self.example, config.search)
        self.costs = Costs(experiment, self.chain, self.example)
        self.loss = experiment.loss
        if self.space.most > 1:
            for head in self.space.heads:  # one that does not fit is found before anything runs
                self.costs.of(self.space.uniform(self.space.ends[:1], head, 0))

    def baselines(self) -> list[Baseline]:
        """Return what the search begins with."""
        return baselines(self.space, self.chain, self.example, self.loss)

    def facts(self) -> dict[str, Any]:
        """Return what decides the numbers of a search."""
        search = self.config.search
        return {
            "network": self.config.network.model_dump(),
            "data": self.data.label,
            "training": len(self.data.train),
            "validation": len(self.data.test),
            "space": self.space.to_dict(),
            "cost": search.cost,
            "budget": search.budget_bytes,
            "epochs": search.epochs,
            "batch_size": self.config.batch_size,
            "seed": self.config.seed,
        }


def work(
    record: Record,
    subject: Subject,
    stop: Callable[[], bool],
    watch: Callable[[Task, int, float], Any] = lambda task, epoch, accuracy: None,
    done: Callable[[], Any] = lambda: None,
    run: Run = run_trial,
) -> None:
    """Run trials until there is none left.

    Args:
        record: shared with other processes.
        subject: what is searched for.
        stop: asked between batches.
        watch: told of every epoch.
        done: called after every trial.
        run: trains a trial.

    Raises:
        Interrupted: ``stop`` asked for it; the trial under way is saved.
    """
    rungs = record.config.search.rungs
    while True:
        if stop():
            raise Interrupted
        task = record.take(subject.space, subject.costs)
        if task is None:
            return
        watcher = Rungs(task, rungs, watch)
        finish(task, lambda task=task, watcher=watcher: run(task, subject.data, watcher, stop))  # type: ignore[misc]
        done()


def worker_process(tree: dict[str, Any], folder: str) -> None:
    """Run as a process of its own; ends where its parent does, and at SIGTERM after a batch."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    signal.signal(signal.SIGTERM, ask)
    parent = os.getppid()
    config = build_config(tree)
    if config.threads is None:  # each process its share of the cores
        share = max(1, (os.cpu_count() or 1) // config.search.processes)
        config = config.model_copy(update={"threads": share})
    with locked(Path(folder) / WORKERS, shared=True):
        record = Record(Path(folder), config)
        try:
            work(record, Subject(config), lambda: asked or os.getppid() != parent)
        except Interrupted:
            return
        except LocalgradError as error:
            raise SystemExit(f"error: {' '.join(str(error).split())}") from error
        finally:
            record.close()
