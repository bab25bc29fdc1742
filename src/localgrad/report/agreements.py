"""Agreement with the gradients of BP after each epoch, as runs note it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from localgrad.report.fields import mapping, optional, sequence, whole

#: Of each epoch that was noted, every unit's cosine; None where it is not defined.
Agreements = Mapping[int, Mapping[str, float | None]]


def read_agreements(curve: object, where: str) -> Agreements:
    """Check ``agreement`` in the epochs of a curve that have it.

    >>> read_agreements([{"epoch": 1}, {"epoch": 2, "agreement": {"stem": 0.5}}], "curve")
    {2: {'stem': 0.5}}
    """
    found = {}
    for item in sequence(curve, where):
        epoch = mapping(item, where)
        if epoch.get("agreement") is not None:
            noted = mapping(epoch["agreement"], f"{where}: agreement")
            cosines = {unit: optional(v, f"{where}: agreement") for unit, v in noted.items()}
            found[whole(epoch, "epoch", where)] = cosines
    return found


def mean(each: Sequence[Agreements]) -> Agreements:
    """Return the mean over seeds, of the epochs that all have.

    >>> mean([{1: {"a": 0.5}, 2: {"a": 0.1}}, {1: {"a": 1.0}}])
    {1: {'a': 0.75}}
    """
    shared = [epoch for epoch in each[0] if all(epoch in one for one in each)] if each else []
    return {
        epoch: {unit: _mean(one[epoch].get(unit) for one in each) for unit in each[0][epoch]}
        for epoch in shared
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
