"""The order of the rules against the published order: only among rows of one network and data set.

    tau-b = (C - D) / sqrt((C + D + Ta) (C + D + Tb))        Kendall, with ties
    rho   = Pearson's correlation of the average ranks       Spearman, with ties

C, D: pairs in the same and in the opposite order; Ta, Tb: pairs tied in one of the two alone.
Kendall, "The treatment of ties in ranking problems", Biometrika 1945.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any


def kendall(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return Kendall's tau-b, None where either side is all ties or has less than two values.

    >>> kendall([1, 2, 3, 4], [1, 2, 4, 3])
    0.6666666666666666
    """
    same = opposite = tied_a = tied_b = 0
    for (a1, b1), (a2, b2) in itertools.combinations(zip(a, b, strict=True), 2):
        da, db = (a1 > a2) - (a1 < a2), (b1 > b2) - (b1 < b2)
        same += da * db > 0
        opposite += da * db < 0
        tied_a += da == 0 and db != 0
        tied_b += db == 0 and da != 0
    clear = same + opposite
    scale = math.sqrt((clear + tied_a) * (clear + tied_b))
    return (same - opposite) / scale if scale else None


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return Spearman's rho, None as for :func:`kendall`.

    >>> spearman([1, 2, 3, 4], [1, 2, 4, 3])
    0.8
    """
    first, second = ranks(a), ranks(b)
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return round(statistics.correlation(first, second), 12)


def ranks(values: Sequence[float]) -> list[float]:
    """Return average ranks, from 1.

    >>> ranks([0.3, 0.1, 0.3])
    [2.5, 1.0, 2.5]
    """
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


def orders(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare ours with the published order, for each network and data set with two rows or more.

    Args:
        rows: of a result: ``row, network, data, published_accuracy, test_accuracies`` and
            ``scaled``; those without either accuracy do not count, nor with one another those
            that were scaled down differently.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["published_accuracy"] is not None and row["test_accuracies"]:
            key = (row["network"], row["data"], *row["scaled"])
            groups.setdefault(key, []).append(row)
    return [_order(found) for found in groups.values() if len(found) > 1]


def _order(rows: list[dict[str, Any]]) -> dict[str, Any]:
    published = [row["published_accuracy"] for row in rows]
    ours = [100 * statistics.mean(row["test_accuracies"]) for row in rows]
    return {
        "network": rows[0]["network"],
        "data": rows[0]["data"],
        "rows": [
            {"row": row["row"], "published_accuracy": theirs, "test_accuracy": own}
            for row, theirs, own in zip(rows, published, ours, strict=True)
        ],
        "kendall": kendall(published, ours),
        "spearman": spearman(published, ours),
        "pairs": len(rows) * (len(rows) - 1) // 2,
        "reversed": [
            found
            for one, other in itertools.permutations(range(len(rows)), 2)
            if (found := _reversed(rows[one], rows[other])) is not None
        ],
    }


def _reversed(upper: dict[str, Any], lower: dict[str, Any]) -> dict[str, Any] | None:
    """Return how far ours contradicts ``upper`` being above ``lower``; None where it does not."""
    theirs = upper["published_accuracy"] - lower["published_accuracy"]
    both = [100 * statistics.mean(row["test_accuracies"]) for row in (upper, lower)]
    ours = both[0] - both[1]
    if theirs <= 0 or ours >= 0:
        return None
    return {
        "above": upper["row"],
        "below": lower["row"],
        "published_points": theirs,
        "our_points": ours,
        "beyond_spread": _beyond(upper["test_accuracies"], lower["test_accuracies"], ours),
    }


def _beyond(a: list[float], b: list[float], points: float) -> bool | None:
    """Whether the difference is over twice its standard error; None where there is no spread."""
    if min(len(a), len(b)) < 2:
        return None
    error = math.sqrt(statistics.variance(a) / len(a) + statistics.variance(b) / len(b))
    return abs(points) > 2 * 100 * error
