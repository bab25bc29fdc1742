"""Tables of docs/reproduce.md: every published row, and what each machine found; and the rows of
one rule, for its page in docs/rules.

Read from the tables of recipes and benchmarks/results/reproduce/TABLE/LABEL.json, which
``localgrad reproduce TABLE --store benchmarks/results/reproduce`` writes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from localgrad.cli.show_reproduce import MEANING, ours, published, sign_of, what
from localgrad.experiment.reproduce import store
from localgrad.experiment.reproduce.seconds import shown
from localgrad.experiment.reproduce.table import Row, Table, names, read
from localgrad.methods import names as rules
from results_as.text import markdown

STORE = Path(__file__).resolve().parent / "results" / "reproduce"
HEADER = ("row", "losses", "figure", "published", "ours", "n", "time", "machine", "scaled down")
PAPERS = 4  # of these columns are the paper's


def tables() -> dict[str, Callable[[], str]]:
    """Return what writes each table, by the name of its place."""
    return {
        "reproduce": overview,
        **{f"reproduce-{name.replace('/', '-')}": partial(one, name) for name in names()},
        **{f"rule-published-{rule.replace('_', '-')}": partial(of_rule, rule) for rule in rules()},
        **{f"rule-assumed-{rule.replace('_', '-')}": partial(assumed, rule) for rule in rules()},
    }


def overview() -> str:
    """Return a line for each table: how many of its rows were run, and how many in full."""
    lines = []
    for name in names():
        table, results = read(name), store.results(STORE, name)
        rows = [row for found in results.values() for row in found["rows"]]
        run = {row["row"] for row in rows}
        full = {row["row"] for row in rows if not row["scaled"]}
        hours = sum(found["hours"] for found in results.values())
        lines.append(
            [
                f"[`{name}`](#{name.replace('/', '')})",
                table.title,
                str(len(table.rows)),
                str(sum(row.lacks is not None for row in table.rows)),
                f"{len(run)}",
                f"{len(full)}",
                shown(3600 * hours) if hours else "-",
            ]
        )
    header = ["table", "what", "rows", "cannot be run", "run", "of these in full", "training time"]
    return markdown(header, lines)


def one(name: str) -> str:
    """Return a table: the published figures, and beside them those of every machine."""
    table, results = read(name), store.results(STORE, name)
    notes: dict[tuple[str, ...], str] = {}
    lines = [line for row in table.rows for line in _lines(row, results, notes)]
    width = len(HEADER) if results else PAPERS
    parts = [markdown(list(HEADER[:width]), [line[:width] for line in lines]), ""]
    parts += [f"({letter}) {'; '.join(marks)}." for marks, letter in notes.items()]
    used = {sign_of(figure.certainty) for row in table.rows for figure in row.published}
    parts += [f"{text}." for sign, text in MEANING.items() if sign in used]
    lacking: dict[str, list[str]] = {}
    for row in table.rows:
        if row.lacks is not None:
            lacking.setdefault(row.lacks, []).append(row.name)
    parts += [f"Cannot be run: {', '.join(rows)}: {why}." for why, rows in lacking.items()]
    for label, found in results.items():
        about = f"{found['hardware']}, torch {found['versions']['torch']}; {found['date'][:10]}"
        parts.append(f"{label}: {about}; `{found['command']}`.")
        parts += [f"{label}: {_order(order)}" for order in found["order"]]
    if not results:
        parts.append(f"Not run yet: `localgrad reproduce {name}`.")
    parts.append(f"Source of the recipe: {table.paper}.")
    return "  \n".join(part for part in parts if part).replace("  \n", "\n\n", 1)


def of_rule(rule: str) -> str:
    """Return every published row of a rule, with BP's figure of the same table and network."""
    notes: dict[tuple[str, ...], str] = {}
    lines: list[list[str]] = []
    of = [(table, row) for table in map(read, names()) for row in table.rows if _is(row, rule)]
    if not of:
        return "No figure of this rule is among the published tables here."
    found: dict[str, dict[str, Any]] = {}
    for table, row in of:
        results = found.setdefault(table.name, store.results(STORE, table.name))
        for number, line in enumerate(_lines(row, results, notes)):
            figure = row.published[number % len(row.published)] if row.published else None
            name = f"[`{table.name}`]({_anchor(table.name)})" if number == 0 else ""
            lines.append([name, *line[:PAPERS], _of_bp(table, row, figure), *line[PAPERS:]])
    rows = {(table.name, row.name) for table, row in of}
    machines = [
        (name, label, one)
        for name, results in found.items()
        for label, one in results.items()
        if any((name, entry["row"]) in rows for entry in one["rows"])
    ]
    width = len(HEADER) + 2 if machines else PAPERS + 2
    header = ["table", *HEADER[:PAPERS], "BP, published", *HEADER[PAPERS:]]
    parts = [markdown(header[:width], [line[:width] for line in lines]), ""]
    parts += [f"({letter}) {'; '.join(marks)}." for marks, letter in notes.items()]
    figures = [figure for _, row in of for figure in row.published]
    used = {sign_of(figure.certainty) for figure in figures}
    parts += [f"{text}." for sign, text in MEANING.items() if sign in used]
    for name, label, one in machines:
        about = f"{one['hardware']}, torch {one['versions']['torch']}; {one['date'][:10]}"
        parts.append(f"{label}, `{name}`: {about}; `{one['command']}`.")
    if not machines:
        parts.append(f"Not run yet: `localgrad reproduce {of[0][0].name} --rows {of[0][1].name}`.")
    parts += [f"Source: {source}." for source in dict.fromkeys(one.source for one in figures)]
    return "  \n".join(part for part in parts if part).replace("  \n", "\n\n", 1)


def assumed(rule: str) -> str:
    """Return the options of a rule's published rows that their papers leave open."""
    told: dict[tuple[str, str], list[str]] = {}
    for table in map(read, names()):
        for row in table.rows:
            for text in row.assumed.items() if _is(row, rule) else ():
                tables = told.setdefault(text, [])
                tables += [] if table.name in tables else [table.name]
    if not told:
        return "Nothing: no option of a published row here is left open."
    lines = [
        [f"`{option}`", why, ", ".join(f"[`{name}`]({_anchor(name)})" for name in tables)]
        for (option, why), tables in sorted(told.items())
    ]
    return markdown(["option", "what we took", "in the rows of"], lines)


def _is(row: Row, rule: str) -> bool:
    return row.config is not None and row.config.method.name == rule


def _anchor(name: str) -> str:
    return f"../reproduce.md#{name.replace('/', '')}"


def _of_bp(table: Table, row: Row, figure: Any) -> str:
    """Return BP's figure of the same kind on the same network; of BP itself there is no other."""
    if figure is None or figure.is_difference or _is(row, "backprop"):
        return "-"
    beside = [
        one
        for other in table.rows
        if _is(other, "backprop") and other.network == row.network
        for one in other.published
        if one.what == figure.what
    ]
    return published(beside[0].model_dump()) if beside else "-"


def _lines(row: Row, results: dict[str, Any], notes: dict[tuple[str, ...], str]) -> list[list[str]]:
    runs = {
        label: entry
        for label, found in results.items()
        for entry in found["rows"]
        if entry["row"] == row.name
    }
    losses = "-" if row.losses is None else str(row.losses)
    lines: list[list[str]] = []
    for label, entry in (runs or {"": None}).items():
        figures: list[Any] = list(row.published) or [None]
        for number, figure in enumerate(figures):
            first = [row.name, losses] if not lines else ["", ""]
            found = None if entry is None else _figure(entry, number)
            lines.append(
                [
                    *first,
                    *(("test accuracy, %", "-") if figure is None else _said(figure)),
                    *_found(label, entry, found, number, notes),
                ]
            )
    return lines


def _said(figure: Any) -> tuple[str, str]:
    plain = figure.model_dump()
    return what(plain), published(plain)


def _figure(entry: dict[str, Any], number: int) -> dict[str, Any]:
    if number < len(entry["figures"]):
        found: dict[str, Any] = entry["figures"][number]
        return found
    mean, std = entry["test_accuracy"]["mean"], entry["test_accuracy"]["std"]
    own = {"mean": 100 * mean, "std": None if std is None else 100 * std, "n": entry["n"]}
    return {"what": "test accuracy", "ours": own, "scaled": entry["scaled"]}


def _found(
    label: str,
    entry: dict[str, Any] | None,
    figure: dict[str, Any] | None,
    number: int,
    notes: dict[tuple[str, ...], str],
) -> list[str]:
    if entry is None or figure is None:
        return ["", "", "", "", ""]
    marks = tuple(figure["scaled"])
    letter = notes.setdefault(marks, chr(ord("a") + len(notes) % 26)) if marks else ""
    return [
        ours(figure),
        str(figure["ours"]["n"] if figure["ours"] else 0),
        shown(3600 * entry["hours"]) if number == 0 else "",
        label,
        f"({letter})" if letter else "full",
    ]


def _order(order: dict[str, Any]) -> str:
    tau, rho = (
        "undefined" if order[key] is None else f"{order[key]:.2f}"
        for key in ("kendall", "spearman")
    )
    worst = [
        f"{pair['above']} over {pair['below']} ({pair['published_points']:+.1f} points published, "
        f"{pair['our_points']:+.1f} ours)"
        for pair in order["reversed"]
        if pair["beyond_spread"]
    ]
    text = (
        f"order of {len(order['rows'])} rows of {order['network']} on {order['data']} against the "
        f"published one: Kendall {tau}, Spearman {rho}, {len(order['reversed'])} of "
        f"{order['pairs']} pairs reversed"
    )
    return f"{text}; beyond the spread: {', '.join(worst)}." if worst else f"{text}."
