"""The pages of a comparison and of a single run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from localgrad.report import analysis, words
from localgrad.report.analysis_page import learned
from localgrad.report.fields import mapping
from localgrad.report.page import MANY, render
from localgrad.report.records import read_run, read_runs
from localgrad.report.rules import Rule, rules
from localgrad.report.tables import amount, columns

if TYPE_CHECKING:
    from markupsafe import Markup


def write_compare(
    results: list[dict[str, object]],
    path: str | Path,
    *,
    title: str,
    command: str,
    analysed: Mapping[str, object] | None = None,
) -> None:
    """Write the page that compares rules.

    Args:
        results: one summary per run, as in ``compare.json``; runs with the same ``label`` in the
            same setting are the seeds of one rule and are shown as mean and standard deviation.
        path: the HTML file to write.
        title: heading of the page.
        command: what was typed to make the comparison.
        analysed: what the rules have learned, as in ``analysis.json``; default: not known.

    Raises:
        LocalgradError: there are no results, or a key is missing; nothing is written.
        ModuleNotFoundError: matplotlib or Jinja2 is not installed.
    """
    runs = read_runs(results)
    found = rules(runs)
    looks = {rule.label: rule.look for rule in found}
    groups = [] if analysed is None else analysis.read(analysed, looks)
    # Imported late: the command line must start without matplotlib.
    from localgrad.report import figures, maps, strokes, svg

    with svg.drawing():
        page = render(
            "compare.html.j2",
            title=title,
            lead=words.lead(found),
            command=command,
            columns=columns(found),
            rules=[(rule, strokes.swatch(rule.look)) for rule in found],
            legend=_legend(found),
            relative=any(rule.ratio("activation_memory") for rule in found),
            curves=figures.curves(found) if any(run.curve for run in runs) else None,
            exits=figures.exits(found),
            early_exits=figures.early_exits(found),
            saved=words.saved(found),
            front=figures.front(found),
            memory=figures.memory(found),
            tradeoff=figures.tradeoff(found),
            over_time=maps.over_time([(rule.label, rule.agreements) for rule in found]),
            learned=None if analysed is None else learned(analysed, groups),
            seeds=max(len(rule.runs) for rule in found),
            reach=[_reach(rule, f"reach-{i}") for i, rule in enumerate(found)],
            wide=max((len(rule.reach.units) for rule in found if rule.reach), default=0) > MANY,
            typed_too=words.commands(found, command),
            environments=words.environments(found),
        )
    Path(path).write_text(page, encoding="utf-8")


def write_run(
    summary: dict[str, object],
    curve: list[dict[str, object]],
    reach: dict[str, object] | None,
    path: str | Path,
) -> None:
    """Write the page of a single run.

    Args:
        summary: the run's ``summary.json``; ``label`` and ``ratios`` may be left out.
        curve: one object per epoch, as in ``metrics.jsonl``; ``losses`` holds a value per block.
        reach: ``losses``, ``units``, ``measured`` and ``declared``, or None if not audited.
        path: the HTML file to write.

    Raises:
        LocalgradError: a key is missing or holds the wrong kind of value; nothing is written.
    """
    run = read_run(mapping(summary, "summary"), "summary", ratios={}, curve=curve, reach=reach)
    (rule,) = rules([run])
    from localgrad.report import figures, maps, run_figures, svg

    with svg.drawing():
        page = render(
            "run.html.j2",
            title=f"{run.label}: {run.network} on {run.data}",
            rule=rule,
            run=run,
            facts=words.facts(rule),
            curves=figures.curves([rule]) if run.curve else None,
            loss=run_figures.training_loss(rule),
            losses=run_figures.block_losses(rule),
            exits=figures.exits([rule]),
            early_exits=figures.early_exits([rule]),
            saved=words.saved([rule]),
            memory=run_figures.memory_parts(rule),
            blocks=words.blocks(run),
            over_time=maps.over_time([(rule.label, rule.agreements)]),
            reach=[_reach(rule, "reach-0")],
            wide=True,
            command=run.command,
            typed_too=[],
            environments=words.environments([rule]),
        )
    Path(path).write_text(page, encoding="utf-8")


def _legend(found: Sequence[Rule]) -> list[tuple[str, Markup, str]]:
    """(label, swatch, accuracy), the most accurate first, as the lines end in the figure."""
    from localgrad.report import strokes

    ends = [(rule, rule.number("test_accuracy")) for rule in found]
    ends.sort(key=lambda pair: -pair[1].mean if pair[1] else 0.0)
    return [(rule.label, strokes.swatch(rule.look), amount(end, 100, 1)) for rule, end in ends]


def _reach(rule: Rule, name: str) -> Mapping[str, object]:
    from localgrad.report.matrix import matrix

    reach = rule.reach
    if reach is None:
        return {"label": rule.label, "figure": None, "wrong": []}
    drawn = matrix(reach, rule.look, rule.label, name)
    return {"label": rule.label, "figure": drawn, **words.verdict(reach)}
