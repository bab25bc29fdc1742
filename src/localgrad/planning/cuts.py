"""Cuts for the smallest peak of memory, for many rules and numbers of blocks on one chain.

What :mod:`localgrad.balance` finds for one rule and K, with every unit and every head looked at
once: the units' bytes depend on the checkpointing alone, the heads' on the rule alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from localgrad import balance
from localgrad.block_peaks import BlockPeaks, Footprint
from localgrad.chain import Chain
from localgrad.partition import smallest_maximum
from localgrad.planning.options import Option
from localgrad.without_content import without_content


class Cuts:
    """Looks at a chain's units and a rule's heads when they are first needed.

    Args:
        chain: the network.
        example: a batch.
        task: the task loss.
    """

    def __init__(
        self, chain: Chain, example: Tensor, task: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        self.chain, self.example, self.task = chain, example, task
        self.units: dict[str | None, list[Footprint]] = {}
        self.heads: dict[Any, list[int]] = {}

    def ends(self, option: Option) -> tuple[int, ...] | None:
        """Return the end of each block; None where the option has no number of blocks."""
        units = len(self.chain)
        if option.blocks is None or option.blocks == units:
            return self.chain.cuts(option.blocks)
        even = tuple(units * (k + 1) // option.blocks for k in range(option.blocks))
        found = option.method(self.chain, even).blocks
        runs = sum(block.stop > block.start for block in found)
        if runs < 2:
            return even
        joined = max(0, option.blocks - len(found))  # AugLocal's last blocks become one
        links = [block.link for block in found if block.link is not None]
        link = (links[0].length, links[0].keep_error) if links else (0, True)
        peaks = BlockPeaks(self._units(option.checkpoint), self._heads(option.method), *link)
        ends = smallest_maximum(units, runs, peaks.peak, last=joined + 1)
        inside = (ends[-2] + 1 + k for k in range(joined))
        return (*ends[:-1], *inside, ends[-1])

    def _units(self, how: str | None) -> list[Footprint]:
        if how not in self.units:
            tail = balance._Part(None, None, self.example)
            alone = [*[None] * (len(self.chain) - 1), tail]
            self.units[how], _ = self._walk(alone, balance._footprint, _unseen, how)
        return self.units[how]

    def _heads(self, rule: Any) -> list[int]:
        known = (repr(rule), id(type(rule)))
        if known not in self.heads:
            finest = rule(self.chain, None)
            parts = list(balance._parts(self.chain, finest, self.example, self.task))
            _, self.heads[known] = self._walk(parts, _unseen, balance._head_peak, None)
        return self.heads[known]

    def _walk(
        self, parts: list[Any], unit_look: Any, head_look: Any, how: str | None
    ) -> tuple[list[Any], list[Any]]:
        heads = [part.head for part in parts if part is not None and part.head is not None]
        held = [
            tensor
            for module in (self.chain.model, *heads)
            for tensor in (*module.parameters(), *module.buffers())
        ]
        held += [self.example, *(part.targets for part in parts if part is not None)]
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        chain, parts, example = without_content((self.chain, parts, self.example), held, mode)
        with mode, torch.random.fork_rng([]):
            return balance._walk(chain, parts, example, unit_look, head_look, how)


def _unseen(*_: Any) -> int:
    return 0
