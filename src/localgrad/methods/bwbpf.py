"""BWBPF (Cheng et al., ICASSP 2024, arXiv 2312.13311), and what its released code does.

BWBPF, the paper's rule:

    L_k = task_loss(linear_k(pool(block_k(sg(x_{k-1})))), y)        trains block k and its head
    L_out = task_loss(tail(sg(x_{K-1})), y)                         trains the output layer only

so K blocks have K + 1 losses. The released code never stops a gradient: every loss also trains
every block before it, which is back-propagation with deep supervision (Lee et al. 2015). That is
``DeepSupervision`` here; the two are never labelled as one another. (The code's first heads also
pool only the top left corner of the map; here they pool all of it.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from localgrad.chain import Chain
from localgrad.decoupling import Block, Decoupling, Part
from localgrad.methods.blocks import every_unit, spans


def _blocks(chain: Chain, cuts: tuple[int, ...] | None) -> tuple[Block, ...]:
    ends = every_unit(chain, cuts)
    headed = [Block(start, stop, head=Part("pool_linear")) for start, stop in spans(ends)]
    return (*headed, Block(len(chain), len(chain)))


@dataclass(frozen=True)
class BWBPF:
    """Isolated blocks with a head each; the global loss trains the output layer alone."""

    name: ClassVar[str] = "bwbpf"

    def __call__(self, chain: Chain, cuts: tuple[int, ...] | None) -> Decoupling:
        """Return K isolated blocks, by default one a unit, and the output layer."""
        return Decoupling(self.name, chain.names, _blocks(chain, cuts))


@dataclass(frozen=True)
class DeepSupervision:
    """The same heads and losses without a stopped gradient: loss k trains blocks 1 to k."""

    name: ClassVar[str] = "deep_supervision"

    def __call__(self, chain: Chain, cuts: tuple[int, ...] | None) -> Decoupling:
        """Return K blocks, by default one a unit, with open borders, and the output layer."""
        first, *others = _blocks(chain, cuts)
        blocks = (first, *(replace(block, open=True) for block in others))
        return Decoupling(self.name, chain.names, blocks)
