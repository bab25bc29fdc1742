"""Losses and weights that are not finite end a run, before they are saved over good ones."""

from __future__ import annotations

import torch
from torch import Tensor

from localgrad.errors import LocalgradError
from localgrad.experiment.checkpoint import Position
from localgrad.experiment.update import Update


def settle_losses(pending: list[Tensor], position: Position) -> list[float]:
    """Add up the losses of the last steps; refuse any that is not finite. Returns the newest."""
    values = torch.stack(pending)
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        step, block = bad[0].tolist()
        batch = position.batch - len(pending) + step
        raise _diverged(f"loss of block {block} is", position, batch + 1)
    totals = values.double().sum(dim=0).tolist()
    position.losses = [a + b for a, b in zip(position.losses, totals, strict=True)]
    newest: list[float] = values[-1].tolist()
    pending.clear()
    return newest


def check_weights(update: Update, position: Position) -> None:
    """Refuse weights that the last step spoilt, before they are saved over good ones."""
    named = [(name, p) for name, p in update.named_parameters() if p.numel()]
    finite = torch.stack([p.detach().isfinite().all() for _, p in named])
    bad = (~finite).nonzero()
    if len(bad):
        name = named[int(bad[0])][0]
        raise _diverged(f"weights {name} are", position, position.batch)


def _diverged(what: str, position: Position, batch: int) -> LocalgradError:
    kept = f"; the checkpoint after epoch {position.epoch} is kept" if position.epoch else ""
    return LocalgradError(
        f"the {what} not finite in epoch {position.epoch + 1}, batch {batch}: lower --optimizer.lr "
        f"or set --schedule.warmup_epochs{kept}"
    )
