"""Size and load time of the pages."""

from __future__ import annotations

from collections.abc import Callable

from results_as.text import RESULTS, Row, markdown, read


def pages_table() -> str:
    """A row a page: its size, and the time until it is there on a phone and on a desktop."""
    if not (RESULTS / "report.json").exists():
        return "Not measured yet: `python benchmarks/cpu/report.py`."
    found = read("report")
    header = ["page", "kB", "kB, gzip", "load, ms, 390 px wide", "load, ms, 1280 px wide"]
    table = markdown(header, [_cells(row) for row in found["rows"]])
    return (
        f"{table}\n\nA comparison of 7 rules, 3 seeds each, one run, and an analysis of all; "
        f"from the start of the navigation to the load event, median of {found['n']} ± standard "
        f"deviation; {found['browser']}; {found['hardware']}; {found['date'][:10]}."
    )


def _cells(row: Row) -> list[str]:
    sizes = [f"{row[key] / 1000:.0f}" for key in ("bytes", "gzip_bytes")]
    loads = [
        f"{row['load_ms'][width]['median']:.0f} ± {row['load_ms'][width]['std']:.0f}"
        for width in ("390", "1280")
    ]
    return [row["page"], *sizes, *loads]


TABLES: dict[str, Callable[[], str]] = {"report": pages_table}
