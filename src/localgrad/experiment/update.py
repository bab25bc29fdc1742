"""A training step of a run: the local step in the run's precision, and the update of the weights.

In fp16 a gradient scaler multiplies the losses, and skips an update whose gradients overflowed.
Such a batch counts as seen: the learning rate follows the data, not the number of updates.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from localgrad.learner import StepOutput


class Update:
    """The optimizer of a run, its scaler, and how they follow a local step.

    Args:
        config: its optimizer and precision.
        learner: the learner that is trained.
        device: where it is.
        scale: of the losses in fp16, at the start; the default is torch's.
    """

    def __init__(
        self,
        config: Config,
        learner: LocalLearner,
        device: torch.device,
        scale: float = 2.0**16,
    ) -> None:
        self.config, self.learner, self.device = config, learner, device
        self.optimizer = build_optimizer(config.optimizer, learner)
        self.scaler: torch.amp.GradScaler | None = None
        if config.precision == "fp16":
            self.scaler = torch.amp.GradScaler(device.type, init_scale=scale)
        self._skipped: Tensor | None = None
        self._one = torch.ones((), device=device)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def step(self, x: Tensor, y: Tensor) -> StepOutput:
        """Run a local step and update the weights."""
        self.optimizer.zero_grad()
        by_block = self.config.optimizer.update == "block"
        with autocast(self.device, self.config.precision):
            out = self.learner.step(
                x, y, scaler=self.scaler, update=self.optimizer if by_block else None
            )
        if self.scaler is not None:
            self._scaled(self.scaler)
        elif not by_block:
            self.optimizer.step()
        return out

    def over(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches that :meth:`step` will be given."""
        return batches

    def finish(self) -> None:
        """Do what is left of the last step."""

    def hits(self, out: StepOutput, y: Tensor) -> Tensor:
        """Return how many targets the network got right, as far as this process knows."""
        return (out.logits.argmax(dim=-1) == y).sum()

    def scores(self, x: Tensor) -> Any:
        """Return the network's output; None where another process has it."""
        return self.learner(x)

    def exits(self, x: Tensor) -> list[Tensor | None]:
        """Return the class scores of the losses that this process knows."""
        return self.learner.exits(x)

    def gathered(self, value: Any) -> list[Any]:
        """Return ``value`` of each process that knows a part of the network, in order."""
        return [value]

    def combined(self, position: Position) -> Position:
        """Return the position with what all processes have counted."""
        return position

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return what this process trains."""
        return list(self.learner.named_parameters())

    def save(self, path: Path, position: Position) -> None:
        """Write a checkpoint."""
        checkpoint.save(path, self.learner, self.optimizer, position, self.scaler)

    def backbone(self) -> dict[str, Tensor] | None:
        """Return the plain network's weights; None where another process has them."""
        return self.learner.backbone.state_dict()

    def all_stop(self) -> bool:
        """Return whether what ends the run here ends it everywhere, so that it can be saved."""
        return True

    def facts(self) -> dict[str, Any]:
        """Return what a summary says of the processes."""
        return {}

    def _scaled(self, scaler: torch.amp.GradScaler) -> None:
        before = scaler.scale(self._one)
        scaler.step(self.optimizer)
        scaler.update()
        # only an overflow lets the scale fall; compared on the device, so that nothing waits
        fell = scaler.scale(self._one) < before
        self._skipped = fell.long() if self._skipped is None else self._skipped + fell

    def take_skipped(self) -> int:
        """Return how many updates were skipped since the last call; waits for the device."""
        count = 0 if self._skipped is None else int(self._skipped)
        self._skipped = None
        return count
