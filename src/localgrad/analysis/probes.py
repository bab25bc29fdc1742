"""Linear probes: how well a linear classifier reads the classes off a unit's features.

Alain and Bengio, "Understanding intermediate layers using linear classifier probes" (2016, arXiv
1610.01644). The classifier is multinomial logistic regression on features of mean 0 and variance 1
with an L2 penalty: a convex problem with one solution, so that a probe depends on nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from localgrad.errors import LocalgradError


@dataclass(frozen=True)
class Probe:
    """What a probe reads.

    Args:
        train_accuracy, test_accuracy: 0..1.
        weight: of the standardised features, ``(classes, features)``.
        bias: ``(classes,)``.
    """

    train_accuracy: float
    test_accuracy: float
    weight: Tensor
    bias: Tensor


def probe(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: int,
    penalty: float = 1e-3,
    iterations: int = 200,
) -> Probe:
    """Fit a linear classifier to features.

    Args:
        train, test: features ``(inputs, features)`` and labels ``(inputs,)``.
        classes: number of them.
        penalty: half the squared norm of the weights times this is added to the mean loss.
        iterations: at most, of L-BFGS.

    Raises:
        LocalgradError: features that are not finite, or no training inputs.

    >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    >>> y = torch.tensor([0, 0, 1, 1])
    >>> probe((x, y), (x, y), classes=2).test_accuracy
    1.0
    """
    x, y = train[0].double(), train[1]
    if len(x) == 0 or not bool(x.isfinite().all() and test[0].isfinite().all()):
        raise LocalgradError("probe: the features must be finite, and at least one input there")
    middle, spread = x.mean(dim=0), x.std(dim=0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)  # a constant feature stays 0
    x = (x - middle) / spread
    weight = torch.zeros(classes, x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, device=x.device, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=iterations,
        tolerance_grad=1e-7,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, y) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(objective)
    weight, bias = weight.detach(), bias.detach()

    def accuracy(features: Tensor, labels: Tensor) -> float:
        return float(((features @ weight.T + bias).argmax(dim=1) == labels).double().mean())

    tested = (test[0].double() - middle) / spread
    return Probe(accuracy(x, y), accuracy(tested, test[1]), weight, bias)
