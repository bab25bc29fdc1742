"""What a contest found, as plain data."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

from parallel_step.contest import Contest, Entry
from parallel_step.pace import Pace

Spread = dict[str, float | None]
HOW = ("steady", "filled")


def spread(values: Iterable[float]) -> Spread:
    """Return mean and standard deviation."""
    found = list(values)
    std = statistics.stdev(found) if len(found) > 1 else None
    return {"mean": statistics.mean(found), "std": std}


def seconds(paces: list[Pace], how: str) -> float:
    """Return seconds a step of one round.

    In the steady state between the outputs of the last process; filled until the last one is done.
    """
    return paces[-1].steady if how == "steady" else max(pace.filled for pace in paces)


def rows(contest: Contest, costs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what is known of each contender; ratios over rivals are taken round by round."""
    several = zip(contest.entries, costs, strict=True)
    return [{**_row(contest, entry), **cost} for entry, cost in several]


def _row(contest: Contest, entry: Entry) -> dict[str, Any]:
    one = entry.contender
    times = {how: [seconds(paces, how) for paces in entry.rounds] for how in HOW}
    rivals = {
        other.contender.name: {
            how: spread(
                seconds(theirs, how) / mine
                for theirs, mine in zip(other.rounds, times[how], strict=True)
            )
            for how in HOW
        }
        for other in contest.entries
        if other is not entry and (other.rival or other.contender.name == entry.own)
    }
    middle = {how: statistics.median(times[how]) for how in HOW}
    return {
        "name": one.name,
        **entry.about,
        "processes": contest.setting.mesh.blocks if one.together else 1,
        "threads": one.threads,
        "one_process": entry.own,
        "seconds": {how: {**spread(times[how]), "median": middle[how]} for how in HOW},
        "speed_up": rivals if one.together else {},
        "idle": {how: _each(entry, f"idle_{how}") for how in HOW},
        "page_faults_a_step": _each(entry, "faults"),
        "busy": _each(entry, "busy"),
        "simulated": {
            way: {"seconds": found, "error": found / middle["steady"] - 1}
            for way, found in entry.simulated.items()
            if math.isfinite(found)
        },
    }


def _each(entry: Entry, what: str) -> list[float | None]:
    """Return the median over rounds, of each process."""
    found = []
    for paces in zip(*entry.rounds, strict=True):
        values = [getattr(pace, what) for pace in paces]
        found.append(None if None in values else statistics.median(values))
    return found
