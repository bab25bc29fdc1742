"""How alike two representations are: linear centered kernel alignment, batch by batch.

Linear CKA (Kornblith et al., ICML 2019, arXiv 1905.00414) compares two sets of features of the same
inputs; 1 means equal up to rotation and scale. The estimator over batches (Nguyen, Raghu and
Kornblith, ICLR 2021, arXiv 2010.15327, section 3) takes the mean of an unbiased estimate of HSIC
(Song et al., JMLR 2012, equation 5) over the batches, so that its value does not depend on the
batch size and no more than a batch of features is in memory.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from localgrad.errors import LocalgradError


def grams(features: Iterable[Tensor]) -> Tensor:
    """Return each unit's inner products between the inputs of a batch, ``(units, batch, batch)``.

    Those of an input with itself are 0, as the unbiased estimate wants it.

    Args:
        features: of each unit, ``(batch, ...)``; one at a time is in memory.
    """
    found = []
    for each in features:
        flat = each.detach().flatten(1).double()
        found.append((flat @ flat.T).fill_diagonal_(0))
    return torch.stack(found)


class Alignment:
    """Linear CKA of every unit of one network with every unit of another.

    >>> x = torch.randn(32, 5, dtype=torch.float64)
    >>> turned = 3 * x @ torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    >>> alignment = Alignment()
    >>> alignment.add(grams([x]), grams([x, turned]))
    >>> alignment.result().round(decimals=6).tolist()
    [[1.0, 1.0]]
    """

    def __init__(self) -> None:
        self._sums: tuple[Tensor, Tensor, Tensor] | None = None

    def add(self, first: Tensor, second: Tensor) -> None:
        """Take a batch in.

        Args:
            first, second: :func:`grams` of the same inputs in the two networks.

        Raises:
            LocalgradError: the batch has fewer than four inputs, or not as many in both.
        """
        if first.shape[1:] != second.shape[1:] or first.shape[1] < 4:
            raise LocalgradError(
                f"CKA: got batches of {first.shape[1]} and {second.shape[1]} inputs, expected the "
                "same 4 or more"
            )
        new = (
            _hsic(first, second),
            _hsic(first, first).diagonal(),
            _hsic(second, second).diagonal(),
        )
        if self._sums is not None:
            old = self._sums
            new = old[0] + new[0], old[1] + new[1], old[2] + new[2]
        self._sums = new

    def result(self) -> Tensor:
        """Return CKA, ``(units of the first, units of the second)``, in float64.

        Near 0 an estimate may be negative; a unit whose output is constant has no similarity: NaN.

        Raises:
            LocalgradError: no batch was added.
        """
        if self._sums is None:
            raise LocalgradError("CKA: no batch was added")
        between, first, second = self._sums
        return between / (first.clamp(min=0)[:, None] * second.clamp(min=0)[None, :]).sqrt()


def _hsic(a: Tensor, b: Tensor) -> Tensor:
    """Return the unbiased estimates, ``(a, b)``, from Gram matrices ``(.., n, n)``."""
    n = a.shape[-1]
    traces = a.flatten(1) @ b.flatten(1).T
    rows_a, rows_b = a.sum(dim=-1), b.sum(dim=-1)
    sums = rows_a.sum(dim=-1)[:, None] * rows_b.sum(dim=-1)[None, :] / ((n - 1) * (n - 2))
    crossed = rows_a @ rows_b.T
    return (traces + sums - 2 / (n - 2) * crossed) / (n * (n - 3))
