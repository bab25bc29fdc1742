"""The page of an analysis, and what a comparison shows of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from localgrad.report import analysis
from localgrad.report.page import MANY, render


def write_analysis(data: dict[str, object], path: str | Path, *, title: str, command: str) -> None:
    """Write the page of an analysis.

    Args:
        data: what ``localgrad analyse --json`` writes.
        path: the HTML file to write.
        title: heading of the page.
        command: what was typed.

    Raises:
        LocalgradError: a key is missing or holds the wrong kind of value; nothing is written.
    """
    groups = analysis.read(data)
    from localgrad.report import analysis_figures, maps, strokes, svg

    with svg.drawing():
        page = render(
            "analysis.html.j2",
            title=title,
            lead=analysis.lead(groups),
            legend=[(group.label, strokes.swatch(group.look), "") for group in groups],
            probes=analysis_figures.probes(groups),
            exits=analysis_figures.exits(groups),
            saved=analysis.saved(groups),
            wide=max(len(run.units) for group in groups for run in group.runs) > MANY,
            learned=learned(data, groups),
            over_time=maps.over_time([(group.label, group.over_time) for group in groups]),
            command=command,
            typed_too=[],
            environments=[analysis.environment(data)],
        )
    Path(path).write_text(page, encoding="utf-8")


def learned(
    data: Mapping[str, object], groups: Sequence[analysis.Group]
) -> Mapping[str, object] | None:
    """The figures of gradients and similarity; None where there is nothing to show."""
    from localgrad.report import analysis_figures, maps

    if not groups:
        return None
    reference = analysis.reference(data)
    drawn = [
        (group.label, maps.similarity(group, reference, f"cka-{i}"))
        for i, group in enumerate(groups)
    ]
    return {
        "inputs": f"{data['inputs']:,}",
        "reference": reference.label,
        "agreement": analysis_figures.agreement(groups),
        "alike": analysis_figures.alike(groups),
        "maps": [(label, drawing) for label, drawing in drawn if drawing is not None],
    }
