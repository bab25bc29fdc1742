"""How far local gradients point where back-propagation's do, unit by unit."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from localgrad.errors import LocalgradError
from localgrad.learner import LocalLearner
from localgrad.model_state import device_of, unchanged


class Agreement(NamedTuple):
    """Of one unit: the cosine between the two gradients, and the local one's norm over BP's.

    None where a unit has no weights, or one of its gradients is none or zero.
    """

    unit: str
    cosine: float | None
    ratio: float | None


def agreement(learner: LocalLearner, x: Tensor, y: Any) -> list[Agreement]:
    """Compare the gradients of a local step with those of back-propagation on the same batch.

    Weights, gradients, buffers and the random state stay as they are. Both passes draw the same
    random numbers from the same state, but dropout may meet them in another order.

    Args:
        learner: in the mode of training.
        x, y: a batch, as for :meth:`LocalLearner.step`.

    Returns:
        One entry for each unit, then one for the tail.

    Raises:
        LocalgradError: there are gradients, which would be lost.

    >>> import localgrad
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 3))
    >>> x, y = torch.randn(16, 4), torch.randint(3, (16,))
    >>> learner = localgrad.decouple(model, "backprop", example_input=x)
    >>> [round(one.cosine, 6) for one in agreement(learner, x, y)]
    [1.0, 1.0, 1.0]
    """
    parameters = list(learner.parameters())
    if any(p.grad is not None for p in parameters):
        raise LocalgradError("there are gradients, which comparing would lose: compare before")
    chain, device = learner.chain, device_of(learner)
    parts = (*chain.units, chain.tail)
    try:
        with unchanged(learner, device):
            learner.step(x, y)
        local = [_flat(part.parameters()) for part in parts]
        _forget(parameters)
        with unchanged(learner, device), torch.enable_grad():
            learner.task_loss(x, y).backward()
        whole = [_flat(part.parameters()) for part in parts]
    finally:
        _forget(parameters)
    return [
        Agreement(part.name, *_compare(a, b))
        for part, a, b in zip(parts, local, whole, strict=True)
    ]


def _flat(parameters: Any) -> Tensor | None:
    """Return all gradients in one row; None where a trained parameter has none."""
    trained = [p for p in parameters if p.requires_grad]
    if not trained or any(p.grad is None for p in trained):
        return None
    return torch.cat([p.grad.detach().flatten().double() for p in trained])


def _forget(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


def _compare(local: Tensor | None, whole: Tensor | None) -> tuple[float | None, float | None]:
    if local is None or whole is None:
        return None, None
    a, b = float(local.norm()), float(whole.norm())
    if a == 0 or b == 0:
        return None, None
    return float(local @ whole) / (a * b), a / b
