"""What benchmarks/cpu/parallel.py found, as rows of text; benchmarks/tables.py writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
Table = tuple[list[str], list[list[str]], str]  # header, rows, a note


def setting(found: Row) -> str:
    """Return what was measured where."""
    malloc = "freed memory kept" if found["malloc"] == "keep" else "freed memory given back"
    return (
        f"{found['network']}, batch {found['batch']}, channels-last, SGD with momentum; "
        f"n = {found['n']} rounds of {found['steps']} steps, mean ± standard deviation; {malloc}; "
        f"{found['hardware']}, torch {found['versions']['torch']}; {found['date'][:10]}"
    )


def speed(found: Row) -> Table:
    """Seconds a step, speed-ups and idle shares."""
    rows = found["rows"]
    pipeline = fastest(rows)
    rivals = [row["name"] for row in rows if row["kind"] == "bp"] + ["DDP", pipeline["name"]]
    header = ["", "processes x threads", "s a step", "filled, s", "over itself in one process"]
    header += [f"over {name}" for name in rivals]
    table = [
        [
            row["name"],
            f"{row['processes']} x {row['threads']}",
            spread(row["seconds"]["steady"], 3),
            spread(row["seconds"]["filled"], 3),
            *(_ratio(row, name) for name in (row["one_process"], *rivals)),
            shares(row["idle"]["steady"]) if row["processes"] > 1 else "-",
            shares(row["idle"]["filled"]) if row["processes"] > 1 else "-",
        ]
        for row in rows
        if row["kind"] != "apart"
    ]
    times = {row["name"]: row["seconds"]["steady"]["mean"] for row in rows}
    exchange = 1 - times["DDP without its exchange"] / times["DDP"]
    trials = {row["name"]: "-".join(map(str, row["units"][:-1])) for row in pipelines(rows)}
    faults = [each for row in rows for each in row["page_faults_a_step"]]
    cuts = ", ".join(f"{name}: {cut}" for name, cut in trials.items())
    note = [
        f"{setting(found)}.",
        "Over: speed-up, the rival's seconds over these, round by round, in the steady state;",
        f"{pipeline['name']} is the fastest pipeline.",
        "Idle: share of the time spent waiting for the other process, of each, in the steady state",
        "and with filling and draining. What DDP waits within a step cannot be seen: its exchange",
        f"takes {100 * exchange:.0f} % of the step beyond what the same processes compute without",
        f"it. Stages end after units: {cuts}. A process that waits for its turn takes at most",
        f"{100 * found['waiting_busy']:.1f} % of a core. A step has at most {max(faults):,.0f}",
        "page faults. Before all, gradients in float64 with norms fixed differ from BP's by",
        f"{max(found['gradient_errors'].values()):.0e} of the largest at most.",
    ]
    return [*header, "idle, %", "idle, filled, %"], table, " ".join(note)


def costs(found: Row) -> Table:
    """Memory and bytes of each process."""
    header = ["", "peak, MiB", "activations", "parameters", "gradients", "optimizer", "sent, MiB"]
    table = [
        [
            row["name"],
            *(
                " / ".join(f"{one[kind] / 2**20:.1f}" for one in row["memory"])
                for kind in ("total", "activations", "parameters", "gradients", "optimizer")
            ),
            " / ".join(f"{sent / 2**20:.2f}" for sent in row["sent_bytes"]),
        ]
        for row in found["rows"]
        if row["kind"] != "apart"
    ]
    note = (
        "Of each process: bytes of live tensors at the peak of a step, the most of each kind at "
        "any moment, and bytes sent a step. Local rules free each block's gradients on the way, so "
        "none are left at the end, and count them with activations. A pipeline's rooms for "
        "messages of all micro-batches are activations. DDP: what a ring sends of the gradients "
        "that are exchanged, 2 (n - 1) / n of their bytes; the others: borders and errors as they "
        "are handed over to be sent."
    )
    return header, table, note


def simulated(found: Row) -> Table:
    """Steps on paper beside steps that were taken."""
    header = ["", "measured, s", "units timed at once, s", "error", "units timed alone, s", "error"]
    table = []
    for row in found["rows"]:
        if row["simulated"]:
            papers = [row["simulated"].get(way) for way in ("at_once", "alone")]
            cells = [
                [f"{p['seconds']:.3f}", f"{100 * p['error']:+.1f} %"] if p else ["-", "-"]
                for p in papers
            ]
            table.append(
                [row["name"], f"{row['seconds']['steady']['median']:.3f}", *cells[0], *cells[1]]
            )
    note = (
        f"A step in the steady state (median of the rounds), and what the simulation says from "
        f"unit times of the same run, with the division that ran: timed by both processes at "
        f"once, each the units of its own part, or by one while the other waits. Between processes "
        f"{found['bandwidth'] / 1e9:.1f} GB/s and {1e6 * found['latency']:.0f} µs, measured too."
    )
    return header, table, note


def summary(found: Row) -> str:
    """Return the fastest local contender in one sentence."""
    rows = found["rows"]
    best = min(
        (row for row in rows if row["kind"] == "local" and row["processes"] > 1),
        key=lambda row: float(row["seconds"]["steady"]["mean"]),
    )
    against = [
        (best["one_process"], "itself in one process"),
        ("BP, 2 threads", "BP in one process of two threads"),
        ("DDP", "DDP"),
        (fastest(rows)["name"], f"the fastest pipeline ({fastest(rows)['name']})"),
    ]
    told = ", ".join(f"{_ratio(best, name)} times as fast as {what}" for name, what in against)
    where = f"{found['network']} in two processes of one thread, batch {found['batch']}"
    return f"{where}: {best['name']} is {told}."


def pipelines(rows: list[Row]) -> list[Row]:
    """Return the pipelines of BP."""
    return [row for row in rows if row["kind"] == "pipeline"]


def fastest(rows: list[Row]) -> Row:
    """Return the pipeline with the shortest step."""
    return min(pipelines(rows), key=lambda row: float(row["seconds"]["steady"]["mean"]))


def spread(value: Row, digits: int) -> str:
    """Return mean and standard deviation as text."""
    mean = f"{value['mean']:.{digits}f}"
    return mean if value["std"] is None else f"{mean} ± {value['std']:.{digits}f}"


def shares(values: list[float | None]) -> str:
    """Return each process's share in per cent."""
    return " / ".join("-" if value is None else f"{100 * value:.0f}" for value in values)


def _ratio(row: Row, name: str | None) -> str:
    found = row["speed_up"].get(name)
    return "-" if found is None else spread(found["steady"], 2)


PARTS: dict[str, Callable[[Row], Table]] = {"": speed, "-costs": costs, "-simulated": simulated}
