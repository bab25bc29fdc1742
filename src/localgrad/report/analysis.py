"""An analysis as it is read from JSON, its runs grouped by rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from localgrad.errors import LocalgradError
from localgrad.report.agreements import Agreements, mean, read_agreements
from localgrad.report.fields import get, mapping, optional, sequence, text, whole
from localgrad.report.palette import Look, family, looks
from localgrad.report.rules import Spread, spread
from localgrad.report.tables import amount

Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Learned:
    """One run: what each of its units learned.

    Attributes:
        agreement: cosine with BP's gradient of each unit, the tail last.
        probes: test accuracy read off each unit, 0..1; empty where none were fitted.
        exits: (FLOPs relative to the whole network, accuracy) of each head that has classes.
        saved: the cheapest of them within a point of the last: (relative FLOPs, accuracy).
        over_time: ``agreement`` after each epoch, where it was logged.
        cka: with the reference; rows are the reference's units, columns this run's.
        reference: whether it is that one itself.
    """

    label: str
    method: str
    seed: str
    units: tuple[str, ...]
    agreement: Values
    probes: Values
    exits: tuple[tuple[float, float], ...]
    saved: tuple[float, float] | None
    over_time: Agreements
    cka: tuple[Values, ...]
    reference: bool


@dataclass(frozen=True)
class Group:
    """The runs of one rule, which differ by seed."""

    label: str
    look: Look
    runs: tuple[Learned, ...]

    def curve(self, values: Callable[[Learned], Values]) -> list[tuple[float, Spread]]:
        """(depth in % of the units, spread over the seeds) of every unit that has a value."""
        columns = list(zip(*(values(run) for run in self.runs), strict=True))
        last = max(len(columns) - 1, 1)
        rows = [(100 * i / last, spread(column)) for i, column in enumerate(columns)]
        return [(at, row) for at, row in rows if row is not None]

    @property
    def compared(self) -> list[Values]:
        """Mean CKA with the reference, of the other seeds where the reference is among them."""
        others = [run for run in self.runs if not run.reference]
        return _mean([run.cka for run in others or self.runs])

    def alike(self) -> list[tuple[float, Spread]]:
        """(depth in %, CKA with the same unit) where the reference has as many units."""
        values = self.compared
        if not values or len(values) != len(values[0]):
            return []
        last = max(len(values) - 1, 1)
        found = [(100 * i / last, spread([row[i]])) for i, row in enumerate(values)]
        return [(at, value) for at, value in found if value is not None]

    @property
    def over_time(self) -> Agreements:
        """Mean agreement after each epoch; nothing where it was not logged."""
        return mean([run.over_time for run in self.runs])


def _mean(each: Sequence[Sequence[Values]]) -> list[Values]:
    """Return the mean of matrices; of as many rows as all of them have."""
    found: list[Values] = []
    for rows in zip(*each, strict=False):
        cells = [spread(column) for column in zip(*rows, strict=True)]
        found.append(tuple(None if cell is None else cell.mean for cell in cells))
    return found


def read(data: object, shown: Mapping[str, Look] | None = None) -> list[Group]:
    """Check what ``localgrad analyse`` found; LocalgradError names the first key that is wrong.

    Args:
        data: as in ``analysis.json``.
        shown: the rules that a page shows, and how; default: all.
    """
    where = "analysis"
    whole_tree = mapping(data, where)
    runs = sequence(get(whole_tree, "runs", where), f"{where}: runs")
    cka = sequence(get(whole_tree, "cka", where), f"{where}: cka")
    first = whole(whole_tree, "reference", where)
    of_run = {
        whole(mapping(item, where), "run", where): _matrix(
            get(mapping(item, where), "values", where), f"{where}: cka"
        )
        for item in cka
    }
    learned = [
        _run(mapping(item, f"runs[{i}]"), f"runs[{i}]", of_run.get(i, ()), i == first)
        for i, item in enumerate(runs)
    ]
    learned.sort(key=lambda run: family(run.method, run.label).name != "bp")  # BP comes first
    groups: dict[tuple[str, str, tuple[str, ...]], list[Learned]] = {}
    for run in learned:
        groups.setdefault((run.label, run.method, run.units), []).append(run)
    drawn = looks((method, label) for label, method, _ in groups)
    made = [
        Group(key[0], look, tuple(found))
        for (key, found), look in zip(groups.items(), drawn, strict=True)
    ]
    if shown is None:
        return made
    return [replace(group, look=shown[group.label]) for group in made if group.label in shown]


def _run(
    data: Mapping[str, object], where: str, cka: tuple[Values, ...], reference: bool
) -> Learned:
    units = tuple(str(name) for name in sequence(get(data, "units", where), where))
    agreement = _column(get(data, "agreement", where), "cosine", where)
    probes = _column(data.get("probes") or (), "test_accuracy", where)
    over_time = read_agreements(get(data, "history", where), f"{where}: history")
    exits, saved = _exits(data.get("exits"), where)
    return Learned(
        text(data, "label", where),
        text(data, "method", where),
        text(data, "seed", where),
        units,
        agreement,
        probes,
        exits,
        saved,
        over_time,
        cka,
        reference,
    )


def _exits(
    data: object, where: str
) -> tuple[tuple[tuple[float, float], ...], tuple[float, float] | None]:
    if data is None:
        return (), None
    tree = mapping(data, where)
    flops = _numbers(get(tree, "flops", where), where)
    accuracy = _numbers(get(tree, "accuracy", where), where)
    last = flops[-1] or 1.0
    points = tuple(
        (cost / last, value)
        for cost, value in zip(flops, accuracy, strict=True)
        if cost is not None and value is not None
    )
    best = mapping(get(tree, "one_point_lower", where), where)
    share, value = optional(best.get("flops"), where), optional(best.get("accuracy"), where)
    return points, None if share is None or value is None else (share, value)


def _column(data: object, key: str, where: str) -> Values:
    return tuple(
        optional(get(mapping(item, where), key, where), f"{where}: {key}")
        for item in sequence(data, where)
    )


def _numbers(data: object, where: str) -> Values:
    return tuple(optional(value, where) for value in sequence(data, where))


def _matrix(data: object, where: str) -> tuple[Values, ...]:
    return tuple(_numbers(row, where) for row in sequence(data, where))


@dataclass(frozen=True)
class Reference:
    """The run that every run is compared with."""

    label: str
    units: tuple[str, ...]


def reference(data: Mapping[str, object]) -> Reference:
    """What every run is compared with."""
    runs = sequence(get(data, "runs", "analysis"), "analysis: runs")
    number = whole(data, "reference", "analysis")
    if not 0 <= number < len(runs):
        raise LocalgradError(f"analysis: reference {number} is none of {len(runs)} runs")
    run = mapping(runs[number], "analysis: reference")
    label = f"{text(run, 'label', 'analysis')}, seed {text(run, 'seed', 'analysis')}"
    units = sequence(get(run, "units", "analysis"), "analysis: units")
    return Reference(label, tuple(str(name) for name in units))


def lead(groups: Sequence[Group]) -> str:
    """The sentence under the title."""
    rules = "one rule" if len(groups) == 1 else f"{len(groups)} rules"
    count = sum(len(group.runs) for group in groups)
    runs = "one run" if count == 1 else f"{count} runs"
    return (
        f"{runs.capitalize()} of {rules}: where the local gradients point, what a linear "
        "classifier reads off each unit, what an early answer costs, and how alike the units are."
    )


def saved(groups: Sequence[Group]) -> list[tuple[str, str, str, str]]:
    """(rule, accuracy, accuracy of the cheapest exit at most a point below, its FLOPs in %)."""
    rows = []
    for group in groups:
        ends = [(run.exits[-1][1], *run.saved) for run in group.runs if run.saved and run.exits]
        if ends:
            last, share, accuracy = (spread(column) for column in zip(*ends, strict=True))
            rows.append(
                (group.label, amount(last, 100), amount(accuracy, 100), amount(share, 100, 0))
            )
    return rows


def environment(data: Mapping[str, object]) -> Mapping[str, object]:
    """The machine and versions that made the analysis."""
    versions = mapping(get(data, "versions", "analysis"), "analysis: versions")
    machine = [(key, data[key]) for key in ("hardware", "platform") if data.get(key)]
    return {
        "commit": str(data.get("commit") or ""),
        "versions": tuple((str(k), str(v)) for k, v in (*machine, *sorted(versions.items()))),
        "runs": [],
    }
