"""Cuts into blocks of equal weight: the smallest peak of memory, or the shortest longest block.

Each unit and each head is looked at once, by itself (:mod:`localgrad.unit_looks`); the cost of any
block follows by addition (:mod:`localgrad.block_peaks`), and the best cuts by dynamic programming
(:mod:`localgrad.partition`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from localgrad import unit_looks
from localgrad.block_peaks import BlockPeaks, Footprint
from localgrad.chain import Chain
from localgrad.decoupling import Decoupling
from localgrad.errors import LocalgradError
from localgrad.partition import Cost, smallest_maximum
from localgrad.unit_looks import End, Task

BALANCES = ("memory", "time")
Rule = Callable[[Chain, tuple[int, ...] | None], Decoupling]


class Balance:
    """Balanced cuts of one chain, for any rule and number of blocks.

    What is seen of units and heads is kept for the next question.

    Args:
        chain: the network.
        example: a batch.
        task: the task loss.
    """

    def __init__(self, chain: Chain, example: Tensor, task: Task) -> None:
        self.chain, self.example, self.task = chain, example, task
        self._unit_bytes: dict[str | None, list[Footprint]] = {}
        self._end_bytes: dict[int, tuple[Rule, list[int]]] = {}

    def memory(self, rule: Rule, blocks: int, checkpoint: str | None = None) -> tuple[int, ...]:
        """Return the end of each block, for the smallest peak of activations.

        Args:
            rule: the method.
            blocks: number of blocks K.
            checkpoint: recompute inside of blocks, as :func:`localgrad.decouple` does.
        """

        def cost(found: Decoupling) -> Cost:
            link = next((block.link for block in found.blocks if block.link is not None), None)
            length, keeps = (link.length, link.keep_error) if link else (0, True)
            how = checkpoint or found.blocks[0].checkpoint
            return BlockPeaks(self._units(how), self._ends(rule), length, keeps).peak

        return self._cut(rule, blocks, cost)

    def time(self, rule: Rule, blocks: int) -> tuple[int, ...]:
        """Return the end of each block, for the shortest longest block on this machine."""

        def cost(found: Decoupling) -> Cost:
            units, ends = unit_looks.seconds(self.chain, self.example, self._built(rule))
            return lambda start, stop: sum(units[start:stop]) + ends[stop - 1]

        return self._cut(rule, blocks, cost)

    def _cut(self, rule: Rule, blocks: int, cost: Callable[[Decoupling], Cost]) -> tuple[int, ...]:
        units = len(self.chain)
        even = tuple(units * (k + 1) // blocks for k in range(blocks))
        if blocks in (1, units):
            return even
        found = rule(self.chain, even)
        runs = sum(block.stop > block.start for block in found.blocks)
        if runs == 1:
            return even
        joined = max(0, blocks - len(found))  # AugLocal's last blocks become one
        ends = smallest_maximum(units, runs, cost(found), last=joined + 1)
        inside = (ends[-2] + 1 + k for k in range(joined))
        return (*ends[:-1], *inside, ends[-1])

    def _built(self, rule: Rule) -> list[End | None]:
        finest = rule(self.chain, tuple(range(1, len(self.chain) + 1)))
        return unit_looks.ends_of(self.chain, finest, self.example, self.task)

    def _units(self, how: str | None) -> list[Footprint]:
        if how not in self._unit_bytes:
            self._unit_bytes[how] = unit_looks.unit_bytes(self.chain, self.example, how)
        return self._unit_bytes[how]

    def _ends(self, rule: Any) -> list[int]:
        if id(rule) not in self._end_bytes:
            found = unit_looks.end_bytes(self.chain, self.example, self._built(rule))
            self._end_bytes[id(rule)] = rule, found  # held, or its id would be another's
        return self._end_bytes[id(rule)][1]


def balanced(
    chain: Chain, rule: Rule, blocks: int, balance: str, example: Tensor | None, task: Task
) -> tuple[int, ...]:
    """Return the end of each block: cuts for ``rule`` that balance memory or time.

    Args:
        chain: the network.
        rule: the method.
        blocks: number of blocks K.
        balance: ``"memory"``: the peak of activations is as small as K blocks allow;
            ``"time"``: the longest block is as short as can be, measured on ``example``.
        example: a batch.
        task: the task loss.

    Raises:
        LocalgradError: an unknown balance, no example, or a K that the chain does not have.
    """
    if balance not in BALANCES:
        raise LocalgradError(f"balance={balance!r} must be 'memory' or 'time'")
    if example is None:
        raise LocalgradError(f"balance={balance!r} looks at the units: give example_input=x")
    chain.cuts(blocks)  # refuses a K that there is not
    looks = Balance(chain, example, task)
    return looks.memory(rule, blocks) if balance == "memory" else looks.time(rule, blocks)
