"""The largest batch that a budget holds.

The peak of a step is a sum of tensors that are each so many bytes a row and of a few that no batch
changes: nearly a line in the batch. Two peaks propose the answer, further ones prove it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

MOST = 2**24  # rows; a step that takes no more than this is not limited by the batch
_PATIENCE = 12  # proposals of the line, before the interval is halved


def largest_batch(
    peak: Callable[[int], int],
    budget: int,
    known: Mapping[int, int] | None = None,
    least: int = 1,
) -> int:
    """Return the batch b where ``peak(b) <= budget`` and ``peak(b + 1) > budget``; 0: none.

    Args:
        peak: bytes of a step with so many rows; grows with them.
        budget: bytes.
        known: peaks that are known already.
        least: the smallest batch that there is.

    >>> largest_batch(lambda rows: 1000 + 24 * rows, 10_000)
    375
    """
    points = dict(known or {})
    if not points:
        points[least] = peak(least)
    for turn in range(200):
        fits = max((rows for rows, size in points.items() if size <= budget), default=least - 1)
        over = min((rows for rows, size in points.items() if size > budget), default=MOST + 1)
        if over <= fits + 1:
            return fits if fits >= least else 0
        rows = _proposed(points, budget) if turn < _PATIENCE else (fits + over) // 2
        rows = min(max(rows, fits + 1), over - 1)
        points[rows] = peak(rows)
    raise AssertionError("the interval shrinks at every turn")


def _proposed(points: Mapping[int, int], budget: int) -> int:
    """Return where the line through the two peaks next to the budget meets it."""
    near = sorted(points, key=lambda rows: abs(points[rows] - budget))[:2]
    if len(near) < 2:
        (rows,) = near
        return 2 * rows if points[rows] <= budget else max(1, rows // 2)
    a, b = sorted(near)
    slope = (points[b] - points[a]) / (b - a)
    if slope <= 0:
        return 2 * b if points[b] <= budget else a // 2
    return a + int((budget - points[a]) // slope)


def micro_batch(batch: int, largest: int) -> int:
    """Return the largest divisor of ``batch`` that is at most ``largest``; 0: none.

    Equal parts: gradients of their means add up to that of the whole batch's mean.

    >>> micro_batch(256, 96), micro_batch(100, 40), micro_batch(7, 6), micro_batch(8, 0)
    (64, 25, 1, 0)
    """
    return next((rows for rows in range(min(batch, largest), 0, -1) if batch % rows == 0), 0)
