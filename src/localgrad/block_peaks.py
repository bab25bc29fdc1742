"""The peak of any block of units, by addition from what its units and its head take alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class Footprint:
    """Bytes of one unit beyond its input, gradients of parameters aside.

    Args:
        output: what it hands over.
        kept: alive after its forward, the output included.
        forward: most while its forward runs.
        backward: most from the error at its output to that at its input, by whether its input
            asks for an error, and whether the output stays alive.
        handed: the same with an error that is held from outside, by whether its input asks; the
            output stays alive.
        crossing: likewise, while all that is kept stays too.
    """

    output: int
    kept: int
    forward: int
    backward: dict[tuple[bool, bool], int]
    handed: dict[bool, int]
    crossing: dict[bool, int]


@dataclass(frozen=True)
class BlockPeaks:
    """Peaks of blocks of a chain.

    Args:
        units: in order.
        heads: most while the head after each unit runs forward and backward; the last is the
            network's tail.
        link: number of units at a block's end that wait for the next block's error.
        keeps_error: whether the local error waits with them.
    """

    units: list[Footprint]
    heads: list[int]
    link: int = 0
    keeps_error: bool = True

    def __post_init__(self) -> None:
        sums = [0, *accumulate(unit.kept for unit in self.units)]
        object.__setattr__(self, "_kept", sums)

    def kept(self, start: int, stop: int) -> int:
        """Return what units start..stop (exclusive) keep for their backward."""
        sums: list[int] = self._kept  # type: ignore[attr-defined]
        return sums[stop] - sums[start]

    def waiting(self, stop: int) -> int:
        """Return what is alive of the blocks before unit ``stop`` while the next block runs."""
        if not stop:
            return 0  # the network's input is the user's
        first = max(0, stop - self.link)
        entry = self.units[first - 1].output if first else 0
        error = self.units[stop - 1].output if self.link and self.keeps_error else 0
        return entry + self.kept(first, stop) + error

    def peak(self, start: int, stop: int) -> int:
        """Return the peak while the block of units start..stop (exclusive) runs."""
        units, held = self.units, self.waiting(start)
        last = stop == len(units)
        split = stop if last else max(start, stop - self.link)
        border = units[stop - 1].output
        whole = held + self.kept(start, stop)
        asked = start > 0 and self.link > 0  # the block before wants the error
        moments = [held + self.kept(start, u) + units[u].forward for u in range(start, stop)]
        moments.append(whole + self.heads[stop - 1])
        for u in range(split, stop):
            moments.append(whole - units[u].kept + units[u].crossing[u > start or asked])
        if split == stop:
            at_end = units[stop - 1].backward[stop - 1 > start or asked, True]
            moments.append(held + self.kept(start, stop - 1) + at_end)
            beyond = border
        else:
            beyond = self.kept(split, stop) + (border if self.keeps_error else 0)
            if split > start:
                at_end = units[split - 1].handed[split - 1 > start or asked]
                moments.append(held + self.kept(start, split - 1) + beyond + at_end)
                beyond += units[split - 1].output  # the link's segment starts there
        for u in range(start, (stop if split == stop else split) - 1):
            back = units[u].backward[u > start or asked, False]
            moments.append(held + self.kept(start, u) + beyond + back)
        if asked:  # the error arrives at what waits
            now = border if split == stop else self.waiting(stop)
            before = units[start - 1]
            rest = held - before.kept - (before.output if self.keeps_error else 0)
            moments += [held + before.output + now, rest + before.handed[False] + now]
        return max(moments)
