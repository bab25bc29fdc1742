"""What all contenders have in common: the network, the batch, the optimizer, the processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from localgrad import networks
from localgrad.memory import Memory
from localgrad.parallel.mesh import Mesh

CHANNELS_LAST = torch.channels_last


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer of every contender."""
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


@dataclass(frozen=True)
class Setting:
    """What is trained where.

    Args:
        mesh: the processes, one part of the network each.
        network: its name.
        batch: rows a step, of all processes together.
        size: height and width of the images.
        options: of the network.
    """

    mesh: Mesh
    network: str = "resnet110"
    batch: int = 128
    size: int = 32
    options: dict[str, Any] = field(default_factory=dict)

    def model(self) -> nn.Module:
        """Return the network, with the same weights each time."""
        torch.manual_seed(0)
        model = networks.get(self.network, None, **self.options)
        return model.to(self.mesh.device).to(memory_format=CHANNELS_LAST)  # type: ignore[call-overload,no-any-return]

    @cached_property
    def x(self) -> Tensor:
        """Images, ``(batch, 3, size, size)``, channels-last."""
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(self.batch, 3, self.size, self.size, generator=generator)
        return images.to(self.mesh.device).contiguous(memory_format=CHANNELS_LAST)

    @cached_property
    def y(self) -> Tensor:
        """Classes, ``(batch,)``."""
        generator = torch.Generator().manual_seed(1)
        return torch.randint(10, (self.batch,), generator=generator).to(self.mesh.device)


class Contender(Protocol):
    """One way of training, in one process or in all.

    Attributes:
        name: what it is called.
        together: all processes work; else the first one does, and the others wait.
        threads: of each process.
    """

    name: str
    together: bool
    threads: int

    def steps(self, count: int) -> Iterator[None]:
        """Train; yields after each step's output, and ends when all updates are done."""

    def waited(self) -> float | None:
        """Return the seconds spent waiting for other processes since the last call, if known."""

    def memory(self) -> Memory:
        """Return what one step holds at most in this process; it trains."""

    def sent_bytes(self) -> float:
        """Return the bytes that this process sends a step."""
