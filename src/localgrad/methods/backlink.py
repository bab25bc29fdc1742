"""BackLink (Guo, Fouda, Eltawil, Salama; IEEE TAI 2023, arXiv 2205.07141). No code was released.

    g_k = d L_k / d theta           for all units of block k and head_k
    b_k = d L_{k+1} / d theta       for the last L units of block k, and nothing before them
    those units are updated by      g_k + lambda * b_k      (combine="sum")
                              or by lambda * b_k            (combine="replace")

The link does not chain: L_{k+2} never reaches block k. L = 0 is greedy local learning with the
same head; "replace" with L = the whole block is pairwise interlocking (Gomez et al., arXiv
2010.04116). ``length_unit="layer"`` counts layers with weights, so that the link can end inside
a residual block. The head is InfoPro's "1c2f", so that L = 0 is the published greedy baseline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from localgrad.chain import Chain
from localgrad.decoupling import Decoupling, Link, Part
from localgrad.errors import LocalgradError
from localgrad.methods.blocks import every_unit, local_blocks


@dataclass(frozen=True)
class BackLink:
    """Blocks whose error crosses one border, over a limited length.

    Args:
        length: L >= 0, how far the error of block k+1 travels back into block k.
        length_unit: ``"unit"`` or ``"layer"``.
        combine: ``"sum"`` or ``"replace"``.
        weight: lambda, the factor on the link's gradient.
        head: a head's name, ``package.module:builder``, or the builder itself (kept by its name).
        keep_error: False saves a border's worth of memory for a second backward of the head.
    """

    length: int = 1
    length_unit: str = "unit"
    combine: str = "sum"
    weight: float = 1.0
    head: str | Callable[..., Any] = "conv_mlp"
    keep_error: bool = True
    name: ClassVar[str] = "backlink"

    def __post_init__(self) -> None:
        if callable(self.head):
            object.__setattr__(self, "head", Part.of(self.head).name)
        problems = self.link.problems()
        if problems:
            raise LocalgradError(f"BackLink: {'; '.join(problems)}")

    @property
    def link(self) -> Link:
        """The link as data."""
        return Link(self.length, self.length_unit, self.combine, self.weight, self.keep_error)

    def __call__(self, chain: Chain, cuts: tuple[int, ...] | None) -> Decoupling:
        """Return linked blocks, by default one a unit."""
        blocks = local_blocks(
            every_unit(chain, cuts),
            lambda k: Part.of(self.head),
            link=self.link if self.length else None,
        )
        return Decoupling(self.name, chain.names, blocks, asdict(self))
