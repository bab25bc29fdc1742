"""A trial to run: where, from which seed, and what the record is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import Trial, TrialState

from localgrad.data.order import seed_of
from localgrad.decoupling import Decoupling
from localgrad.experiment.config import Config
from localgrad.search.fronts import Point, goes_on

if TYPE_CHECKING:
    from localgrad.search.record import Record


class Task:
    """A trial to run.

    Args:
        record: that it is in.
        trial: Optuna's.
        decoupling: to train.
    """

    def __init__(self, record: Record, trial: Trial, decoupling: Decoupling) -> None:
        self.record, self.trial, self.decoupling = record, trial, decoupling

    @property
    def index(self) -> int:
        """Its number among the trials that are trained."""
        return int(self.trial.user_attrs["index"])

    @property
    def seed(self) -> int:
        """Of its weights, order and augmentation: a function of the search's seed and its index."""
        return seed_of(self.record.config.seed, 2, self.index) % 2**31

    @property
    def folder(self) -> Path:
        """Where it is trained."""
        return self.record.folder / "trials" / f"{self.index:04d}"

    def note(self, key: str, value: Any) -> None:
        """Keep a fact of the trial."""
        self.trial.set_user_attr(key, value)

    def cost(self) -> float | None:
        """Return what is weighed against accuracy."""
        return cost_of(self.record.config, self.trial.user_attrs)

    def goes_on(self, epoch: int, accuracy: float) -> bool:
        """Note the accuracy at a rung, and say whether the trial is good enough to go on."""
        key = f"rung {epoch}"
        self.note(key, accuracy)
        config = self.record.config
        others = [
            _point(trial.user_attrs[key], cost_of(config, trial.user_attrs))
            for index, trial in self.record.counted().items()
            if key in trial.user_attrs and index != self.index
        ]
        assert config.search.reduction is not None
        return goes_on(_point(accuracy, self.cost()), others, config.search.reduction)

    def complete(self, accuracy: float) -> None:
        """End the trial with its result."""
        cost = self.cost()
        values = [accuracy] if cost is None else [accuracy, cost]
        self.record.study.tell(self.trial, values)

    def prune(self) -> None:
        """End the trial early."""
        self.record.study.tell(self.trial, state=TrialState.PRUNED)

    def fail(self, reason: str) -> None:
        """End the trial without a result."""
        self.note("failed", reason)
        self.record.study.tell(self.trial, state=TrialState.FAIL)


def cost_of(config: Config, attributes: dict[str, Any]) -> float | None:
    """Return a trial's second objective, less is better; None where there is none."""
    key = {"memory": "memory", "flops": "flops", "time": "step seconds", "none": None}
    name = key[config.search.cost]
    return None if name is None else float(attributes[name])


def _point(accuracy: float, cost: float | None) -> Point:
    return (-accuracy,) if cost is None else (-accuracy, cost)
