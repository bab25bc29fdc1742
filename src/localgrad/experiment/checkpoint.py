"""What a run needs to go on: weights, heads, optimizer, position, random state."""

from __future__ import annotations

import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from localgrad.errors import LocalgradError
from localgrad.experiment.folder import atomically


@dataclass
class Position:
    """Where a run stands.

    Args:
        epoch: epochs completed.
        batch: batches done in the epoch under way.
        seconds: spent training so far.
        epoch_seconds: of these, in the epoch under way.
        correct, seen: training accuracy of the epoch under way.
        losses: sums of each block's loss over the epoch under way.
    """

    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    correct: float = 0.0
    seen: int = 0
    losses: list[float] = field(default_factory=list)


def save(
    path: Path, learner: nn.Module, optimizer: torch.optim.Optimizer, position: Position
) -> None:
    """Write a checkpoint; the one before stays until the new one is whole."""
    state: dict[str, Any] = {
        "learner": learner.state_dict(),
        "optimizer": optimizer.state_dict(),
        "position": asdict(position),
        "random": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["random_cuda"] = torch.cuda.get_rng_state_all()
    atomically(path, lambda part: torch.save(state, part))


def load(path: Path, learner: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
    """Put a checkpoint's state in place.

    Raises:
        LocalgradError: the file is damaged or of another learner.
    """
    device = next(learner.parameters()).device
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        learner.load_state_dict(state["learner"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"].cpu())
        if torch.cuda.is_available() and "random_cuda" in state:
            torch.cuda.set_rng_state_all([s.cpu() for s in state["random_cuda"]])
        return Position(**state["position"])
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LocalgradError(f"checkpoint {path} cannot be used: {reason}") from error
