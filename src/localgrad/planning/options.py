"""What there is to choose from: BP, checkpointing, gradient accumulation, local rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from localgrad import methods as M
from localgrad.chain import Chain
from localgrad.decoupling import Decoupling
from localgrad.errors import LocalgradError

#: Numbers of blocks that are tried; one block a unit is added.
BLOCKS = (2, 4, 8, 16)

#: The local rules that are tried where none are named: the cheapest head, the link with that head
#: and with its own, and the deepest heads. The others take the memory of one of these.
RULES: tuple[M.Method, ...] = (
    M.Greedy(),
    M.BackLink(head="pool_linear"),
    M.BackLink(),
    M.AugLocal(2),
)

#: Local rules by accuracy at one number of blocks, best first: docs/results.md, ResNet-32 in 16
#: blocks (BackLink with the cheap head stands where its parts were measured).
_NEAREST = (
    "AugLocal", "BackLink", "BackLink pool_linear", "DGL", "Greedy", "BWBPF", "InfoPro", "PredSim",
)  # fmt: skip


@dataclass(frozen=True)
class Option:
    """A way to train a network with a batch of a given size.

    Args:
        method: the rule.
        blocks: number of blocks K; None: the rule's own.
        checkpoint: recompute activations inside of every block: None, ``"unit"`` or ``"sqrt"``.
            (BP with checkpointing is ``Backprop(checkpoint)``.)
        micro_batches: the batch is taken in so many equal parts, whose gradients add up.
    """

    method: Any
    blocks: int | None = None
    checkpoint: str | None = None
    micro_batches: int = 1

    @property
    def kind(self) -> str:
        """``"bp"``, ``"checkpoint"``, ``"accumulated"`` or ``"local"``."""
        if not isinstance(self.method, M.Backprop):
            return "local"
        if self.micro_batches > 1:
            return "accumulated"
        return "checkpoint" if self.method.checkpoint else "bp"

    @property
    def label(self) -> str:
        """What it is called, number of blocks included.

        >>> Option(M.BackLink(), 4, "unit").label, Option(M.Backprop(), micro_batches=4).label
        ('BackLink L=1 K=4 + checkpoint unit', 'BP in 4 micro-batches')
        """
        blocks = f" K={self.blocks}" if self.blocks else ""
        inside = f" + checkpoint {self.checkpoint}" if self.checkpoint else ""
        parts = f" in {self.micro_batches} micro-batches" if self.micro_batches > 1 else ""
        return f"{M.label(self.method)}{blocks}{inside}{parts}"

    @property
    def farness(self) -> int:
        """How far from BP the rule's accuracy was at one number of blocks: a rank, 0 nearest."""
        name = type(self.method).__name__
        if getattr(self.method, "head", None) == "pool_linear":
            name = f"{name} pool_linear" if name == "BackLink" else name
        return _NEAREST.index(name) if name in _NEAREST else len(_NEAREST)

    def decoupling(self, chain: Chain, ends: tuple[int, ...] | None) -> Decoupling:
        """Return the rule's blocks over these cuts, with the checkpointing inside of them."""
        found: Decoupling = self.method(chain, ends)
        if self.checkpoint is None:
            return found
        blocks = tuple(replace(block, checkpoint=self.checkpoint) for block in found.blocks)
        return replace(found, blocks=blocks)


def options(
    units: int,
    rules: Sequence[M.Method | str] | None = None,
    blocks: Sequence[int] | None = None,
) -> list[Option]:
    """Return what to predict for a network of ``units`` units.

    BP and its checkpointing come first, whatever the rules: they are what the rest is held against.
    Each local rule comes with every number of blocks, and, with checkpointing inside its blocks,
    with the two smallest: there it saves more than further cuts, and costs no accuracy.

    Args:
        units: of the network.
        rules: the local rules; by default :data:`RULES`.
        blocks: numbers of blocks; by default :data:`BLOCKS` and one a unit.

    Raises:
        LocalgradError: a rule is unknown, or a number of blocks is out of range.

    >>> [option.label for option in options(4, ["greedy"])]
    ['BP', 'BP + checkpoint unit', 'BP + checkpoint sqrt', 'Greedy K=2', 'Greedy K=4', \
'Greedy K=2 + checkpoint unit', 'Greedy K=4 + checkpoint unit']
    """
    for count in blocks or ():
        if not 1 < count <= units:
            raise LocalgradError(
                f"blocks={count}: must be from 2 to {units}, the number of the network's units"
            )
    numbers = sorted(set(blocks)) if blocks else [k for k in BLOCKS if k < units] + [units]
    found = [Option(M.Backprop(how)) for how in (None, "unit", "sqrt")]
    for given in RULES if rules is None else rules:
        rule = M.get(given) if isinstance(given, str) else given
        if isinstance(rule, M.Backprop):
            continue
        # AugLocal joins its last blocks, and needs as many and one more
        possible = [k for k in numbers if k > 1 and k >= _fewest(rule)]
        found += [Option(rule, k) for k in possible]
        found += [Option(rule, k, "unit") for k in possible[:2]]
    return found


def _fewest(rule: Any) -> int:
    return rule.depth + 2 if isinstance(rule, M.AugLocal) else 2
