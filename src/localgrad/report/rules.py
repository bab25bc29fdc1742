"""Runs grouped by rule: mean and spread over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from localgrad.report.agreements import Agreements, mean
from localgrad.report.palette import Look, looks
from localgrad.report.reach import Reach, merge
from localgrad.report.records import Epoch, Run


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; ``std`` is None where there is only one value."""

    mean: float
    std: float | None
    n: int


def spread(values: Iterable[float | None]) -> Spread | None:
    """Summary of the values that are known, or None if none is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    std = statistics.stdev(known) if len(known) > 1 else None
    return Spread(statistics.fmean(known), std, len(known))


@dataclass(frozen=True)
class Rule:
    """The runs of one rule in one setting, which differ by seed only."""

    label: str
    look: Look
    runs: tuple[Run, ...]

    @property
    def blocks(self) -> int:
        """Number of losses."""
        return self.runs[0].blocks

    @property
    def reach(self) -> Reach | None:
        """Union over the runs: a violation of any seed is a violation of the rule."""
        return merge([run.reach for run in self.runs if run.reach is not None])

    def number(self, key: str) -> Spread | None:
        """A number of the summary over the seeds."""
        return spread(run.numbers.get(key) for run in self.runs)

    def ratio(self, key: str) -> Spread | None:
        """A ratio to BP over the seeds."""
        return spread(run.ratios.get(key) for run in self.runs)

    def curve(self, value: Callable[[Epoch], float | None]) -> list[tuple[int, Spread]]:
        """(epoch, spread over the seeds) for every epoch that has a value."""
        values: dict[int, list[float | None]] = {}
        for run in self.runs:
            for entry in run.curve:
                values.setdefault(entry.epoch, []).append(value(entry))
        rows = [(epoch, spread(found)) for epoch, found in sorted(values.items())]
        return [(epoch, row) for epoch, row in rows if row is not None]

    @property
    def agreements(self) -> Agreements:
        """Mean agreement with BP after each epoch; nothing where it was not noted."""
        return mean([run.agreements for run in self.runs])

    def exits(self) -> list[tuple[int, Spread]]:
        """(loss index, spread over the seeds) of the accuracy of every block's classifier."""
        count = max(len(run.block_accuracy) for run in self.runs)
        rows = [
            (k, spread(r.block_accuracy[k] for r in self.runs if k < len(r.block_accuracy)))
            for k in range(count)
        ]
        return [(k, row) for k, row in rows if row is not None]

    def early_exits(self) -> list[tuple[float, Spread]]:
        """(FLOPs in % of the whole network's, spread of the accuracy) of every exit, by FLOPs."""
        flops = next((run.exit_flops for run in self.runs if run.exit_flops), ())
        whole = flops[-1] if flops else None
        if not whole:
            return []
        placed = [(flops[k] if k < len(flops) else None, value) for k, value in self.exits()]
        known = [(100 * cost / whole, value) for cost, value in placed if cost is not None]
        return sorted(known, key=lambda point: point[0])  # a deep head may cost more than a later


def rules(runs: Sequence[Run]) -> list[Rule]:
    """Group the runs that differ by seed only; BP comes first, then BP with checkpointing.

    A label that was used in two settings gets the settings that differ added to it.
    """
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        setting = (run.label, run.method, run.network, run.data, run.blocks, run.epochs)
        groups.setdefault(setting, []).append(run)
    labels = [_distinct(setting, list(groups)) for setting in groups]
    drawn = looks((str(setting[1]), str(setting[0])) for setting in groups)
    made = [
        Rule(label, look, tuple(found))
        for label, look, found in zip(labels, drawn, groups.values(), strict=True)
    ]
    first = {"bp": 0, "checkpoint": 1}
    return sorted(made, key=lambda rule: first.get(rule.look.family.name, 2))


def _distinct(setting: tuple[object, ...], settings: Sequence[tuple[object, ...]]) -> str:
    alike = [other for other in settings if other[0] == setting[0]]
    shown = ("{}", "{}", "{}", "{}", "{} losses", "{} epochs")
    added = [
        form.format(value)
        for form, value, *others in zip(shown, setting, *alike, strict=True)
        if len(set(others)) > 1
    ]
    return ", ".join([str(setting[0]), *added])
