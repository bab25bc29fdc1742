"""Greedy local learning: each block is trained by its own classifier alone.

    x_k = block_k(sg(x_{k-1}))
    L_k = task_loss(head_k(x_k), y)         trains block k and head_k

Source: the baseline of InfoPro's tables (Wang et al., ICLR 2021), where the head is a global
average pool and one linear layer; with ``head="conv_mlp"`` it is the "1c2f" head of the same paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from localgrad.chain import Chain
from localgrad.decoupling import Decoupling, Part
from localgrad.methods.blocks import every_unit, local_blocks


@dataclass(frozen=True)
class Greedy:
    """Isolated blocks with a task loss each.

    Args:
        head: a head's name (``"pool_linear"``, ``"conv_mlp"``), ``package.module:builder``, or
            the builder itself (kept by its name).
    """

    head: str | Callable[..., Any] = "pool_linear"
    name: ClassVar[str] = "greedy"

    def __post_init__(self) -> None:
        if callable(self.head):
            object.__setattr__(self, "head", Part.of(self.head).name)

    def __call__(self, chain: Chain, cuts: tuple[int, ...] | None) -> Decoupling:
        """Return isolated blocks, by default one a unit."""
        blocks = local_blocks(every_unit(chain, cuts), lambda k: Part.of(self.head))
        return Decoupling(self.name, chain.names, blocks, asdict(self))
