"""What trained networks have learned: early exits, gradients, probes, similarity to BP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from localgrad.report import analysis
from localgrad.report.analysis import Group, Values
from localgrad.report.analysis_picture import write_analysis_picture
from localgrad.report.rules import spread
from localgrad.report.tables import amount
from results_as.text import RESULTS, Row, markdown, plural, read

NAME = "analysis-resnet32"
_NONE = "Not measured yet: `localgrad analyse`."


def groups() -> list[Group]:
    """Return the runs that were analysed, by rule; nothing where none were."""
    return analysis.read(read(NAME)) if (RESULTS / f"{NAME}.json").exists() else []


def exits_table() -> str:
    """The cheapest head at most a point below the network's own output."""
    found = groups()
    if not found:
        return _NONE
    header = ["rule", "accuracy, %", "of the cheapest exit within a point, %"]
    table = markdown([*header, "its FLOPs, % of the network's"], list(map(list, _saved(found))))
    return f"{table}\n\n{_setting(read(NAME), found)}"


def depth_table() -> str:
    """Where local gradients point, what can be read off, how alike the units are to BP's."""
    found = groups()
    if not found:
        return _NONE
    header = ["rule", "cosine with BP's gradient: first unit", "half depth", "mean"]
    header += ["probe, %: first unit", "half depth", "last", "CKA to BP: half depth", "last unit"]
    rows = []
    for group in found:
        cosines, probes = _columns(group.runs, "agreement"), _columns(group.runs, "probes")
        alike = _diagonal(group)
        means = [_mean(run.agreement) for run in group.runs]
        rows.append([
            group.label,
            amount(spread(cosines[0]), 1, 2), amount(spread(cosines[len(cosines) // 2]), 1, 2),
            amount(spread(means), 1, 2),
            amount(spread(probes[0]), 100), amount(spread(probes[len(probes) // 2]), 100),
            amount(spread(probes[-1]), 100),
            f"{alike[len(alike) // 2]:.2f}", f"{alike[-1]:.2f}",
        ])  # fmt: skip
    return f"{markdown(header, rows)}\n\n{_setting(read(NAME), found)}"


def draw(folder: Path) -> None:
    """Write the picture of what was analysed."""
    write_analysis_picture(read(NAME), folder / f"{NAME}.svg")


def _saved(found: Sequence[Group]) -> list[tuple[str, str, str, str]]:
    return analysis.saved([group for group in found if len(group.runs[0].exits) > 1])


def _columns(runs: Sequence[analysis.Learned], name: str) -> list[Values]:
    return list(zip(*(getattr(run, name) for run in runs), strict=True))


def _mean(values: Values) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _diagonal(group: Group) -> list[float]:
    """CKA of each unit with the reference's unit of the same place."""
    return [row[i] or 0.0 for i, row in enumerate(group.compared)]


def _setting(found: Row, rules: Sequence[Group]) -> str:
    first = found["runs"][0]
    seeds = len(rules[0].runs)
    return (
        f"{first['network']} on {first['data']}, {plural(first['epochs'], 'epoch')}, the runs of "
        f"[reproduce](reproduce.md); {found['inputs']:,} images; n = {seeds}; "
        f"{found['hardware']}; {found['date'][:10]}."
    )


TABLES: dict[str, Callable[[], str]] = {
    "analysis-exits": exits_table,
    "analysis-depth": depth_table,
}
