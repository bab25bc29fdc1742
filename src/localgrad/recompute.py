"""Activation checkpointing of units: activations are computed again during backward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from localgrad.chain import Unit
from localgrad.errors import LocalgradError

Pieces = Sequence[Unit | nn.Module]


def run_units(units: Pieces, x: Tensor, how: str | None) -> Tensor:
    """Run units in order.

    Args:
        units: or modules; may be empty.
        x: input of the first unit.
        how: None keeps activations; ``"unit"`` keeps each unit's input alone; ``"sqrt"`` keeps the
            inputs of about sqrt(n) groups of units (Chen et al. 2016, arXiv 1604.06174).

    Raises:
        LocalgradError: a unit changes its input in place, so that it cannot run on it again.
    """
    if how is None:
        for unit in units:
            x = unit(x)
        return x
    size = 1 if how == "unit" else max(1, round(math.sqrt(len(units))))
    for start in range(0, len(units), size):
        x = _checkpointed(units[start : start + size], x)
    return x


def _checkpointed(units: Pieces, x: Tensor) -> Tensor:
    version = x._version
    modules = [m for unit in units for m in unit.modules()]
    norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    out: Tensor = checkpoint(
        run_units,
        units,
        x,
        None,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _StatisticsFrozen(norms)),
    )
    if x._version != version:
        first = getattr(units[0], "name", type(units[0]).__name__)
        raise LocalgradError(
            f"unit {first!r} changes its input in place, and checkpointing needs that input again: "
            "build the model with inplace=False there, or leave checkpoint out"
        )
    return out


class _StatisticsFrozen:
    """Lets batch norms run in training mode again without counting the batch once more.

    It may be entered again and again: a segment that waits for a link is recomputed for each of
    its two backward passes.
    """

    def __init__(self, norms: list[Any]) -> None:
        self.norms = norms

    def __enter__(self) -> None:
        self.kept = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *error: object) -> None:
        for norm, (momentum, count) in zip(self.norms, self.kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
