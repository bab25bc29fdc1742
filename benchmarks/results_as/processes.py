"""Several processes: late links, kills, DDP and pipelines beside."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

from parallel_step import table as parallel
from results_as.accuracy import above
from results_as.text import RESULTS, Row, markdown, percent, plural, read


def late_links_table() -> str:
    """What late links cost in accuracy."""
    if not (RESULTS / "late-links.json").exists():
        return "Not measured yet: `python benchmarks/cpu/late_links.py`."
    cases = read("late-links")["cases"].values()
    rows = []
    for found in cases:
        in_time = next(row for row in found["rows"] if row["links"] == "in time")
        for row in found["rows"]:
            late = ", ".join(map(str, row["late_links"]))
            other = "-" if row is in_time else above(row, in_time)
            name = row["links"] if row["links"] == "Greedy" else f"BackLink L=1, {row['links']}"
            of = [found["data"], name, late or "-", str(row["n"]), percent(row["test_accuracy"])]
            rows.append([*of, other])
    header = ["data", "rule, links", "late at blocks", "n", "test accuracy %"]
    settings = [
        f"{found['data']}: first {found['train_images']:,} training images, "
        f"{plural(found['epochs'], 'epoch')}, batch {found['batch_size']}, tested on "
        f"{found['test_images']:,}"
        for found in cases
    ]
    one = next(iter(cases))
    options = "".join(f", {key} {value}" for key, value in one["network_options"].items())
    return (
        f"{markdown([*header, 'against in time, points'], rows)}\n\n{one['network']}{options}, "
        f"{one['blocks']} blocks, in one process; {'; '.join(settings)}; points: mean ± standard "
        f"deviation over seeds; {one['hardware']}; {one['date'][:10]}."
    )


def late_gain_table() -> str:
    """What late links gain in time, with one block a process."""
    if not (RESULTS / "parallel-late.json").exists():
        return "Not measured yet: `python benchmarks/cpu/parallel.py --rules backlink`."
    found = read("parallel-late")
    header = ["", "s a step", "over itself in one process", "idle, %", "peak, MiB", "sent, MiB"]
    rows = []
    for row in found["rows"]:
        if row["kind"] == "local" and row["processes"] > 1:
            ratio = row["speed_up"][row["one_process"]]["steady"]
            mib = [one["total"] / 2**20 for one in row["memory"]]
            rows.append([
                row["name"],
                parallel.spread(row["seconds"]["steady"], 3), parallel.spread(ratio, 2),
                parallel.shares(row["idle"]["steady"]), " / ".join(f"{one:.0f}" for one in mib),
                " / ".join(f"{size / 2**20:.0f}" for size in row["sent_bytes"]),
            ])  # fmt: skip
    return f"{markdown(header, rows)}\n\nIn the steady state. {parallel.setting(found)}."


KILLS = {
    "training": "killed in training",
    "checkpoint": "killed while a checkpoint was written",
    "stop": "stopped, so that it hangs",
}


def kills_table() -> str:
    """What became of runs of which a process was killed or stopped."""
    if not (RESULTS / "kills.json").exists():
        return "Not measured yet: `python benchmarks/cpu/kills.py`."
    grids = read("kills")["grids"]
    lines = []
    for found in grids:
        grid = found["grid"]
        for kind, title in KILLS.items():
            rows = [row for row in found["rows"] if row["kind"] == kind]
            if not rows:
                continue
            ends = [row["ended_seconds"] for row in rows]
            right = sum(row["messages"] == 1 and row["named"] for row in rows)
            lines.append(
                [
                    f"{grid['blocks']} x {grid['data']}",
                    title,
                    str(len(rows)),
                    f"{statistics.mean(ends):.1f} ({max(ends):.1f})",
                    f"{right} of {len(rows)}",
                    f"{sum(row['same'] for row in rows)} of {len(rows)}",
                    str(sum(row["left"] for row in rows)),
                ]
            )
    header = ["blocks x data", "a process is", "n", "all ended after, s: mean (longest)"]
    table = markdown(
        [*header, "one message, of the right rank", "same weights at the end", "left over"], lines
    )
    whole = sum(row["half_written"] for found in grids for row in found["rows"])
    about = grids[0]
    return (
        f"{table}\n\nIn {whole} of these runs the process was lost while the checkpoint's "
        f"temporary file was there. {about['hardware']}; torch {about['versions']['torch']}; "
        f"{about['date'][:10]}."
    )


def parallel_result() -> Row | None:
    """Return what benchmarks/cpu/parallel.py found; None where it has not run."""
    return read("parallel") if (RESULTS / "parallel.json").exists() else None


def parallel_table(part: str) -> str:
    """Local learning beside DDP and pipelines, in two processes."""
    found = parallel_result()
    if found is None:
        return "Not measured yet: `python benchmarks/cpu/parallel.py`."
    header, rows, note = parallel.PARTS[part](found)
    return f"{markdown(header, rows)}\n\n{note}"


def parallel_summary() -> str:
    found = parallel_result()
    return "Not measured yet." if found is None else parallel.summary(found)


TABLES: dict[str, Callable[[], str]] = {
    "late-links": late_links_table,
    "kills": kills_table,
    "late-gain": late_gain_table,
    "parallel-summary": parallel_summary,
    **{f"parallel{part}": partial(parallel_table, part) for part in parallel.PARTS},
}
