"""How far two steps on one batch are apart, and how far rounding alone may take them.

Sums in another order differ by rounding, which ReLUs and pools that switch at a rounded value make
larger: in fp32 single gradients of a ResNet-32 move by 1 to 3 % of their norm if the rows of the
batch merely change places, and by as much in another memory layout or in float64. Wrong code is off
by tens of per cent and more. What is allowed lies between.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from localgrad.model_state import device_of, unchanged

if TYPE_CHECKING:
    from localgrad.learner import LocalLearner

#: Largest difference of a gradient that counts as rounding, relative to its norm.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 0.1, torch.bfloat16: 0.3, torch.float16: 0.3}
FLOOR = 1e-2  # of the largest gradient's norm: gradients below it are compared with this


Results = dict[str, Tensor | None]  # by name


def results_of(learner: LocalLearner, x: Tensor, y: Any) -> Results:
    """Return gradients, buffers, logits and losses of one step, which leaves nothing behind."""
    with as_it_was(learner, x.device):
        out = learner.step(x, y)
        found: Results = {
            f"the gradient of {name}": p.grad for name, p in learner.named_parameters()
        }
        found |= {f"buffer {name}": b.detach().clone() for name, b in learner.named_buffers()}
        found |= {f"the loss of block {k}": loss for k, loss in enumerate(out.losses)}
        found["the logits"] = out.logits
    return found


def difference(plain: Results, compiled: Results) -> tuple[float, str]:
    """Return the largest relative difference and where it is; infinite where one is missing."""
    norms = {
        name: float(torch.linalg.vector_norm(value.double()))
        for name, value in plain.items()
        if value is not None
    }
    largest = max((n for name, n in norms.items() if name.startswith("the gradient")), default=0.0)
    worst, where = 0.0, "nothing"
    for name, value in plain.items():
        other = compiled[name]
        if value is None or other is None:
            if value is not other:
                return float("inf"), name
            continue
        floor = FLOOR * largest if name.startswith("the gradient") else 1e-12
        error = float(torch.linalg.vector_norm(other.double() - value.double()))
        relative = error / max(norms[name], floor, 1e-30)
        if not relative <= worst:  # a NaN is the worst of all
            worst, where = relative, name
    return worst, where


@contextmanager
def as_it_was(learner: LocalLearner, device: torch.device) -> Iterator[None]:
    """Put gradients, buffers, modules and the random state back."""
    gradients = [(p, p.grad) for p in learner.parameters()]
    with unchanged(learner, device):
        try:
            for parameter, _ in gradients:
                parameter.grad = None
            yield
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient


def tolerance_of(learner: LocalLearner) -> float:
    """Return how far compiled gradients may be from plain ones, by the precision of the step."""
    kind = device_of(learner).type
    if torch.is_autocast_enabled(kind):
        return TOLERANCE[torch.get_autocast_dtype(kind)]
    found = (p.dtype for p in learner.parameters() if p.dtype in TOLERANCE)
    return TOLERANCE[next(found, torch.float32)]
