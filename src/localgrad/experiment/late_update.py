"""A training step of a run in one process, some of whose links come one step late."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from localgrad import LocalLearner
from localgrad.experiment import checkpoint
from localgrad.experiment.checkpoint import Position
from localgrad.experiment.config import Config
from localgrad.experiment.precision import autocast
from localgrad.experiment.update import Update
from localgrad.learner import StepOutput
from localgrad.parallel.late import LateLearner, waiting_gradients


class LateUpdate(Update):
    """As :class:`Update`, with the late links of ``parallel.late_links``.

    Blocks are updated one by one, which gives the same bits.

    Args:
        config: its optimizer, precision and late links.
        learner: the learner that is trained.
        device: where it is.
    """

    def __init__(self, config: Config, learner: LocalLearner, device: torch.device) -> None:
        super().__init__(config, learner, device)
        late_links = config.parallel.late_links
        assert not isinstance(late_links, bool)  # one process has no parts
        self._late = LateLearner(learner, late_links)

    def step(self, x: Tensor, y: Tensor) -> StepOutput:
        """Run a local step and update the weights; gradients may wait for it in ``.grad``."""
        with autocast(self.device, self.config.precision):
            return self._late.step(x, y, self.optimizer)

    def finish(self) -> None:
        """Take what is late."""
        self._late.finish()

    def save(self, path: Path, position: Position) -> None:
        """Write a checkpoint, with the gradients that wait for the next update."""
        late = waiting_gradients(self.learner.named_parameters())
        checkpoint.save(path, self.learner, self.optimizer, position, late=late)
