"""How a published table is printed, alone and with ours beside it."""

from __future__ import annotations

import textwrap
from typing import Any

from localgrad.experiment.compare import label_of
from localgrad.experiment.reproduce.seconds import shown
from localgrad.experiment.reproduce.table import Published, Row, Table

WIDTH = 100
_SIGNS = {
    "as published": "",
    "as cited by another paper": "'",
    "from memory, unverified": "~",
    "derived, not published": "†",
}
_NUMBERS = ("rows", "can run", "losses", "published", "ours", "n", "time")
MEANING = {
    "'": "' as cited by another paper",
    "~": "~ from memory of the paper, unverified",
    "†": "† derived from published figures, not published itself",
}


def tables_text(tables: list[Table]) -> str:
    """Return a line for each table."""
    return _columns(
        [
            {
                "table": table.name,
                "rows": str(len(table.rows)),
                "can run": str(sum(row.lacks is None for row in table.rows)),
                "what": table.title,
            }
            for table in tables
        ]
    )


def rows_text(table: Table) -> str:
    """Return a table's rows: the rule, the published figures, what is assumed or lacking."""
    figures = [figure for row in table.rows for figure in row.published]
    parts = [
        f"{table.name}: {table.title}",
        table.paper,
        _columns([line for row in table.rows for line in _listed(row)]),
        *_meanings([_SIGNS[figure.certainty] for figure in figures]),
    ]
    lacking: dict[str, list[str]] = {}
    for row in table.rows:
        if row.lacks is not None:
            lacking.setdefault(row.lacks, []).append(row.name)
    parts += [
        _wrapped("cannot be run: ", f"{', '.join(names)}: {why}") for why, names in lacking.items()
    ]
    for row in table.rows:
        notes = [
            row.note,
            *(f"{figure.value:g}: {figure.note}" for figure in row.published if figure.note),
        ]
        parts += [_wrapped("note: ", f"{row.name}: {text}") for text in notes if text]
    told: dict[str, list[str]] = {}
    for row in table.rows:
        for option, why in row.assumed.items():
            told.setdefault(f"{option}: {why}", []).append(row.name)
    for text, rows in told.items():
        whose = "" if len(rows) > len(table.rows) // 2 else f" ({_some(rows)})"
        parts.append(_wrapped("assumed: ", f"{text}{whose}"))
    parts += [_wrapped("source: ", source) for source in dict.fromkeys(f.source for f in figures)]
    return "\n".join(parts)


def _listed(row: Row) -> list[dict[str, str]]:
    about = {
        "row": row.name,
        "network": row.network,
        "rule": "-" if row.config is None else label_of(row.config.method),
        "losses": "-" if row.losses is None else str(row.losses),
    }
    return [
        {
            **(about if number == 0 else dict.fromkeys(about, "")),
            "figure": "-" if figure is None else what(figure.model_dump()),
            "published": "-" if figure is None else published(figure.model_dump()),
        }
        for number, figure in enumerate(row.published or (None,))
    ]


def found_text(table: Table, found: dict[str, Any]) -> str:
    """Return ours beside published, what was scaled down, the order, and what was left out."""
    notes: dict[tuple[str, ...], str] = {}
    lines: list[dict[str, str]] = []
    signs: list[str] = []
    for row in found["rows"]:
        alone: list[Any] = [
            {"what": "test accuracy", "value": None, "unit": "%", "than": None, "ours": _ours(row),
             "scaled": row["scaled"], "n": None, "certainty": "as published"}
        ]  # fmt: skip
        for number, figure in enumerate(row["figures"] or alone):
            marks = tuple(figure["scaled"])
            letter = notes.setdefault(marks, _letter(len(notes))) if marks else ""
            signs.append(_SIGNS[figure["certainty"]])
            first = number == 0
            lines.append(
                {
                    "row": row["row"] if first else "",
                    "losses": str(row["losses"]) if first else "",
                    "figure": what(figure),
                    "published": "-" if figure["value"] is None else published(figure),
                    "ours": ours(figure),
                    "n": str(figure["ours"]["n"]) if figure["ours"] else "0",
                    "time": shown(3600 * row["hours"]) if first else "",
                    "scaled": letter or "full",
                }
            )
    parts = [f"{table.name}: {table.title}", _columns(lines)]
    parts += [_wrapped(f"{letter}: ", "; ".join(marks)) for marks, letter in notes.items()]
    missing = [
        figure["than"]
        for row in found["rows"]
        for figure in row["figures"]
        if figure["ours"] is None
    ]
    if missing:
        names = ", ".join(dict.fromkeys(missing))
        parts.append(_wrapped("-: ", f"differences wait for runs of the same seeds: {names}"))
    parts += _meanings(signs)
    parts += [line for order in found["order"] for line in order_lines(order)]
    reasons: dict[str, list[str]] = {}
    for entry in found["left_out"]:
        seed = "" if entry["seed"] is None else f" seed {entry['seed']}"
        reasons.setdefault(entry["reason"], []).append(f"{entry['row']}{seed}")
    parts += [_wrapped("left out: ", f"{', '.join(who)}: {why}") for why, who in reasons.items()]
    return "\n".join(parts)


def _ours(row: dict[str, Any]) -> dict[str, Any]:
    mean, std = row["test_accuracy"]["mean"], row["test_accuracy"]["std"]
    return {"mean": 100 * mean, "std": None if std is None else 100 * std, "n": row["n"]}


def what(figure: dict[str, Any]) -> str:
    """Return what a figure measures, with its unit.

    >>> what({"what": "memory below", "than": "bp", "unit": "%"})
    'memory below bp, %'
    """
    than = f" {figure['than']}" if figure.get("than") else ""
    unit = figure.get("unit") or Published.model_validate(figure).unit
    return f"{figure['what']}{than}, {unit}"


def sign_of(certainty: str) -> str:
    """Return the sign that marks how certain a published figure is."""
    return _SIGNS[certainty]


def published(figure: dict[str, Any]) -> str:
    """Return a published value with the sign of its certainty."""
    sign = "+" if figure["what"] in ("accuracy above", "time above") else ""
    runs = f" (n={figure['n']})" if figure.get("n") else ""
    digits = figure.get("digits")
    kind = "g" if digits is None else f".{digits}f"
    return f"{_SIGNS[figure['certainty']]}{figure['value']:{sign}{kind}}{runs}"


def ours(figure: dict[str, Any]) -> str:
    """Return our value with its spread."""
    found = figure["ours"]
    if found is None:
        return "-"
    sign = "+" if figure["what"] in ("accuracy above", "time above") else ""
    text = f"{found['mean']:{sign}.2f}"
    return text if found["std"] is None else f"{text} ± {found['std']:.2f}"


def order_lines(order: dict[str, Any]) -> list[str]:
    """Return how our order of the rules agrees with the published one."""
    tau, rho = (
        "-" if order[key] is None else f"{order[key]:.2f}" for key in ("kendall", "spearman")
    )
    count = len(order["reversed"])
    lines = [
        f"order, {order['network']} on {order['data']}, {len(order['rows'])} rows: "
        f"Kendall {tau}, Spearman {rho}; {count} of {order['pairs']} pairs reversed"
    ]
    spreads = {True: "beyond the spread", False: "within the spread", None: "one run each"}
    for pair in order["reversed"]:
        lines.append(
            f"  {pair['above']} is {pair['published_points']:.2f} points above {pair['below']} as "
            f"published, ours {-pair['our_points']:.2f} below ({spreads[pair['beyond_spread']]})"
        )
    return lines


def _columns(rows: list[dict[str, str]]) -> str:
    """Return rows of equal keys below a header; text to the left, numbers to the right."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    ends = [">" if key in _NUMBERS else "<" for key in rows[0]]
    return "\n".join(
        "  ".join(
            f"{cell:{end}{width}}" for cell, end, width in zip(line, ends, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _meanings(signs: list[str]) -> list[str]:
    return [text for sign, text in MEANING.items() if sign in signs]


def _letter(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else f"a{number}"


def _some(rows: list[str]) -> str:
    return ", ".join(rows) if len(rows) <= 3 else f"{', '.join(rows[:2])} and {len(rows) - 2} more"


def _wrapped(start: str, text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent="  ")
