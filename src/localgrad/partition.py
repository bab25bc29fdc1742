"""The best way to cut a row of items into runs, by dynamic programming."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

Cost = Callable[[int, int], float]  # of the items start..stop (exclusive)
_NEVER = float("inf")


def smallest_maximum(count: int, runs: int, cost: Cost, last: int = 1) -> tuple[int, ...]:
    """Return the end of each run, so that the largest cost of a run is as small as can be.

    Among equals, the runs are as even in length as can be.

    Args:
        count: number of items.
        runs: number of runs, each with an item at least.
        cost: of a run.
        last: fewest items of the last run.

    >>> smallest_maximum(6, 3, lambda start, stop: sum([5, 1, 1, 1, 1, 3][start:stop]))
    (1, 3, 6)
    >>> smallest_maximum(6, 3, lambda start, stop: 0)
    (2, 4, 6)
    """
    cost = cache(cost)
    bound, _ = _best(count, runs, cost, max, last)

    def evenness(start: int, stop: int) -> float:
        return float((stop - start) ** 2) if cost(start, stop) <= bound else _NEVER

    return _best(count, runs, evenness, lambda a, b: a + b, last)[1]


def _best(
    count: int, runs: int, cost: Cost, join: Callable[[float, float], float], last: int
) -> tuple[float, tuple[int, ...]]:
    never: tuple[float, tuple[int, ...]] = (_NEVER, ())
    found = [(0.0, never[1]), *[never] * count]
    for run in range(runs):
        final = run == runs - 1
        following = [never] * (count + 1)
        for stop in (count,) if final else range(run + 1, count + 1):
            latest = stop - last if final else stop - 1
            for start in range(run, latest + 1):
                value, ends = found[start]
                if value == _NEVER:
                    continue
                value = join(value, cost(start, stop))
                if value < following[stop][0]:
                    following[stop] = (value, (*ends, stop))
        found = following
    return found[count]
