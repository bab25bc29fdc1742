"""What nothing else beats in every respect."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[tuple[float, ...]]) -> list[int]:
    """Return the indices of the points that no other dominates; less is better everywhere.

    A point dominates another where it is nowhere more and somewhere less. Of equal points all
    stay.

    Returns:
        Indices, in the order of the first coordinate, then of the others.

    >>> front([(1, 3), (2, 2), (2, 3), (4, 1)])
    [0, 1, 3]
    """
    kept = [
        index
        for index, point in enumerate(points)
        if not any(_dominates(other, point) for other in points)
    ]
    return sorted(kept, key=lambda index: points[index])


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and one != other
