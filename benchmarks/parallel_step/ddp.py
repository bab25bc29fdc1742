"""BP with data parallelism: each process takes its rows of the batch, gradients are exchanged."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from localgrad.memory import Memory, measure_memory
from parallel_step.local import train
from parallel_step.setting import Setting, sgd


def replicated(model: nn.Module) -> DistributedDataParallel:
    """Return DDP as it is fastest: gradients lie in the buckets, buffers stay each one's own."""
    new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    apart: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
    return DistributedDataParallel(model, gradient_as_bucket_view=True, **apart)


def rows(setting: Setting, what: Tensor) -> Tensor:
    """Return this process's rows of the batch."""
    return what.chunk(setting.mesh.blocks)[setting.mesh.rank]


class DDP:
    """:class:`torch.nn.parallel.DistributedDataParallel`.

    What the exchange of gradients adds to a step is seen beside :class:`Apart`, which computes the
    same and exchanges nothing; what a process waits within a step cannot be seen from outside.
    """

    together, threads = True, 1

    def __init__(self, setting: Setting, name: str) -> None:
        self.name, self._setting = name, setting
        self._x, self._y = rows(setting, setting.x), rows(setting, setting.y)
        self._model = self._made()
        self._optimizer = sgd(self._model.parameters())

    def _made(self) -> nn.Module:
        return replicated(self._setting.model())

    def steps(self, count: int) -> Iterator[None]:
        """Train on the same rows ``count`` times."""
        for _ in range(count):
            train(self._model, self._optimizer, self._x, self._y)
            yield

    def waited(self) -> float | None:
        """Not known."""
        return None

    def memory(self) -> Memory:
        """Return the peak of a step; gradients lie in the buckets."""
        for _ in self.steps(2):  # buckets are made anew after the first one
            pass
        return measure_memory(
            lambda: next(self.steps(1)), self._model, self._optimizer, workspace=False
        )

    def sent_bytes(self) -> float:
        """Return what a ring sends: 2 (n - 1) / n of all buckets that are exchanged in a step."""
        seen: list[int] = []

        def counted(bucket: Any) -> torch.futures.Future[Tensor]:
            seen.append(bucket.buffer().nbytes)
            return allreduce_hook(self._setting.mesh.row, bucket)

        model = replicated(self._setting.model())
        model.register_comm_hook(None, lambda group, bucket: counted(bucket))
        train(model, sgd(model.parameters()), self._x, self._y)
        ranks = self._setting.mesh.blocks
        return 2 * (ranks - 1) / ranks * sum(seen)


class Apart(DDP):
    """The same rows in each process, and no exchange: what DDP computes."""

    def _made(self) -> nn.Module:
        return self._setting.model()

    def waited(self) -> float:
        """Nothing."""
        return 0.0

    def sent_bytes(self) -> float:
        """Nothing."""
        return 0.0
