"""The record of a search: an Optuna study in a file of SQLite, shared by all processes.

Optuna samples and stores. What it does not do for two objectives is done here: rungs of successive
halving, and trials of killed processes, which are put back in the queue.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import event

from localgrad.data.order import seed_of
from localgrad.errors import LocalgradError
from localgrad.experiment.config import Config
from localgrad.experiment.folder import STUDY
from localgrad.experiment.locks import locked
from localgrad.search.baselines import Baseline
from localgrad.search.costs import Costs, identity
from localgrad.search.space import Space
from localgrad.search.task import Task

NAME = "search"
TRIES = 3  # of a trial whose process is killed each time
PATIENCE = 200  # drawings in a row that are known or do not fit: there is nothing left
_WAIT = 60  # seconds that a process waits for another's write


class Record:
    """The trials of one search.

    Args:
        folder: of the search.
        config: its configuration.

    Raises:
        LocalgradError: the file is no study.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder, self.config = folder, config
        one = config.search.cost == "none"
        try:
            self.storage = optuna.storages.RDBStorage(
                f"sqlite:///{folder / STUDY}",
                engine_kwargs={"connect_args": {"timeout": _WAIT}},
            )
            event.listen(self.storage.engine, "connect", _fast)
            self.storage.engine.dispose()  # connections made before
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=NAME,
                directions=["maximize"] if one else ["maximize", "minimize"],
                load_if_exists=True,
            )
        # damage shows as errors of the driver, of SQLAlchemy and of Optuna
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise LocalgradError(
                f"{folder / STUDY} cannot be used as the record of a search: {reason}; give "
                "another --out"
            ) from error

    def close(self) -> None:
        """Let the file go."""
        self.storage.remove_session()
        self.storage.engine.dispose()

    def begin(self, facts: dict[str, Any], baselines: list[Baseline]) -> None:
        """Note what the search is of, and what it begins with; or compare.

        Args:
            facts: plain values that decide the numbers.
            baselines: to be tried first.

        Raises:
            LocalgradError: the record is of another search; what differs is named.
        """
        before = self.study.user_attrs.get("facts")
        facts = json.loads(json.dumps(facts))
        if before is None:
            most = max(1, self.config.search.trials // 2)
            first = [{"name": each.name, "values": each.values} for each in baselines[:most]]
            self.study.set_user_attr("baselines", first)
            self.study.set_user_attr("facts", facts)
            return
        changed = [key for key in {**before, **facts} if before.get(key) != facts.get(key)]
        if changed:
            detail = "; ".join(
                f"{key} was {_short(before.get(key))}, now {_short(facts.get(key))}"
                for key in changed
            )
            raise LocalgradError(
                f"{self.folder / STUDY} is of another search ({detail}): give another --out"
            )

    def trials(self) -> list[FrozenTrial]:
        """Return everything that was drawn."""
        return self.study.get_trials(deepcopy=False)

    def counted(self) -> dict[int, FrozenTrial]:
        """Return the trials that fit and are new, the newest try of each, by their index."""
        return {
            trial.user_attrs["index"]: trial
            for trial in self.trials()
            if "index" in trial.user_attrs
        }

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Draw alone: no two processes get the same decoupling."""
        with locked(self.folder / "draw.lock"):
            yield

    def take(self, space: Space, costs: Costs) -> Task | None:
        """Return the next trial to run; None where there is none left.

        What is over the budget or known is drawn again, and costs no training. Where nothing new
        was drawn for very long, there is nothing left.
        """
        with self.asking():
            for _ in range(PATIENCE):
                waiting = any(t.state == TrialState.WAITING for t in self.trials())
                most = min(self.config.search.trials, len(space))
                if not waiting and len(self.counted()) >= most:
                    return None
                found = self._drawn(space, costs)
                if found is not None:
                    return found
        return None

    def _drawn(self, space: Space, costs: Costs) -> Task | None:
        seed = self.config.seed
        trials = self.trials()
        # a function of the seed and of what came before: a resumed search draws as a whole one
        drawn = [t for t in trials if {"index", "left out"} & t.user_attrs.keys()]
        known = bool(drawn) and drawn[-1].user_attrs.get("left out") == "repeat"
        self.study.sampler = _sampler(
            "random" if known else self.config.search.sampler,  # a sampler may see but one place
            seed_of(seed, 1, sum("tries" not in t.user_attrs for t in drawn)) % 2**32,
        )
        if not any(trial.state == TrialState.WAITING for trial in trials):
            self._queue_baseline(drawn)
        trial = self.study.ask()
        decoupling = space.draw(trial)
        if "index" in trial.user_attrs:  # put back
            trial.set_user_attr("process", os.getpid())
            return Task(self, trial, decoupling)
        key = identity(decoupling)
        counted = self.counted()
        if any(t.user_attrs["identity"] == key for t in counted.values()):
            self._leave_out(trial, "repeat", TrialState.FAIL)
            return None
        try:
            cost = costs.of(decoupling)
        except LocalgradError as error:
            self._leave_out(trial, f"cannot be built: {error}", TrialState.PRUNED)
            return None
        trial.set_user_attr("memory", cost.memory)
        trial.set_user_attr("flops", cost.flops)
        budget = self.config.search.budget_bytes
        if budget is not None and cost.memory > budget:
            self._leave_out(trial, "over budget", TrialState.PRUNED)
            return None
        trial.set_user_attr("identity", key)
        trial.set_user_attr("process", os.getpid())
        trial.set_user_attr("index", len(counted))
        return Task(self, trial, decoupling)

    def _queue_baseline(self, drawn: list[FrozenTrial]) -> None:
        """Queue the first of what a search begins with that was not drawn yet.

        One at a time: a trial that is put back must come before what was not drawn.
        """
        had = {trial.user_attrs.get("name") for trial in drawn}
        for each in self.study.user_attrs["baselines"]:
            if each["name"] not in had:
                self.study.enqueue_trial(each["values"], user_attrs={"name": each["name"]})
                return

    def _leave_out(self, trial: Trial, why: str, state: TrialState) -> None:
        """End a trial without training it.

        Args:
            trial: that was drawn.
            why: kept with it.
            state: pruned, which the sampler takes for bad; failed, from which it learns nothing. A
                known decoupling must not count again: the sampler would draw little else.
        """
        trial.set_user_attr("left out", why)
        self.study.tell(trial, state=state)

    def put_back(self, process: int | None = None) -> int:
        """Queue trials again whose process is gone; they go on from their checkpoints.

        Args:
            process: that is gone; None: all of them are.

        Returns:
            How many.
        """
        lost = [t for t in self.trials() if t.state == TrialState.RUNNING]
        if process is not None:
            lost = [t for t in lost if t.user_attrs.get("process") == process]
        for trial in lost:
            self.study.tell(trial.number, state=TrialState.FAIL)
            tries = trial.user_attrs.get("tries", 1) + 1
            kept = {key: value for key, value in trial.user_attrs.items() if key != "process"}
            if "index" in kept and tries <= TRIES:
                self.study.enqueue_trial(trial.params, user_attrs={**kept, "tries": tries})
        return len(lost)


def _fast(connection: Any, _: Any) -> None:
    """Let a write not wait for the disk: a killed process loses none, a power cut the last."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name == "random":
        return optuna.samplers.RandomSampler(seed)
    return optuna.samplers.TPESampler(seed=seed)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
