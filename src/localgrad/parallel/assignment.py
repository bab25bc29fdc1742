"""Which rank gets which blocks."""

from __future__ import annotations

from collections.abc import Sequence

from localgrad.errors import LocalgradError
from localgrad.partition import smallest_maximum


def balanced(
    seconds: Sequence[float],
    ranks: int,
    bytes: Sequence[int] | None = None,
    limit: int | None = None,
) -> tuple[tuple[int, ...], ...]:
    """Return each rank's blocks: consecutive, and the slowest rank as fast as can be.

    Args:
        seconds: of each block, in all that it does in a step.
        ranks: number of ranks.
        bytes: that each block takes on its rank, needed with ``limit``.
        limit: bytes that a rank has.

    Raises:
        LocalgradError: there are fewer blocks than ranks, or the blocks do not fit.

    >>> balanced([5, 1, 1, 1, 1, 3], 3)
    ((0,), (1, 2), (3, 4, 5))
    """
    count = len(seconds)
    _check_ranks(ranks, count)

    def cost(start: int, stop: int) -> float:
        if limit is not None and bytes is not None and sum(bytes[start:stop]) > limit:
            return float("inf")
        return sum(seconds[start:stop])

    ends = smallest_maximum(count, ranks, cost)
    spans = list(zip((0, *ends), ends, strict=False))
    if any(cost(start, stop) == float("inf") for start, stop in spans):
        raise LocalgradError(
            f"{count} blocks do not fit on {ranks} ranks of {limit} bytes: take more ranks, or a "
            "smaller batch"
        )
    return tuple(tuple(range(start, stop)) for start, stop in spans)


def even(count: int, ranks: int) -> tuple[tuple[int, ...], ...]:
    """Return each rank's blocks, as many on each rank as on any other, or one more.

    >>> even(5, 2)
    ((0, 1), (2, 3, 4))
    """
    return balanced([1.0] * count, ranks)


def checked(
    assignment: Sequence[Sequence[int]], count: int, name: str
) -> tuple[tuple[int, ...], ...]:
    """Return the assignment as tuples.

    Raises:
        LocalgradError: it does not hold blocks 0 to ``count`` - 1 in order, one or more a rank.
    """
    own = tuple(tuple(blocks) for blocks in assignment)
    _check_ranks(len(own), count)
    if not all(own) or [k for blocks in own for k in blocks] != list(range(count)):
        raise LocalgradError(
            f"{name}: the ranks have blocks {[list(blocks) for blocks in own]}, expected 0 to "
            f"{count - 1} in order, at least one on each rank"
        )
    return own


def _check_ranks(ranks: int, count: int) -> None:
    if isinstance(ranks, bool) or not isinstance(ranks, int) or ranks < 1:
        raise LocalgradError(f"ranks={ranks!r}: expected a whole number above 0")
    if ranks > count:
        blocks = "1 block" if count == 1 else f"{count} blocks"
        raise LocalgradError(f"{ranks} ranks for {blocks}: take fewer ranks, or more blocks")
