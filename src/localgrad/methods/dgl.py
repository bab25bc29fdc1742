"""DGL: decoupled greedy learning (Belilovsky, Eickenberg, Oyallon; ICML 2020, arXiv 1901.08164).

    L_k = task_loss(head_k(block_k(sg(x_{k-1}))), y)

The rule is greedy local learning; the head is the paper's: adaptive average pool to a quarter of
the map's side, three 1x1 convolutions with BN and ReLU, pool to 2x2, hidden linear layers with
BN and ReLU, linear. The head here is the one of the published comparisons (InfoPro's and
AugLocal's code): two hidden layers without bias; the authors' own code has three with bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from localgrad.chain import Chain
from localgrad.decoupling import Decoupling, Part
from localgrad.methods.blocks import every_unit, local_blocks


@dataclass(frozen=True)
class DGL:
    """Isolated blocks with DGL's convolution-and-MLP head."""

    name: ClassVar[str] = "dgl"

    def __call__(self, chain: Chain, cuts: tuple[int, ...] | None) -> Decoupling:
        """Return isolated blocks, by default one a unit."""
        blocks = local_blocks(every_unit(chain, cuts), lambda k: Part("dgl"))
        return Decoupling(self.name, chain.names, blocks)
