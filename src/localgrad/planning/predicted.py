"""A whole training step under fake tensors: what :func:`localgrad.predict_memory` finds, sooner.

The peak of ``zero_grad``, step and optimizer's step is the larger of two: that of the step, with
the optimizer's state beside it, and that of the optimizer's step, which no batch size changes. So
one fake step gives bytes and FLOPs at once, and another batch size takes one step more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from localgrad.flops import FlopCounter
from localgrad.learner import LocalLearner
from localgrad.memory import Memory, measure_memory
from localgrad.prediction import Factory, fake_step


@dataclass(frozen=True)
class Prediction:
    """What a training step takes in the steady state.

    Args:
        memory: bytes; ``activations`` are of the step alone.
        flops: of the step.
        update: bytes in all at the peak of the optimizer's step.
    """

    memory: Memory
    flops: int
    update: int

    def total(self, step: Memory) -> int:
        """Return the bytes in all, where the step alone, without state, takes ``step``."""
        return max(step.total + self.memory.optimizer, self.update)


def predict(
    learner: LocalLearner,
    example_input: Tensor,
    batch: int,
    optimizer: Factory,
    precision: str = "fp32",
    micro_batches: int = 1,
    seconds: float | None = None,
) -> Prediction:
    """Return the bytes and FLOPs of a training step in the steady state.

    Args:
        learner, example_input, optimizer, precision, seconds: as of
            :func:`localgrad.predict_memory`.
        batch: rows a training step.
        micro_batches: equal parts that the batch is taken in. From the second part on gradients are
            held from the start: that, not a step of BP with so few rows, is the peak.
    """
    part = batch // micro_batches
    found: list[Memory] = []
    with fake_step(learner, example_input, None, part, None, precision, seconds) as (fake, step):
        with FlopCounter() as counter:
            found.append(measure_memory(step, fake))
        if micro_batches > 1:  # the third part is as the second
            found.append(measure_memory(step, fake))
        stepping = optimizer(list(fake.parameters()))
        stepping.step()  # its state is there from now on
        update = measure_memory(stepping.step, fake, stepping)
    most = max(found, key=lambda memory: memory.total)
    memory = replace(update, activations=most.activations, total=0)
    draft = Prediction(memory, micro_batches * counter.flops, update.total)
    return replace(draft, memory=replace(memory, total=draft.total(most)))


def predict_step(
    learner: LocalLearner,
    example_input: Tensor,
    batch: int,
    precision: str = "fp32",
    seconds: float | None = None,
) -> Memory:
    """Return the bytes of a step alone; arguments as of :func:`predict`."""
    with fake_step(learner, example_input, None, batch, None, precision, seconds) as (fake, step):
        return measure_memory(step, fake)


def training_step(
    learner: nn.Module, optimizer: Optimizer, steps: Sequence[Callable[[], Any]]
) -> None:
    """Take one training step; the gradients of several equal parts are averaged."""
    optimizer.zero_grad()
    for step in steps:
        step()
    if len(steps) > 1:
        for parameter in learner.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(len(steps))
    optimizer.step()
