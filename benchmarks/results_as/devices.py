"""Many devices, on paper."""

from __future__ import annotations

from collections.abc import Callable

from results_as.text import RESULTS, Row, markdown, read

#: Speed-ups on 4, 8 and 16 devices by an event simulation of ResNet-110 made by hand beforehand.
BY_HAND = {
    ("Greedy", 1): (3.9, 7.7, 14.1),
    ("BackLink L=1", 1): (2.7, 5.2, 9.0),
    ("BackLink L=1, late", 1): (3.8, 7.1, 11.8),
    ("1F1B", 8): (2.9, 4.2, 5.4),
    ("1F1B", 32): (3.6, 6.3, 10.1),
}


def devices_result() -> Row | None:
    """Return what benchmarks/cpu/devices.py found; None where it has not run."""
    return read("devices") if (RESULTS / "devices.json").exists() else None


def ways(found: Row) -> dict[tuple[str, str], dict[int, Row]]:
    """Return the rows by rule and by how many blocks it has, then by number of devices."""
    named: dict[tuple[str, str], dict[int, Row]] = {}
    for rule in dict.fromkeys(row["rule"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["rule"] == rule]
        most = max(row["blocks"] for row in rows)
        kinds: dict[str, Callable[[Row], bool]] = {
            "N": lambda row: row["blocks"] == row["devices"],
            "3 N": lambda row: row["blocks"] == 3 * row["devices"],
        }
        if rows[0]["micro_batches"] == 1:
            kinds[str(most)] = lambda row, most=most: row["blocks"] == most  # type: ignore[misc]
        for name, belongs in kinds.items():
            chosen = {row["devices"]: row for row in rows if belongs(row)}
            if chosen:
                named[rule, name] = chosen
    return named


def devices_cells(found: Row, cell: Callable[[Row], str]) -> str:
    """Return a table: a row a way of training, a column a number of devices."""
    counts = sorted({row["devices"] for row in found["rows"]})
    return markdown(
        ["rule", "K", *(f"N = {n}" for n in counts)],
        [
            [rule, each, *(cell(rows[n]) if n in rows else "-" for n in counts)]
            for (rule, each), rows in ways(found).items()
        ],
    )


def devices_setting(found: Row) -> str:
    bp = found["bp_seconds"]
    return (
        f"{found['network']} with 55 units, batch {found['batch']}, fp32, SGD with momentum; units "
        f"timed on one thread: {found['hardware']}, torch {found['versions']['torch']}; BP on one "
        f"device {bp['mean']:.2f} ± {bp['std']:.2f} s; n = {found['n']} rounds of timing; "
        f"{found['bandwidth'] * 8e-9:g} Gbit/s and {1e6 * found['latency']:g} µs between "
        f"neighbours; {found['date'][:10]}"
    )


def devices_table() -> str:
    """Speed-ups and idle shares on many devices, simulated."""
    found = devices_result()
    if found is None:
        return "Not measured yet: `python benchmarks/cpu/devices.py`."
    table = devices_cells(
        found, lambda r: f"{r['speed_up']['mean']:.2f} ({100 * r['idle']['mean']:.0f} %)"
    )
    worst = max(row["speed_up"]["std"] / row["speed_up"]["mean"] for row in found["rows"])
    return (
        f"{table}\n\nSpeed-up over BP on one device, in brackets the mean idle share in the "
        f"steady state. {devices_setting(found)}. Standard deviations are up to "
        f"{100 * worst:.0f} % of the speed-up."
    )


def devices_memory_table() -> str:
    """Bytes of the device that needs and of the one that sends most."""
    found = devices_result()
    if found is None:
        return "Not measured yet: `python benchmarks/cpu/devices.py`."
    table = devices_cells(found, lambda r: f"{r['memory'] / 2**20:,.0f} / {r['sent'] / 2**20:.1f}")
    return (
        f"{table}\n\nMiB of the device that needs most / MiB that the device that sends most sends "
        f"a step. BP on one device: {found['bp_memory'] / 2**20:,.0f} MiB."
    )


def devices_by_hand() -> str:
    """The same beside a simulation made by hand, and the paper's figure for BackLink."""
    found = devices_result()
    if found is None:
        return "Not measured yet: `python benchmarks/cpu/devices.py`."
    rows = {
        (row["rule"].partition(",")[0] if row["micro_batches"] > 1 else row["rule"],
         row["micro_batches"], row["devices"]): row
        for row in found["rows"]
        if row["devices"] == row["blocks"]
    }  # fmt: skip
    lines = []
    for (rule, parts), theirs in BY_HAND.items():
        ours = [rows[rule, parts, n] for n in (4, 8, 16)]
        name = f"{rule}, {parts} micro-batches" if parts > 1 else rule
        for title, values in (
            ("by hand", theirs),
            ("over BP", [row["speed_up"]["mean"] for row in ours]),
            ("over itself", [row["own_speed_up"]["mean"] for row in ours]),
        ):
            lines.append([name, title, *(f"{value:.1f}" for value in values)])
    table = markdown(["rule, K = N", "", "N = 4", "N = 8", "N = 16"], lines)
    linked = [row for row in found["rows"] if row["rule"] == "BackLink L=1"]
    shorter = ", ".join(
        f"{100 - 100 / row['speed_up']['mean']:.0f} % on {row['devices']}"
        for row in linked
        if row["blocks"] == row["devices"]
    )
    return (
        f"{table}\n\nOver itself: the same blocks on one device. BackLink's step is shorter than "
        f"BP's on one device by {shorter} devices."
    )


TABLES: dict[str, Callable[[], str]] = {
    "devices": devices_table,
    "devices-memory": devices_memory_table,
    "devices-by-hand": devices_by_hand,
}
