"""Replicas of a part: each takes rows of the batch, and all the mean of their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils._pytree import tree_map

from localgrad.errors import LocalgradError
from localgrad.parallel.mesh import Mesh


def rows(mesh: Mesh, x: Tensor, y: Any) -> tuple[Tensor, Any]:
    """Return this replica's rows of a batch, ``(batch, ...)``.

    Raises:
        LocalgradError: the batch does not divide among the replicas.
    """
    if mesh.data == 1:
        return x, y
    if len(x) % mesh.data:
        raise LocalgradError(
            f"a batch of {len(x)} does not divide among {mesh.data} replicas: choose a batch size "
            f"that {mesh.data} divides, and leave out the last short batch"
        )
    each = len(x) // mesh.data
    mine = slice(mesh.replica * each, (mesh.replica + 1) * each)
    return x[mine], tree_map(lambda t: t[mine] if isinstance(t, Tensor) else t, y)


class Replicas:
    """All replicas of this process's part.

    Args:
        mesh: the grid.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh, self._count = mesh, mesh.data
        self.sent_bytes = 0

    @torch.no_grad()
    def average(self, parameters: list[nn.Parameter]) -> None:
        """Put the mean over the replicas in the place of each gradient.

        Which parameters have a gradient is the same in every replica: reach does not depend on the
        batch.
        """
        kinds = {p.grad.dtype for p in parameters if p.grad is not None}
        for dtype in sorted(kinds, key=str):
            gradients = [p.grad for p in parameters if p.grad is not None and p.grad.dtype == dtype]
            together = torch.cat([gradient.reshape(-1) for gradient in gradients])
            self._reduce(together)
            together /= self._count
            self.sent_bytes += together.numel() * together.element_size()
            parts = together.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view(gradient.shape))

    def _reduce(self, together: Tensor) -> None:
        self._mesh.together(lambda: dist.all_reduce(together, group=self._mesh.column))
