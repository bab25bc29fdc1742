"""Which of several results are better where there are two things to be good at."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, ...]


def dominates(one: Point, other: Point) -> bool:
    """Whether ``one`` is nowhere more and somewhere less; less is better.

    >>> dominates((1, 2), (1, 3)), dominates((1, 3), (2, 2))
    (True, False)
    """
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def ranks(points: Sequence[Point]) -> list[int]:
    """Return the front that each point lies on: 0 where no other dominates it.

    Front 1 are those that only points of front 0 dominate, and so on (non-dominated sorting, Deb et
    al. 2002, NSGA-II). With one coordinate that is the order of the different values.

    >>> ranks([(1, 3), (2, 2), (2, 3), (3, 3)])
    [0, 0, 1, 2]
    """
    found = [-1] * len(points)
    rank = 0
    while -1 in found:
        left = [i for i, at in enumerate(found) if at == -1]
        best = [i for i in left if not any(dominates(points[j], points[i]) for j in left)]
        for i in best:
            found[i] = rank
        rank += 1
    return found


def goes_on(own: Point, others: Sequence[Point], reduction: int) -> bool:
    """Whether a trial is among the best 1 in ``reduction`` that have come to its rung so far.

    This is asynchronous successive halving (Li et al. 2020, arXiv 1810.05934) as Optuna has it for
    one objective: nobody waits for a rung to fill, and who is left out is left out for good. With
    two objectives a trial is beaten by those on fronts before its own. A whole front goes on
    together, since none of its points is better than another.

    Args:
        own: the trial's point at the rung, less is better.
        others: those of the trials that came to the rung before.
        reduction: at least 2.

    >>> goes_on((0.4,), [(0.1,), (0.2,), (0.3,), (0.5,), (0.6,)], 2)
    False
    >>> goes_on((0.4,), [(0.1,), (0.5,)], 2), goes_on((0.4,), [], 2)
    (False, True)
    """
    points = [*others, own]
    found = ranks(points)
    better = sum(rank < found[-1] for rank in found)
    return better < max(1, len(points) // reduction)
