"""Which rank gets which blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from localgrad.errors import LocalgradError
from localgrad.partition import smallest_maximum
from localgrad.sizes import shown


def by_time(
    seconds: Sequence[float],
    parts: int,
    memory: Callable[[int, int], int] | None = None,
    limit: int | None = None,
    what: str = "blocks",
) -> tuple[int, ...]:
    """Return the end (exclusive index) of each part, the slowest as fast as can be.

    Args:
        seconds: of each block, in all that it does in a step.
        parts: number of parts, each with a block at least.
        memory: bytes of a part of the blocks ``start`` to ``stop`` (exclusive).
        limit: bytes that a part may take.
        what: is divided, for messages.

    Raises:
        LocalgradError: no division keeps to the limit; the message says what the best one needs.

    >>> by_time([3.0, 1.0, 1.0, 1.0], 2)
    (1, 4)
    >>> by_time([3.0, 1.0, 1.0, 1.0], 2, memory=lambda start, stop: stop - start, limit=2)
    (2, 4)
    """
    count = len(seconds)

    def time(start: int, stop: int) -> float:
        return sum(seconds[start:stop])

    if memory is None or limit is None:
        return smallest_maximum(count, parts, time)
    size = cache(memory)
    leanest = smallest_maximum(count, parts, size)
    need = max(size(a, b) for a, b in zip((0, *leanest), leanest, strict=False))
    if need > limit:
        raise LocalgradError(
            f"{count} {what} do not fit on {parts} ranks of {shown(limit)}: the best division "
            f"needs {shown(need)} on one of them; take more ranks, a smaller batch, or cut into "
            "more blocks"
        )

    def allowed(start: int, stop: int) -> float:
        return time(start, stop) if size(start, stop) <= limit else float("inf")

    return smallest_maximum(count, parts, allowed)


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
    _check_ranks(ranks, len(seconds))
    memory = None if bytes is None else lambda start, stop: sum(bytes[start:stop])
    ends = by_time(seconds, ranks, memory, limit)
    return tuple(tuple(range(start, stop)) for start, stop in zip((0, *ends), ends, strict=False))


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
