"""What a step of each rule costs against BP, and the figure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from results_as.text import RESULTS, Row, markdown, read

STEPS = ("resnet32", "resnet110", "resnet50", "resnet101", "vit", "gpt2")


FIGURE = Path(__file__).resolve().parents[2] / "docs" / "memory-time.svg"


def bench_of(case: str) -> Row | None:
    """Return what benchmarks/cpu/step.py found; None where it has not run."""
    if not (RESULTS / f"step-{case}-cpu.json").exists():
        return None
    found = read(f"step-{case}-cpu")
    return found if "predicted" in found else None


def times_bp(row: Row, key: str, digits: int = 2) -> str:
    return "-" if row[key] is None else f"{row[key]:.{digits}f}"


def bench_table(case: str) -> str:
    """Every rule and number of blocks on one network: memory, FLOPs, time."""
    found = bench_of(case)
    if found is None:
        return f"Not measured yet: `python benchmarks/cpu/step.py --case {case}`."
    header = ["rule", "K", "losses", "activations ÷ BP", "in all ÷ BP", "FLOPs ÷ BP"]
    table = markdown(
        [*header, "time ÷ BP", f"{found['inputs']}/s"],
        [
            [
                row["rule"],
                str(row["blocks"] or "-"),
                str(row["losses"]),
                times_bp(row, "memory_ratio"),
                times_bp(row, "total_ratio"),
                times_bp(row, "flops_ratio"),
                f"{times_bp(row, 'time_ratio')} ± {times_bp(row, 'time_ratio_std')}",
                f"{row['per_second']:,.{0 if row['per_second'] >= 100 else 1}f}",
            ]
            for row in found["rows"]
        ],
    )
    text = (
        f"{table}\n\n{found['network']}, {found['input']}, batch {found['batch']}, channels-last, "
        f"{found['precision']}, SGD with momentum; time: median of {found['n']} steps taken in "
        f"turn with BP's ± standard deviation; {found['hardware']}, torch "
        f"{found['versions']['torch']}; {found['date'][:10]}."
    )
    return text if not found["predicted"] else f"{text}\n\n{predicted_table(found)}"


def predicted_table(found: Row) -> str:
    """The same rules at the batches that people train, predicted."""
    header = ["batch", "rule", "K", "activations, GiB", "÷ BP", "in all, GiB", "÷ BP", "FLOPs ÷ BP"]
    rows = found["predicted"]
    table = markdown(
        header,
        [
            [
                str(row["batch"]),
                row["rule"],
                str(row["blocks"] or "-"),
                f"{row['activation_bytes'] / 2**30:.2f}",
                times_bp(row, "memory_ratio"),
                f"{row['total_bytes'] / 2**30:.2f}",
                times_bp(row, "total_ratio"),
                times_bp(row, "flops_ratio"),
            ]
            for row in rows
        ],
    )
    return f"{table}\n\nPredicted, {rows[0]['input']}, {rows[0]['precision']}."


def panel(found: Row) -> tuple[str, list[Row]]:
    """Return a figure's panel: one form of each rule, or the labels would run together.

    What was timed at a small batch has its memory at the first batch that was predicted.
    """
    first = {"greedy": "Greedy", "backlink": "BackLink L=1 pool_linear", "auglocal": "AugLocal d=2"}
    rows = [row for row in found["rows"] if first.get(row["method"], row["rule"]) == row["rule"]]
    title = f"{found['network'].rpartition(':')[2]}, {found['input']}, batch {found['batch']}"
    if not found["predicted"]:
        return title, rows
    batch, shape = (found["predicted"][0][key] for key in ("batch", "input"))
    memory = {
        (row["rule"], row["blocks"]): row["total_bytes"]
        for row in found["predicted"]
        if row["batch"] == batch
    }
    title = (
        f"{found['network'].rpartition(':')[2]}, {shape}, batch {batch}; timed at {found['batch']}"
    )
    return title, [{**row, "total_bytes": memory[row["rule"], row["blocks"]]} for row in rows]


def memory_time_figure() -> str:
    """The place of the figure that :func:`draw` makes."""
    if not any(bench_of(case) for case in STEPS):
        return "Not measured yet: `python benchmarks/cpu/step.py`, then `make docs`."
    return f"![Peak memory of a step against its time, network by network]({FIGURE.name})"


def draw() -> None:
    """Draw memory against time from the same results."""
    from localgrad.report.memory_time import write_memory_time

    every = [found for case in STEPS if (found := bench_of(case)) is not None]
    panels = dict(map(panel, every))
    if panels:
        write_memory_time(panels, FIGURE)


TABLES: dict[str, Callable[[], str]] = {
    "memory-time": memory_time_figure,
    **{f"bench-{case}": partial(bench_table, case) for case in STEPS},
}
