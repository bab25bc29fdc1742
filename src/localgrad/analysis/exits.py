"""Heads as early exits: what answering from a block's own head costs, and what that saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from localgrad.flops import FlopCounter
from localgrad.learner import LocalLearner
from localgrad.losses import logits_of
from localgrad.model_state import device_of, evaluation, unchanged


class Saving(NamedTuple):
    """The cheapest exit that is good enough.

    Attributes:
        exit: index of the block.
        accuracy: of its head, 0..1.
        flops: of an input up to there, relative to the whole network.
    """

    exit: int
    accuracy: float
    flops: float


@torch.no_grad()
def exit_flops(learner: LocalLearner, x: Tensor) -> list[int | None]:
    """Return the FLOPs of an answer from each block: the units up to there, and that head alone.

    Args:
        learner: any; it stays as it is.
        x: inputs, ``(batch, ...)``.

    Returns:
        For each block, per input; None where its head gives no class scores. The last is the
        network's own forward pass.
    """
    found: list[int | None] = []
    so_far, source = 0, x
    with unchanged(learner, device_of(learner)), evaluation(learner.modules()):
        for stage in learner._stages:
            with FlopCounter() as units:
                for unit in stage.units:
                    x = unit.seeing(source)(x)
            so_far += units.flops
            with FlopCounter() as head:
                scores = logits_of(stage.scores(x, source))
            found.append(None if scores is None else (so_far + head.flops) // len(source))
    return found


def saving(
    accuracies: Sequence[float | None], flops: Sequence[int | None], points: float = 0.01
) -> Saving:
    """Return the cheapest exit whose accuracy is at most ``points`` below the last one's.

    Args:
        accuracies: of each exit, 0..1; None where it gives no class scores.
        flops: of each exit; the last ones are the network's.
        points: 0.01 is one percentage point.

    >>> saving([0.5, 0.895, None, 0.9], [10, 40, None, 100])
    Saving(exit=1, accuracy=0.895, flops=0.4)
    """
    last, whole = accuracies[-1], flops[-1]
    assert last is not None
    assert whole is not None
    good = [
        (cost / whole, exit, accuracy)
        for exit, (accuracy, cost) in enumerate(zip(accuracies, flops, strict=True))
        if accuracy is not None and cost is not None and accuracy >= last - points
    ]
    share, exit, accuracy = min(good)
    return Saving(exit, accuracy, share)
