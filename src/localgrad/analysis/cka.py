"""How alike two representations are: linear centered kernel alignment, batch by batch.

Linear CKA (Kornblith et al., ICML 2019, arXiv 1905.00414) compares two sets of features of the same
inputs; 1 means equal up to rotation and scale. The estimator over batches (Nguyen, Raghu and
Kornblith, ICLR 2021, arXiv 2010.15327, section 3) takes the mean of an unbiased estimate of HSIC
(Song et al., JMLR 2012, equation 5) over the batches, so that its value does not depend on the
batch size and no more than a batch of features is in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from localgrad.errors import LocalgradError


class Alignment:
    """Linear CKA of every unit of one network with every unit of another.

    >>> x = torch.randn(32, 5, dtype=torch.float64)
    >>> alignment = Alignment()
    >>> alignment.add([x], [x, 3 * x @ torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]])
    >>> alignment.result().round(decimals=6).tolist()
    [[1.0, 1.0]]
    """

    def __init__(self) -> None:
        self._between: Tensor | None = None
        self._first: Tensor | None = None
        self._second: Tensor | None = None

    def add(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
        """Take a batch in.

        Args:
            first, second: each unit's features of the same inputs, ``(batch, ...)``.

        Raises:
            LocalgradError: the batch has fewer than four inputs, or not as many in both.
        """
        sizes = {len(features) for features in (*first, *second)}
        if len(sizes) != 1 or min(sizes) < 4:
            raise LocalgradError(
                f"CKA: got batches of {sorted(sizes)} inputs, expected the same 4 or more in all"
            )
        a, b = (torch.stack([_gram(f) for f in each]) for each in (first, second))
        new = _hsic(a, b), _hsic(a, a).diagonal(), _hsic(b, b).diagonal()
        if self._between is None or self._first is None or self._second is None:
            self._between, self._first, self._second = new
        else:
            self._between = self._between + new[0]
            self._first = self._first + new[1]
            self._second = self._second + new[2]

    def result(self) -> Tensor:
        """Return CKA, ``(units of the first, units of the second)``, in float64.

        Near 0 an estimate may be negative; a unit whose output is constant has no similarity: NaN.

        Raises:
            LocalgradError: no batch was added.
        """
        if self._between is None or self._first is None or self._second is None:
            raise LocalgradError("CKA: no batch was added")
        scale = self._first.clamp(min=0)[:, None] * self._second.clamp(min=0)[None, :]
        return self._between / scale.sqrt()


def _gram(features: Tensor) -> Tensor:
    """Return the inner products of the rows, without those of a row with itself."""
    flat = features.detach().flatten(1).double()
    gram = flat @ flat.T
    return gram.fill_diagonal_(0)


def _hsic(a: Tensor, b: Tensor) -> Tensor:
    """Return the unbiased estimates, ``(a, b)``, from Gram matrices ``(.., n, n)``."""
    n = a.shape[-1]
    traces = a.flatten(1) @ b.flatten(1).T
    rows_a, rows_b = a.sum(dim=-1), b.sum(dim=-1)
    sums = rows_a.sum(dim=-1)[:, None] * rows_b.sum(dim=-1)[None, :] / ((n - 1) * (n - 2))
    crossed = rows_a @ rows_b.T
    return (traces + sums - 2 / (n - 2) * crossed) / (n * (n - 3))
