"""Write the tables in README and docs anew from benchmarks/results.

    python benchmarks/tables.py            write them
    python benchmarks/tables.py --check    exit 1 where one is not what the results say

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import reproduce_table
from localgrad import methods
from results_as import (
    accuracy,
    analysis,
    architectures,
    cost,
    devices,
    processes,
    report,
    rules,
    search,
    step,
    terms,
)

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    "README.md",
    "docs/results.md",
    "docs/language-models.md",
    "docs/any-network.md",
    "docs/architectures.md",
    "docs/memory-and-speed.md",
    "docs/fast-steps.md",
    "docs/parallel.md",
    "docs/reproduce.md",
    "docs/search.md",
    "docs/processes.md",
    "docs/rules/index.md",
    *(f"docs/rules/{rules.page(method)}" for method in methods.names()),
    "docs/runs.md",
    "docs/analysis.md",
)
TABLES: dict[str, Callable[[], str]] = {
    **accuracy.TABLES,
    **analysis.TABLES,
    **architectures.TABLES,
    **cost.TABLES,
    **devices.TABLES,
    **processes.TABLES,
    **report.TABLES,
    **rules.TABLES,
    **search.TABLES,
    **step.TABLES,
    **terms.TABLES,
    **reproduce_table.tables(),
}
PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def renewed(text: str) -> str:
    return PLACE.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}", text)


def main() -> None:
    stale = []
    for name in DOCUMENTS:
        path = ROOT / name
        old = path.read_text(encoding="utf-8")
        new = renewed(old)
        if new != old:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8")
    if "--check" not in sys.argv:
        step.draw()
        analysis.draw(ROOT / "docs")
    if stale and "--check" in sys.argv:
        sys.exit(f"error: run benchmarks/tables.py: stale tables in {', '.join(stale)}")
    print(f"{'stale' if '--check' in sys.argv else 'renewed'}: {', '.join(stale) or 'none'}")


if __name__ == "__main__":
    main()
