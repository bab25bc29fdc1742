"""A training step of a run: the local step in the run's precision, and the update of the weights.

In fp16 a gradient scaler multiplies the losses, and skips an update whose gradients overflowed.
Such a batch counts as seen: the learning rate follows the data, not the number of updates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from localgrad import LocalLearner
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
