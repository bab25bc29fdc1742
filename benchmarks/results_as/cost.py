"""What the library, predictions, compiled steps, freed memory and data cost."""

from __future__ import annotations

from collections.abc import Callable

from results_as.text import RESULTS, markdown, read


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


def waiting_table() -> str:
    """A step where waiting threads spin for long, beside one where they soon sleep."""
    if not (RESULTS / "waiting-cpu.json").exists():
        return "Not measured yet: `python benchmarks/cpu/waiting.py`."
    found = read("waiting-cpu")
    header = [
        "step",
        "busy processes beside it",
        "spinning long, ms",
        "shortly, ms",
        "shortly ÷ long",
    ]
    rows = [
        [
            row["case"],
            str(row["busy_processes"]),
            *(f"{1000 * row[f'{name}_seconds']:,.0f}" for name in ("long", "short")),
            f"{row['ratio']['mean']:.2f} ± {row['ratio']['std']:.2f}",
        ]
        for row in found["rows"]
    ]
    return (
        f"{markdown(header, rows)}\n\n{found['network']}; medians of {found['n']} pairs of "
        f"processes; {found['hardware']}, torch {found['versions']['torch']}; "
        f"{found['date'][:10]}."
    )


TABLES: dict[str, Callable[[], str]] = {
    "data": pipeline_table,
    "overhead": overhead_table,
    "prediction": prediction_table,
    "compiled": compiled_table,
    "freed-memory": freed_memory_table,
    "waiting": waiting_table,
    "budget": budget_table,
}
