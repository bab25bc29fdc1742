"""A rule in one process or in all, and plain BP in one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import localgrad
from localgrad import methods as M
from localgrad.decoupling import Decoupling
from localgrad.memory import Memory, measure_memory
from localgrad.parallel.division import at_work
from localgrad.parallel.pipeline import ParallelLearner
from parallel_step.setting import Setting, sgd

RULES: dict[str, M.Method] = {
    "greedy": M.Greedy(),
    "backlink": M.BackLink(head="pool_linear"),
    "auglocal": M.AugLocal(depth=2),
}
IN_A_ROW = 4  # steps of which the memory is counted: the processes are then at different batches


def cut(setting: Setting, rule: M.Method, blocks: int) -> Decoupling:
    """Return blocks cut by time, measured here.

    Raises:
        LocalgradError: the rule cannot have so few blocks.
    """
    model, x = setting.model(), setting.x
    units = len(localgrad.Chain.of(model))
    balance = "time" if 1 < blocks < units else None
    learner = localgrad.decouple(model, rule, blocks=blocks, example_input=x, balance=balance)
    return learner.decoupling


def divided(setting: Setting, decoupling: Decoupling) -> tuple[int, ...]:
    """Return where each process's part ends, by time with all at work; every process calls it."""
    return at_work(learner_of(setting, decoupling), setting.mesh, setting.x, setting.y)


def learner_of(setting: Setting, decoupling: Decoupling) -> localgrad.LocalLearner:
    """Return the learner of a division, alike in every process."""
    return localgrad.decouple(setting.model(), decoupling, example_input=setting.x[:2])


class Together:
    """A rule in all processes."""

    together, threads = True, 1

    def __init__(
        self,
        setting: Setting,
        name: str,
        decoupling: Decoupling,
        ends: tuple[int, ...],
        late_links: bool = False,
    ) -> None:
        self.name, self.decoupling, self.ends = name, decoupling, ends
        self._batch = (setting.x, setting.y)
        learner = learner_of(setting, decoupling)
        self.part = ParallelLearner(learner, setting.mesh, ends, late_links=late_links)
        self._optimizer = sgd(self.part.parameters())

    def steps(self, count: int) -> Iterator[None]:
        """Train on the same batch ``count`` times."""
        for _ in self.part.steps([self._batch] * count, self._optimizer):
            yield

    def waited(self) -> float:
        """Return the seconds spent waiting for borders, errors and room for more of them."""
        return self.part.waits.take()

    def memory(self) -> Memory:
        """Return the peak over steps in a row."""

        def run() -> None:
            for _ in self.steps(IN_A_ROW):
                pass

        held = nn.ParameterList(self.part.parameters())  # of this process alone
        return measure_memory(run, held, self._optimizer, workspace=False)

    def sent_bytes(self) -> float:
        """Return borders and errors, as counted where they are sent."""
        before = self.part.sent_bytes
        for _ in self.steps(IN_A_ROW):
            pass
        return (self.part.sent_bytes - before) / IN_A_ROW


class _Alone:
    """One process, which waits for none."""

    together, threads = False, 1

    def waited(self) -> float:
        """Nothing."""
        return 0.0

    def sent_bytes(self) -> float:
        """Nothing."""
        return 0.0


class RuleAlone(_Alone):
    """A rule in one process of one thread; each block is updated on the way, as in several."""

    def __init__(self, setting: Setting, name: str, decoupling: Decoupling) -> None:
        self.name = name
        self._x, self._y = setting.x, setting.y
        self._learner = learner_of(setting, decoupling)
        self._optimizer = sgd(self._learner.parameters())

    def steps(self, count: int) -> Iterator[None]:
        """Train on the same batch ``count`` times."""
        for _ in range(count):
            self._learner.step(self._x, self._y, update=self._optimizer)
            yield

    def memory(self) -> Memory:
        """Return the peak of a step."""
        return measure_memory(
            lambda: next(self.steps(1)), self._learner, self._optimizer, workspace=False
        )


class Backprop(_Alone):
    """Plain BP in one process."""

    def __init__(self, setting: Setting, name: str, threads: int) -> None:
        self.name, self.threads = name, threads
        self._x, self._y = setting.x, setting.y
        self._model = setting.model()
        self._optimizer = sgd(self._model.parameters())

    def steps(self, count: int) -> Iterator[None]:
        """Train on the same batch ``count`` times."""
        torch.set_num_threads(self.threads)
        try:
            for _ in range(count):
                train(self._model, self._optimizer, self._x, self._y)
                yield
        finally:
            torch.set_num_threads(1)

    def memory(self) -> Memory:
        """Return the peak of a step."""
        return measure_memory(
            lambda: next(self.steps(1)), self._model, self._optimizer, workspace=False
        )


def train(model: nn.Module, optimizer: torch.optim.Optimizer, x: Any, y: Any) -> None:
    """Take a step of BP."""
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
