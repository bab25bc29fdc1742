"""Whole numbers nearest to wanted positions, no two of them the same."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def spread(wanted: Sequence[Fraction], low: int, high: int) -> list[int]:
    """Return rising numbers from ``low`` to ``high`` at the least total distance from ``wanted``.

    Found by dynamic programming, exactly; among equals, the smaller numbers.

    Args:
        wanted: positions, not falling; at most ``high - low + 1`` of them.

    >>> spread([Fraction(5, 2), Fraction(14, 5), Fraction(9)], 1, 8)
    [2, 3, 8]
    """
    # least[j]: the least distance of the positions so far, with the last one at low + j or before
    least: list[Fraction | None] = [Fraction(0)] * (high - low + 2)
    kept: list[list[int]] = []  # for each position, where that least is reached
    for want in wanted:
        best: list[Fraction | None] = [None]
        where = [-1]
        for j in range(1, len(least)):
            before = least[j - 1]
            here = None if before is None else before + abs(low + j - 1 - want)
            old = best[-1]
            takes = here is not None and (old is None or here < old)
            best.append(here if takes else old)
            where.append(j if takes else where[-1])
        least = best
        kept.append(where)
    found: list[int] = []
    j = len(least) - 1
    for where in reversed(kept):
        j = where[j]
        found.append(low + j - 1)
        j -= 1
    return found[::-1]
