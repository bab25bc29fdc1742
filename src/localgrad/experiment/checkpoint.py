"""What a run needs to go on: weights, heads, optimizer, position, random state."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from localgrad.errors import LocalgradError
from localgrad.experiment.seal import check_seal, seal
from localgrad.experiment.whole_file import atomically
from localgrad.parallel.late import put_back


@dataclass
class Position:
    """Where a run stands.

    Args:
        epoch: epochs completed.
        batch: batches done in the epoch under way.
        seconds: spent training so far, without the epoch under way.
        epoch_seconds: in the epoch under way.
        correct, seen: training accuracy of the epoch under way.
        losses: sums of each block's loss over the epoch under way.
        skipped: updates of the epoch under way that overflowed in fp16.
        run: what the run's numbers hang on, as a digest; empty for a run of before there was one.
        late_links: blocks whose link is late, where that depends on what each process holds: a run
            goes on with the same ones, however many processes there are then.
    """

    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    correct: float = 0.0
    seen: int = 0
    losses: list[float] = field(default_factory=list)
    skipped: int = 0
    run: str = ""
    late_links: list[int] | None = None


def write(path: Path, state: dict[str, Any], position: Position) -> None:
    """Write a checkpoint of states that were gathered already; as :func:`save`."""
    whole = {**state, "position": asdict(position), "random": torch.get_rng_state()}

    def sealed(part: Path) -> None:
        torch.save(whole, part)
        seal(part)

    atomically(path, sealed)


def save(
    path: Path,
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    position: Position,
    scaler: torch.amp.GradScaler | None = None,
    late: dict[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint; the one before stays until the new one is whole.

    Args:
        path: the file.
        learner, optimizer, position, scaler: what is saved.
        late: gradients that wait for the next update, by name.
    """
    device = next(learner.parameters()).device
    state: dict[str, Any] = {
        "learner": learner.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    if late:
        state["late"] = late
    if scaler is not None:
        state["scaler"] = scaler.state_dict()
    if device.type == "cuda":
        state["random_cuda"] = torch.cuda.get_rng_state(device)
    write(path, state, position)


def load(
    path: Path,
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
    run: str = "",
) -> Position:
    """Put a checkpoint's state in place, with the gradients that wait for the next update.

    Args:
        path: the file.
        learner, optimizer, scaler: what the state is of.
        run: the run that goes on; a checkpoint of another one is refused.

    Raises:
        LocalgradError: the file is damaged or of another learner or run.
    """
    device = next(learner.parameters()).device
    try:
        check_seal(path)
        state = torch.load(path, map_location=device, weights_only=True)
        position = Position(**state["position"])
        if run and position.run not in ("", run):
            raise ValueError("it is of another run")
        learner.load_state_dict(state["learner"])
        optimizer.load_state_dict(state["optimizer"])
        if scaler is not None:
            scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"].cpu())
        if device.type == "cuda" and "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), device)
        put_back(learner.named_parameters(), state.get("late", {}))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    # damage shows as almost anything: of the zip file, the pickle, a key, a shape
    except Exception as error:
        raise LocalgradError(f"checkpoint {path} {_reason(error)}") from error
    return position


def _reason(error: Exception) -> str:
    """Return what is wrong with a file, in a few words of its error."""
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    text = str(error).partition("\n\t")  # a module's errors come as a title and a list
    first = " ".join((text[2] or text[0]).splitlines()[:1]).strip() or type(error).__name__
    if isinstance(error, KeyError):
        first = f"it has no {error}"
    return f"is damaged or of another network: {first.rstrip('. ')}"
