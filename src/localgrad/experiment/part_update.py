"""A training step of a run in several processes, each with a part of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from localgrad import LocalLearner
from localgrad.experiment import checkpoint
from localgrad.experiment.checkpoint import Position
from localgrad.experiment.config import Config
from localgrad.experiment.precision import autocast
from localgrad.experiment.schedule import build_optimizer
from localgrad.experiment.update import Update
from localgrad.learner import StepOutput
from localgrad.parallel import gathered
from localgrad.parallel.division import at_work
from localgrad.parallel.mesh import Mesh
from localgrad.parallel.part_memory import part_memory
from localgrad.parallel.pipeline import ParallelLearner
from localgrad.parallel.replicas import rows
from localgrad.sizes import read_bytes

ASK_EVERY = 50  # steps between looks whether a process was asked to stop: all stop together


def divided(
    config: Config, learner: LocalLearner, mesh: Mesh, batch: tuple[Tensor, Tensor]
) -> tuple[int, ...]:
    """Return where the parts end: by time with all at work, within the memory of each.

    Raises:
        LocalgradError: more parts than groups of blocks, or they need more memory than is allowed.
    """
    memory = limit = None
    if config.parallel.memory is not None:
        limit = read_bytes(config.parallel.memory)
        make = partial(build_optimizer, config.optimizer)
        memory = part_memory(learner, *rows(mesh, *batch), make, config.precision)
    with autocast(mesh.device, config.precision):
        return at_work(learner, mesh, *batch, memory, limit)


class PartUpdate(Update):
    """As :class:`Update`, over the part of the learner that this process holds.

    What the process does not know, another part's losses or the network's output, counts as 0
    until :meth:`combined` adds up what all have counted. Blocks are updated one by one, which gives
    the same bits.

    Args:
        config: its optimizer, precision and processes.
        learner: as it was built and loaded in every process; each keeps its part.
        mesh: the processes.
        optimizer: over the whole learner; the state of this part is taken over.
        position: what was counted before stays with the first process alone.
        ends: end of each part, as :func:`divided` finds them.
        steps_before: steps of the run that were done before, for messages.
    """

    def __init__(
        self,
        config: Config,
        learner: LocalLearner,
        mesh: Mesh,
        optimizer: torch.optim.Optimizer,
        position: Position,
        ends: tuple[int, ...],
        steps_before: int = 0,
    ) -> None:
        self.config, self.learner, self.device, self.mesh = config, learner, mesh.device, mesh
        late_links = config.parallel.late_links
        if position.late_links is not None:
            late_links = position.late_links
        self.part = ParallelLearner(learner, mesh, ends, late_links=late_links)
        if config.parallel.late_links is True:
            position.late_links = list(self.part.late_blocks)
        mesh.roll.progress = lambda: steps_before + self.part.steps_done
        self.optimizer = build_optimizer(config.optimizer, self.part.parameters())
        for parameter in self.part.parameters():
            if parameter in optimizer.state:
                self.optimizer.state[parameter] = optimizer.state[parameter]
        optimizer.state.clear()
        self.scaler = self._skipped = None
        self._following: Tensor | None = None
        self._losses = len(learner.decoupling)
        self._first = self.part.groups[0].stages[0].index
        if mesh.rank != 0:
            position.correct, position.losses = 0.0, [0.0] * self._losses

    def over(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches, each while the input of the one after it is known."""
        batch = next(batches, None)
        while batch is not None:
            following = next(batches, None)
            self._following = None if following is None else following[0]
            yield batch
            batch = following

    def step(self, x: Tensor, y: Tensor) -> StepOutput:
        """Run this part's step and update its weights."""
        with autocast(self.device, self.config.precision):
            out = self.part.step(x, y, self.optimizer, self._following)
        zero = torch.zeros((), device=self.device)
        losses = [zero] * self._losses
        losses[self._first : self._first + len(out.losses)] = out.losses
        # without an output no target is right: the class is none
        logits = torch.empty(0, device=self.device) if out.logits is None else out.logits
        return StepOutput(logits, losses)

    def finish(self) -> None:
        """Take the last link, and wait for what was sent."""
        self.part.finish()

    def hits(self, out: StepOutput, y: Tensor) -> Tensor:
        """Return how many targets of this replica are right; 0 where the output is elsewhere."""
        if not self.mesh.last:
            return torch.zeros((), dtype=torch.long, device=self.device)
        return (out.logits.argmax(dim=-1) == rows(self.mesh, y, None)[0]).sum()

    def scores(self, x: Tensor) -> Any:
        """Return the network's output in the last part."""
        return self.part(x)

    def exits(self, x: Tensor) -> list[Tensor | None]:
        """Return the class scores of this part's losses."""
        return self.part.exits(x)

    def gathered(self, value: Any) -> list[Any]:
        """Return the values of the parts, of the first replica."""
        return self.mesh.gather(value)[: self.mesh.blocks]

    def combined(self, position: Position) -> Position:
        """Return the position with what all processes have counted."""
        counts = self.mesh.gather((position.correct, position.losses))
        # the loss of each replica is a mean over its rows
        losses = [
            sum(column) / self.mesh.data for column in zip(*(c[1] for c in counts), strict=True)
        ]
        return replace(position, correct=sum(c[0] for c in counts), losses=losses)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return what this process trains."""
        return list(self.part.named_parameters())

    def save(self, path: Path, position: Position) -> None:
        """Write a checkpoint of the whole learner, on rank 0."""
        position = self.combined(position)
        learner = gathered.state(self.part)
        optimizer = gathered.optimizer_state(self.part, self.optimizer)
        late = gathered.late_gradients(self.part)

        def write() -> None:
            if learner is not None and optimizer is not None:
                held = {"late": late} if late else {}
                state = {"learner": learner, "optimizer": optimizer, **held}
                checkpoint.write(path, state, position)

        self.mesh.roll.meanwhile(0, write)

    def backbone(self) -> dict[str, Tensor] | None:
        """Return the plain network's weights on rank 0."""
        found = gathered.state(self.part)
        if found is None:
            return None
        prefix = "backbone."
        return {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}

    def facts(self) -> dict[str, Any]:
        """Return the processes, and for each the bytes sent and the seconds spent waiting."""
        told = self.mesh.gather((self.part.sent_bytes, self.part.waits.take()))
        return {
            "parallel": {
                "blocks": self.mesh.blocks,
                "data": self.mesh.data,
                "late_links": list(self.part.late_blocks),
                "sent_bytes": [sent for sent, _ in told],
                "idle_seconds": [idle for _, idle in told],
            }
        }

    def all_stop(self) -> bool:
        """Return whether every process stops at the same place, and they can save together."""
        return self.mesh.roll.all_note("stops")

    def agreed(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Return ``stop`` as all processes answer it, asked together every few steps."""
        calls = 0

        def together() -> bool:
            nonlocal calls
            calls += 1
            return calls % ASK_EVERY == 0 and any(self.mesh.gather(stop()))

        return together
