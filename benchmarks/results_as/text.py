"""What the tables have in common: results, Markdown, words for numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"


Row = dict[str, Any]


def read(name: str) -> Row:
    found: Row = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Return a table: words to the left, numbers to the right."""
    rule = ["---" if _words(column) else "---:" for column in zip(*rows, strict=True)]
    lines = [header, rule or ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _words(column: Sequence[str]) -> bool:
    starts = [next((c for c in cell if c.isalnum()), "0") for cell in column]
    return any(start.isalpha() for start in starts)


def network_of(result: Row) -> str:
    """Return the name of the network that was trained, with its options."""
    options = [f"{key} {value}" for key, value in result.get("network_options", {}).items()]
    return f"{result['network']} ({', '.join(options)})" if options else str(result["network"])


def percent(value: Row) -> str:
    mean = f"{100 * value['mean']:.1f}"
    return mean if value["std"] is None else f"{mean} ± {100 * value['std']:.1f}"


def plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def points(value: Row) -> str:
    std = "" if value["std"] is None else f" ± {100 * value['std']:.1f}"
    return f"{100 * value['mean']:+.1f}{std}"
