"""What the tables have in common: results, Markdown, words for numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"


Row = dict[str, Any]


def read(name: str) -> Row:
    found: Row = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def markdown(header: list[str], rows: list[list[str]], left: int = 1) -> str:
    """Return a table; the first ``left`` columns hold words, the others numbers."""
    rule = [*("---" for _ in header[:left]), *("---:" for _ in header[left:])]
    lines = [header, rule, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def percent(value: Row) -> str:
    mean = f"{100 * value['mean']:.1f}"
    return mean if value["std"] is None else f"{mean} ± {100 * value['std']:.1f}"


def plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def points(value: Row) -> str:
    std = "" if value["std"] is None else f" ± {100 * value['std']:.1f}"
    return f"{100 * value['mean']:+.1f}{std}"
