"""AugLocal: augmented auxiliary networks (Ma, Wu, Si, Tan; ICLR 2024, arXiv 2402.17318).

    head_l = fresh copies of units round(l + (n-1-l)/d_l * i), i = 1..d_l, then pool and linear
    d_l    = max(1, round(d*(1-r) + r)),  r = tau*l/(M-2),  M = K - d          (pyramidal depth)
    L_l    = task_loss(head_l(unit_l(sg(x_{l-1}))), y)

Rounding is half to even, as in the authors' code. The last d+1 blocks and the classifier form
one block and train jointly, so that K = 16, d = 2 has 14 losses.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

from localgrad.chain import Chain
from localgrad.decoupling import Decoupling, Part
from localgrad.errors import LocalgradError
from localgrad.methods.blocks import every_unit, local_blocks


@dataclass(frozen=True)
class AugLocal:
    """Isolated blocks whose heads are built from the units that follow.

    Args:
        depth: d >= 1, units in the deepest head.
        tau: how much of the depth is lost towards the last head, 0..1.
    """

    depth: int = 2
    tau: float = 0.5
    name: ClassVar[str] = "auglocal"

    def __post_init__(self) -> None:
        if isinstance(self.depth, bool) or not isinstance(self.depth, int) or self.depth < 1:
            raise LocalgradError(f"AugLocal depth={self.depth!r}: must be a whole number >= 1")
        if not 0 <= self.tau <= 1:
            raise LocalgradError(f"AugLocal tau={self.tau}: must be between 0 and 1")

    def depths(self, blocks: int) -> list[int]:
        """Return the depth of each head, where the cuts make ``blocks`` blocks.

        >>> AugLocal(depth=3).depths(16)
        [3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2]
        """
        losses = blocks - self.depth
        ratios = [self.tau * k / max(losses - 2, 1) for k in range(losses - 1)]
        return [max(1, round(self.depth * (1 - r) + r)) for r in ratios]

    def picks(self, unit: int, units: int, depth: int) -> list[int]:
        """Return the indices of the units that a head of ``depth`` after ``unit`` copies.

        >>> AugLocal().picks(0, 16, 2)
        [8, 15]
        """
        left = units - 1 - unit
        if depth >= left:
            return list(range(unit + 1, units))
        return [round(unit + left / depth * i) for i in range(1, depth + 1)]

    def __call__(self, chain: Chain, cuts: tuple[int, ...] | None) -> Decoupling:
        """Return isolated blocks, by default one a unit, with the last d+1 joined."""
        ends = every_unit(chain, cuts)
        if 1 < len(ends) < self.depth + 2:  # one block is BP, and asked for as such
            raise LocalgradError(
                f"AugLocal depth={self.depth} joins the last {self.depth + 1} blocks and so needs "
                f"at least {self.depth + 2}, not {len(ends)}: give more blocks or a smaller depth"
            )
        depths = self.depths(len(ends))
        joined = (*ends[: len(depths)], len(chain))

        def head(k: int) -> Part:
            picks = self.picks(joined[k] - 1, len(chain), depths[k])
            return Part("auglocal", {"units": [chain.names[j] for j in picks]})

        return Decoupling(self.name, chain.names, local_blocks(joined, head), asdict(self))
