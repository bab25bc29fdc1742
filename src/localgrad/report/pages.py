"""The pages: everything in one HTML file that loads nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from localgrad.errors import LocalgradError
from localgrad.report.fields import mapping
from localgrad.report.records import Rule, Run, read_run, read_runs, rules
from localgrad.report.tables import NOTHING, amount, columns, mebibytes

if TYPE_CHECKING:
    from markupsafe import Markup

_SHOWN = 6


def write_compare(
    results: list[dict[str, object]], path: str | Path, *, title: str, command: str
) -> None:
    """Write the page that compares rules.

    Args:
        results: one summary per run, as in ``compare.json``; runs with the same ``label`` in the
            same setting are the seeds of one rule and are shown as mean and standard deviation.
        path: the HTML file to write.
        title: heading of the page.
        command: what was typed to make the comparison.

    Raises:
        LocalgradError: there are no results, or a key is missing; nothing is written.
    """
    runs = read_runs(results)
    found = rules(runs)
    figures, svg = _drawing_modules()
    with svg.drawing():
        page = _render(
            "compare.html.j2",
            title=title,
            lead=_lead(found),
            command=command,
            columns=columns(found),
            rules=[(rule, figures.swatch(rule.look)) for rule in found],
            legend=_legend(found, figures),
            relative=any(rule.ratio("activation_memory") for rule in found),
            curves=figures.curves(found) if any(run.curve for run in runs) else None,
            exits=figures.exits(found),
            memory=figures.memory(found),
            tradeoff=figures.tradeoff(found),
            seeds=max(len(rule.runs) for rule in found),
            reach=[_reach(rule, f"reach-{i}") for i, rule in enumerate(found)],
            trained=found,
            environments=_environments(found),
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
    figures, svg = _drawing_modules()
    from localgrad.report import run_figures

    with svg.drawing():
        page = _render(
            "run.html.j2",
            title=f"{run.label}: {run.network} on {run.data}",
            rule=rule,
            run=run,
            facts=_facts(rule),
            curves=figures.curves([rule]) if run.curve else None,
            loss=run_figures.training_loss(rule),
            losses=run_figures.block_losses(rule),
            exits=figures.exits([rule]),
            blocks=_blocks(run),
            reach=[_reach(rule, "reach-0")],
            trained=[rule],
            environments=_environments([rule]),
        )
    Path(path).write_text(page, encoding="utf-8")


def _drawing_modules():  # type: ignore[no-untyped-def]
    """Imported late: the command line must start without matplotlib."""
    try:
        import jinja2  # noqa: F401

        from localgrad.report import figures, svg
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("localgrad"):
            raise
        raise LocalgradError(
            f"an HTML report needs {error.name}: pip install 'localgrad[report]'"
        ) from error
    return figures, svg


def _render(template: str, **values: object) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from localgrad.report.palette import variables

    environment = Environment(
        loader=PackageLoader("localgrad.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(
        light=variables(0), dark=variables(1), nothing=NOTHING, **values
    )
    return page.rstrip("\n") + "\n"


def _plural(count: int, noun: str, many: str = "") -> str:
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def _lead(found: Sequence[Rule]) -> str:
    """The one sentence under the title."""

    def either(values: Sequence[str], many: str) -> str:
        different = sorted(set(values))
        return different[0] if len(different) == 1 else f"{len(different)} {many}"

    runs = [run for rule in found for run in rule.runs]
    trained = either([_plural(run.epochs, "epoch") for run in runs], "lengths of training")
    seeds = either([_plural(len(rule.runs), "seed") for rule in found], "numbers of seeds")
    verb = "rule trains" if len(found) == 1 else "rules train"
    return (
        f"{len(found)} {verb} {either([run.network for run in runs], 'networks')} on "
        f"{either([run.data for run in runs], 'data sets')} for {trained}, {seeds} each: "
        "how accurate each becomes, what it costs, and which units its losses train."
    )


def _legend(found: Sequence[Rule], figures) -> list[tuple[str, Markup, str]]:  # type: ignore[no-untyped-def]
    """(label, swatch, accuracy), the most accurate first, as the lines end in the figure."""
    ends = [(rule, rule.number("test_accuracy")) for rule in found]
    ends.sort(key=lambda pair: -pair[1].mean if pair[1] else 0.0)
    return [(rule.label, figures.swatch(rule.look), amount(end, 100, 1)) for rule, end in ends]


def _reach(rule: Rule, name: str) -> Mapping[str, object]:
    from localgrad.report.matrix import matrix

    reach = rule.reach
    if reach is None:
        return {"label": rule.label, "figure": None, "wrong": [], "missing": 0, "declared": False}
    lines = reach.sentences("violation")
    more = len(lines) - _SHOWN
    return {
        "label": rule.label,
        "figure": matrix(reach, rule.look, rule.label, name),
        "size": f"{_plural(len(reach.losses), 'loss', 'losses')}, "
        f"{_plural(len(reach.units), 'unit')}",
        "wrong": lines[:_SHOWN] + ([f"and {_plural(more, 'more loss', 'more losses')}"] if more > 0 else []),
        "violations": _plural(reach.count("violation"), "violation"),
        "missing": reach.count("missing"),
        "declared": reach.declared is not None,
    }


def _facts(rule: Rule) -> list[tuple[str, str]]:
    """(name, value) of the numbers at the head of a run's page."""
    flops = rule.number("flops_per_image")
    return [
        ("Test accuracy, last epoch", amount(rule.number("test_accuracy"), 100) + " %"),
        ("Best epoch", amount(rule.number("best_test_accuracy"), 100) + " %"),
        ("Peak activations", mebibytes(rule.number("peak_activation_bytes")) + " MiB"),
        ("Peak memory", mebibytes(rule.number("peak_memory_bytes")) + " MiB"),
        ("Speed", amount(rule.number("images_per_second"), 1, 0) + " images/s"),
        ("Training time", amount(rule.number("train_seconds"), 1 / 60, 1) + " min"),
        ("FLOPs per image", amount(flops, 1e-6, 1) + " M"),
        ("Parameters with heads", amount(rule.number("parameters"), 1, 0)),
        ("Losses", str(rule.blocks)),
    ]


def _blocks(run: Run) -> list[tuple[str, str, str]]:
    """(name, last loss, accuracy in percent) of every block."""
    last = run.curve[-1].losses if run.curve else ()
    named = run.reach.losses if run.reach and len(run.reach.losses) == run.blocks else None
    return [
        (
            named[k] if named else f"loss {k}",
            _cell(last[k] if k < len(last) else None, "{:.4f}", 1),
            _cell(run.block_accuracy[k] if k < len(run.block_accuracy) else None, "{:.2f}", 100),
        )
        for k in range(run.blocks)
    ]


def _cell(value: float | None, form: str, scale: float) -> str:
    return NOTHING if value is None else form.format(value * scale)


def _environments(found: Sequence[Rule]) -> list[Mapping[str, object]]:
    """The different sets of versions, each with the runs that had it."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for rule in found:
        for run in rule.runs:
            name = f"{rule.label}, seed {run.seed}"
            groups.setdefault((run.commit, run.versions), []).append(name)
    return [
        {"commit": commit, "versions": versions, "runs": names if len(groups) > 1 else []}
        for (commit, versions), names in groups.items()
    ]
