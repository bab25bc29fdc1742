"""Write the tables in README and docs anew from benchmarks/results.

    python benchmarks/tables.py            write them
    python benchmarks/tables.py --check    exit 1 where one is not what the results say

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from parallel_step import table as parallel

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = (
    "README.md",
    "docs/results.md",
    "docs/language-models.md",
    "docs/any-network.md",
    "docs/architectures.md",
    "docs/memory-and-speed.md",
    "docs/fast-steps.md",
    "docs/parallel.md",
    "docs/search.md",
    "docs/processes.md",
)
STEPS = ("resnet32", "resnet110", "resnet50", "resnet101", "vit", "gpt2")
FIGURE = ROOT / "docs" / "memory-time.svg"
CHECKS = ("cut", "equal", "greedy", "backlink", "auglocal")
Row = dict[str, Any]


def read(name: str) -> Row:
    found: Row = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def percent(value: Row) -> str:
    mean = f"{100 * value['mean']:.1f}"
    return mean if value["std"] is None else f"{mean} ± {100 * value['std']:.1f}"


def above(row: Row, other: Row) -> str:
    """Return how far a rule is above another, seed by seed, in points."""
    base = dict(zip(other["seeds"], other["test_accuracies"], strict=True))
    pairs = zip(row["seeds"], row["test_accuracies"], strict=True)
    points = [100 * (value - base[seed]) for seed, value in pairs if seed in base]
    mean = f"{statistics.mean(points):+.1f}"
    return mean if len(points) == 1 else f"{mean} ± {statistics.stdev(points):.1f}"


def accuracy(result: Row) -> str:
    rows = result["rows"]
    greedy = next(row for row in rows if row["rule"] == "Greedy")
    header = ["rule", "losses", "n", "test accuracy %", "above Greedy, points"]
    return markdown(
        [*header, "activations ÷ BP", "FLOPs ÷ BP"],
        [
            [
                row["rule"],
                str(row["losses"]),
                str(row["n"]),
                percent(row["test_accuracy"]),
                above(row, greedy),
                f"{row['memory_ratio']:.2f}",
                f"{row['flops_ratio']:.2f}",
            ]
            for row in rows
        ],
    )


def setting(result: Row) -> str:
    return (
        f"{result['network']} on {result['data']}, first {result['train_images']:,} training "
        f"images, {result['epochs']} epochs, batch {result['batch_size']}, tested on "
        f"{result['test_images']:,} images; {result['hardware']}; {result['date'][:10]}"
    )


def accuracy_table(name: str) -> str:
    result = read(name)
    return f"{accuracy(result)}\n\n{setting(result)}."


def bits(row: Row) -> str:
    value = row["bits_per_byte"]
    spread = "" if value["std"] is None else f" ± {value['std']:.3f}"
    return f"{value['mean']:.3f}{spread}"


def text_table(name: str) -> str:
    """How well each rule predicts the next byte, and at what cost."""
    result = read(name)
    header = ["rule", "losses", "n", "bits per byte", "next byte right %"]
    table = markdown(
        [*header, "activations ÷ BP", "FLOPs ÷ BP"],
        [
            [
                row["rule"],
                str(row["losses"]),
                str(row["n"]),
                bits(row),
                percent(row["test_accuracy"]),
                f"{row['memory_ratio']:.2f}",
                f"{row['flops_ratio']:.2f}",
            ]
            for row in result["rows"]
        ],
    )
    return f"{table}\n\n{text_setting(result)}."


def text_setting(result: Row) -> str:
    return (
        f"{result['network']} on {result['data']}, {result['train_images']:,} windows, "
        f"{plural(result['epochs'], 'epoch')}, batch {result['batch_size']}, tested on "
        f"{result['test_images']:,} windows; {result['hardware']}; {result['date'][:10]}"
    )


def plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def step_rows(network: str) -> list[Row]:
    rows: list[Row] = read(f"step-{network}-cpu")["rows"]
    return rows


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


def overhead_table() -> str:
    """The library beside loops written by hand."""
    if not (RESULTS / "overhead-cpu.json").exists():
        return "Not measured yet: `python benchmarks/cpu/overhead.py`."
    found = read("overhead-cpu")
    header = ["network, batch", "rule", "losses", "library, ms", "by hand, ms", "library ÷ by hand"]
    table = markdown(
        header,
        [
            [
                f"{row['network']}, {row['batch']}",
                row["rule"],
                str(row["losses"]),
                f"{1e3 * row['median_seconds']:.1f}",
                f"{1e3 * row['by_hand_seconds']:.1f}",
                f"{row['time_ratio']:.3f} ± {row['time_ratio_std']:.3f}",
            ]
            for row in found["rows"]
        ],
    )
    return (
        f"{table}\n\nA local step without the optimizer's, channels-last, fp32, gradients equal to "
        f"the last bit; median of {found['n']} pairs ± standard deviation; {found['hardware']}; "
        f"{found['date'][:10]}."
    )


def summary_table() -> str:
    """Accuracy, memory, FLOPs and time of each rule side by side."""
    trained = read("cifar10-resnet32-k16")
    costs = {row["rule"]: row for row in step_rows("resnet32")}
    rows = []
    for row in trained["rows"]:
        cost = costs[row["rule"]]
        rows.append(
            [
                row["rule"],
                percent(row["test_accuracy"]),
                f"{cost['memory_ratio']:.2f}",
                f"{cost['flops_ratio']:.2f}",
                f"{cost['time_ratio']:.2f}",
                str(cost["losses"]),
            ]
        )
    header = ["rule", "test accuracy %", "activations ÷ BP", "FLOPs ÷ BP", "time ÷ BP", "losses"]
    n = sorted({row["n"] for row in trained["rows"]})
    seeds = f"n = {n[0]}" if len(n) == 1 else f"n = {n[0]} to {n[-1]}"
    cost = read("step-resnet32-cpu")
    return (
        f"{markdown(header, rows)}\n\nAccuracy: {setting(trained)}; {seeds}. Costs: a step at "
        f"batch {cost['batch']}, channels-last; time: median of {cost['n']} in turn with BP's; "
        f"{cost['hardware']}."
    )


def pipeline_table() -> str:
    """How fast batches come, beside how fast the smallest network here takes them."""
    found = read("data-cpu")
    table = markdown(
        ["images", "images/s"],
        [
            [row["case"], f"{row['images_per_second']:,.0f} ± {row['std']:,.0f}"]
            for row in found["rows"]
        ],
    )
    return (
        f"{table}\n\nThe data pipeline alone (order, crop, flip, normalise), batch "
        f"{found['batch_size']}, fp32, and the training step of BP that it feeds; median of "
        f"{found['n']} epochs ± standard deviation. JPEG images of "
        f"{found['jpeg_bytes'] / 1000:.0f} kB on average, random part resized (training) or "
        "middle (eval), batch 32. Reading and decoding all of CIFAR-10: "
        f"{found['load_seconds']:.1f} s; {found['hardware']}; {found['date'][:10]}."
    )


def passed(row: Row) -> bool:
    return all(row.get(check) is True for check in CHECKS)


def architectures_table() -> str:
    """How many architectures of each library pass, and why the others do not."""
    rows = read("architectures")["rows"]
    libraries: dict[str, list[Row]] = {}
    for row in rows:
        libraries.setdefault(row["name"].partition(":")[0], []).append(row)
    header = ["library", "tried", "cut", "equal", "Greedy", "BackLink", "AugLocal", "all of it"]
    table = markdown(
        header,
        [
            [
                library,
                str(len(group)),
                *(str(sum(row.get(check) is True for row in group)) for check in CHECKS),
                str(sum(map(passed, group))),
            ]
            for library, group in {**libraries, "together": rows}.items()
        ],
    )
    failed = [f"- {row['name']}: {row.get('reason', '')}" for row in rows if not passed(row)]
    why = "\n".join(["The others:", "", *failed]) if failed else "None failed."
    return f"{table}\n\n{why}\n\nOne by one: [architectures](architectures.md)."


def architectures_list() -> str:
    """Every architecture."""
    found = read("architectures")
    header = ["architecture", "units", "legal cuts", "equal", "Greedy", "BackLink", "AugLocal"]
    table = markdown(
        [*header, "note"],
        [
            [
                row["name"],
                str(row.get("units", "")),
                str(row.get("legal_cuts", "")),
                *("yes" if row.get(check) is True else "no" for check in CHECKS[1:]),
                row.get("reason") or (row["how"] if row["how"] != "traced" else ""),
            ]
            for row in found["rows"]
        ],
    )
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{table}\n\n{versions}; {found['date'][:10]}."


def families_table() -> str:
    """VGG, ResNet-18 and a ViT on two data sets."""
    nets = ("vgg11-k8", "resnet18-k9", "vit-k7")
    results = [read(f"{data}-{net}") for data in ("cifar10", "fashion-mnist") for net in nets]
    header = ["data", "network", "rule", "losses", "test accuracy %", "activations ÷ BP"]
    table = markdown(
        [*header, "FLOPs ÷ BP"],
        [
            [
                result["data"],
                result["network"],
                row["rule"],
                str(row["losses"]),
                percent(row["test_accuracy"]),
                f"{row['memory_ratio']:.2f}",
                f"{row['flops_ratio']:.2f}",
            ]
            for result in results
            for row in result["rows"]
        ],
    )
    one = results[0]
    seeds = sorted({row["n"] for result in results for row in result["rows"]})
    return (
        f"{table}\n\nFirst {one['train_images']:,} training images, {one['epochs']} epochs, batch "
        f"{one['batch_size']}, tested on {one['test_images']:,} images; n = "
        f"{' to '.join(map(str, seeds))}; {one['hardware']}; {one['date'][:10]}."
    )


def budget_table() -> str:
    """What the planner chose for each budget, predicted and run for real."""
    if not (RESULTS / "budget.json").exists():
        return "Not measured yet: `python benchmarks/budget.py`."
    found = read("budget")
    header = ["network, batch", "budget, MiB", "÷ BP", "", "option", "losses", "FLOPs ÷ BP"]
    table = markdown(
        [*header, "predicted, MiB", "measured, MiB", "within"],
        [
            [
                f"{row['network']}, {row['batch']}",
                f"{row['budget_bytes'] / 2**20:.1f}",
                f"{row['budget_bytes'] / row['bp_bytes']:.2f}",
                row["role"],
                row["option"],
                str(row["losses"]),
                f"{row['flops_ratio']:.2f}",
                f"{row['predicted_bytes'] / 2**20:.1f}",
                f"{row['measured_bytes'] / 2**20:.1f}",
                "yes" if row["within"] else "no",
            ]
            for row in found["rows"]
        ],
    )
    return f"{table}\n\n{found['hardware']}; {found['date'][:10]}."


def prediction_table() -> str:
    """Predicted memory beside that of real steps."""
    if not (RESULTS / "prediction-cpu.json").exists():
        return "Not measured yet: `python benchmarks/cpu/prediction.py`."
    found = read("prediction-cpu")
    header = ["network, batch, optimizer", "rule", "predicted, MiB", "predicted ÷ measured"]
    table = markdown(
        [*header, "allocated ÷ predicted", "seconds"],
        [
            [
                f"{row['network']}, {row['batch']}, {row['optimizer']}",
                row["rule"],
                f"{row['predicted_bytes'] / 2**20:.1f}",
                f"{row['ratio']:.4f}",
                f"{1 / row['allocated_ratio']:.3f}",
                f"{row['seconds']:.1f}",
            ]
            for row in found["rows"]
        ],
    )
    worst = 100 * max(abs(row["ratio"] - 1) for row in found["rows"])
    return (
        f"{table}\n\nBytes of live tensors at the peak of a whole training step; "
        f"{len(found['rows'])} pairs differ by {worst:.3f} % at the most. Allocated: what the "
        f"CPU's allocator gave out at its peak, operators' workspace included. "
        f"{found['hardware']}, torch {found['versions']['torch']}; {found['date'][:10]}."
    )


def freed_memory_table() -> str:
    """A step where freed memory is kept, beside one where it goes back to the kernel."""
    if not (RESULTS / "freed-memory-cpu.json").exists():
        return "Not measured yet: `python benchmarks/cpu/freed_memory.py`."
    found = read("freed-memory-cpu")
    header = ["rule", "K", "given back, s", "of it in the kernel", "kept, s", "kept ÷ given back",
              "page faults a step", "kept", "resident MiB", "kept"]  # fmt: skip
    rows = []
    for row in found["rows"]:
        back, kept = row["given_back"], row["kept"]
        rows.append([
            row["rule"], str(row["blocks"]), f"{back['seconds']:.2f}",
            f"{back['kernel_seconds']:.2f}", f"{kept['seconds']:.2f}",
            f"{row['ratio']['mean']:.2f} ± {row['ratio']['std']:.2f}",
            *(f"{side['page_faults']:,.0f}" for side in (back, kept)),
            *(f"{side['resident_bytes'] / 2**20:,.0f}" for side in (back, kept)),
        ])  # fmt: skip
    table = markdown(header, rows)
    return (
        f"{table}\n\n{found['network']}, batch {found['batch']}, channels-last; "
        f"{found['n']} pairs of processes of {found['steps']} steps; {found['hardware']}, "
        f"torch {found['versions']['torch']}; {found['date'][:10]}."
    )


def compiled_table() -> str:
    """Compiled steps beside plain ones."""
    layouts = [f"compiled-{layout}-cpu" for layout in ("channels_last", "contiguous_format")]
    files = [read(name) for name in layouts if (RESULTS / f"{name}.json").exists()]
    if not files:
        return "Not measured yet: `python benchmarks/cpu/compiled.py`."
    header = ["rule", "K", "layout", "graphs", "to compile, s", "plain, ms", "compiled ÷ plain"]
    table = markdown(
        header,
        [
            [
                row["rule"],
                str(row["blocks"]),
                row["layout"].replace("_format", "").replace("_", "-"),
                str(row["graphs"]),
                f"{row['compile_seconds']:.0f}",
                f"{1e3 * row['plain_seconds']:.0f}",
                f"{row['time_ratio']:.2f} ± {row['time_ratio_std']:.2f}",
            ]
            for found in files
            for row in found["rows"]
        ],
    )
    found = files[0]
    return (
        f"{table}\n\n{found['rows'][0]['network']}, batch {found['batch']}, with the optimizer's "
        f"step; median of {found['n']} pairs ± standard deviation; {found['hardware']}, torch "
        f"{found['versions']['torch']}; {found['date'][:10]}."
    )


#: Speed-ups on 4, 8 and 16 devices by an event simulation of ResNet-110 made by hand beforehand.
BY_HAND = {
    ("Greedy", 1): (3.9, 7.7, 14.1),
    ("BackLink L=1", 1): (2.7, 5.2, 9.0),
    ("BackLink L=1, late", 1): (3.8, 7.1, 11.8),
    ("1F1B", 8): (2.9, 4.2, 5.4),
    ("1F1B", 32): (3.6, 6.3, 10.1),
}


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


def transfer_result() -> Row | None:
    """Return what benchmarks/cpu/transfer.py found; None where it has not run."""
    return read("transfer") if (RESULTS / "transfer.json").exists() else None


_NO_TRANSFER = "Not measured yet: `python benchmarks/cpu/transfer.py`."


def points(value: Row) -> str:
    std = "" if value["std"] is None else f" ± {100 * value['std']:.1f}"
    return f"{100 * value['mean']:+.1f}{std}"


def transfer_table() -> str:
    """Found decouplings on deeper networks, beside cuts that no search made."""
    found = transfer_result()
    if found is None:
        return _NO_TRANSFER
    header = ["network", "way to cut", "n", "test accuracy %", "found on CIFAR-10 above it, points"]
    bp = {row["network"]: row for row in found["rows"] if row["way"] == "BP"}
    table = markdown(
        [*header, "memory ÷ BP", "FLOPs ÷ BP"],
        [
            [
                row["network"],
                row["way"],
                str(row["n"]),
                percent(row["test_accuracy"]),
                points(row["found_minus_this"]),
                f"{row['memory_bytes'] / bp[row['network']]['memory_bytes']:.2f}",
                f"{row['flops_per_image'] / bp[row['network']]['flops_per_image']:.2f}",
            ]
            for row in found["rows"]
        ],
    )
    used = found["options"]
    return (
        f"{table}\n\n{found['rows'][0]['data']}, first {used['limit']:,} training images, "
        f"{plural(used['epochs'], 'epoch')}, batch {used['batch']}, K = {used['blocks']}, tested "
        f"on {used['test_limit']:,} images; n runs, ± standard deviation; {found['hardware']}; "
        f"{found['date'][:10]}."
    )


def searches_table() -> str:
    """What the searches of the transfer cost."""
    found = transfer_result()
    if found is None:
        return _NO_TRANSFER
    header = ["searched on", "trials", "to the end", "pruned", "over budget or known", "seconds"]
    return markdown(
        [*header, "÷ one full training"],
        [
            [
                one["data"],
                str(sum(one["counts"].values())),
                str(one["counts"]["complete"]),
                str(one["counts"]["pruned"]),
                str(sum(one["left_out"].values())),
                f"{one['seconds']:,.0f}",
                f"{one['seconds'] / one['full_training']['seconds']:.1f}",
            ]
            for one in found["searches"].values()
        ],
    )


def rank_text() -> str:
    """How the short training of a search ranks decouplings."""
    found = transfer_result()
    if found is None:
        return _NO_TRANSFER
    rank = found["rank"]
    rows = [
        [
            {"longer": "a longer training", "short again": "the short training again"}[name],
            f"{one['rho']:.2f}",
            f"{one['p']:.3f}",
        ]
        for name, one in rank["spearman"].items()
    ]
    table = markdown(["short training against", "Spearman's rho", "p"], rows)
    return (
        f"{table}\n\n{rank['decouplings']} random decouplings of ResNet-20; short: "
        f"{plural(rank['proxy']['epochs'], 'epoch')} on {rank['proxy']['images']:,} images; "
        f"longer: {plural(rank['longer']['epochs'], 'epoch')} on {rank['longer']['images']:,}."
    )


def bwbpf_table() -> str:
    """What BWBPF's paper says beside what its released code does."""
    name = "bwbpf-as-published-and-as-released"
    if not (RESULTS / f"{name}.json").exists():
        return f"Not measured yet: `localgrad compare --config recipes/{name}.yaml`."
    result = read(name)
    header = ["rule", "losses", "n", "test accuracy %", "activations ÷ BP", "FLOPs ÷ BP"]
    table = markdown(
        header,
        [
            [
                row["rule"],
                str(row["losses"]),
                str(row["n"]),
                percent(row["test_accuracy"]),
                f"{row['memory_ratio']:.2f}",
                f"{row['flops_ratio']:.2f}",
            ]
            for row in result["rows"]
        ],
    )
    return f"{table}\n\n{setting(result)}."


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
    "summary": summary_table,
    "cifar10-resnet20-k4": lambda: accuracy_table("cifar10-resnet20-k4"),
    "cifar10-resnet32-k16": lambda: accuracy_table("cifar10-resnet32-k16"),
    "digits": lambda: accuracy_table("digits-resnet32-k16"),
    "gpt-text": lambda: text_table("gpt-text"),
    "gpt-text-2-epochs": lambda: text_table("gpt-text-2-epochs"),
    "architectures": architectures_table,
    "architectures-list": architectures_list,
    "families": families_table,
    "data": pipeline_table,
    "memory-time": memory_time_figure,
    "overhead": overhead_table,
    "prediction": prediction_table,
    "compiled": compiled_table,
    "freed-memory": freed_memory_table,
    "budget": budget_table,
    "late-links": late_links_table,
    "devices": devices_table,
    "devices-memory": devices_memory_table,
    "devices-by-hand": devices_by_hand,
    "transfer": transfer_table,
    "transfer-searches": searches_table,
    "transfer-rank": rank_text,
    "bwbpf": bwbpf_table,
    "kills": kills_table,
    "parallel-summary": parallel_summary,
    **{f"parallel{part}": partial(parallel_table, part) for part in parallel.PARTS},
    **{f"bench-{case}": partial(bench_table, case) for case in STEPS},
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
        draw()
    if stale and "--check" in sys.argv:
        sys.exit(f"error: run benchmarks/tables.py: stale tables in {', '.join(stale)}")
    print(f"{'stale' if '--check' in sys.argv else 'renewed'}: {', '.join(stale) or 'none'}")


if __name__ == "__main__":
    main()
