"""Back-propagation of the global loss through the whole network: the baseline.

One block, one loss, reach everywhere. With ``checkpoint`` the activations are recomputed during
backward (Chen et al. 2016, arXiv 1604.06174), unit by unit or in about sqrt(N) groups of units:
less memory for about a third more FLOPs, the same gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from localgrad.chain import Chain
from localgrad.decoupling import Block, Decoupling
from localgrad.errors import LocalgradError


@dataclass(frozen=True)
class Backprop:
    """Global back-propagation, plain or with activation checkpointing.

    Args:
        checkpoint: None, ``"unit"`` or ``"sqrt"``.
    """

    checkpoint: str | None = None
    name: ClassVar[str] = "backprop"

    def __post_init__(self) -> None:
        if self.checkpoint not in (None, "unit", "sqrt"):
            raise LocalgradError(
                f"Backprop checkpoint={self.checkpoint!r}: must be None, 'unit' or 'sqrt'"
            )

    def __call__(self, chain: Chain, cuts: tuple[int, ...] | None) -> Decoupling:
        """Return one block over all units; ``cuts`` make no difference."""
        block = Block(0, len(chain), checkpoint=self.checkpoint)
        return Decoupling(self.name, chain.names, (block,), {"checkpoint": self.checkpoint})
