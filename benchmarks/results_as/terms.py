"""InfoPro with other weights of its two terms."""

from __future__ import annotations

from collections.abc import Callable

from results_as.accuracy import above, setting
from results_as.text import RESULTS, markdown, percent, read

NAME = "infopro-terms"


def table() -> str:
    """Accuracy with each pair of weights, and how well the first block's head classifies."""
    if not (RESULTS / f"{NAME}.json").exists():
        return f"Not measured yet: `localgrad compare --config recipes/{NAME}.yaml`."
    result = read(NAME)
    dgl = next(row for row in result["rows"] if row["rule"] == "DGL")
    rows = [
        [
            row["rule"],
            str(row["n"]),
            percent(row["test_accuracy"]),
            "-" if row is dgl else above(row, dgl),
            _first(row["block_accuracy"]),
        ]
        for row in result["rows"]
    ]
    header = ["rule", "n", "test accuracy, %", "above DGL, points", "first block's head, %"]
    return f"{markdown(header, rows)}\n\n{setting(result)}."


def _first(accuracies: list[float | None]) -> str:
    known = accuracies[0] if len(accuracies) > 1 else None
    return "-" if known is None else f"{100 * known:.1f}"


TABLES: dict[str, Callable[[], str]] = {NAME: table}
