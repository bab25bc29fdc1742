"""Tables of what networks achieve."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from results_as.text import Row, markdown, network_of, percent, plural, read


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
        f"{network_of(result)} on {result['data']}, first {result['train_images']:,} training "
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
        f"{network_of(result)} on {result['data']}, {result['train_images']:,} windows, "
        f"{plural(result['epochs'], 'epoch')}, batch {result['batch_size']}, tested on "
        f"{result['test_images']:,} windows; {result['hardware']}; {result['date'][:10]}"
    )


def step_rows(network: str) -> list[Row]:
    rows: list[Row] = read(f"step-{network}-cpu")["rows"]
    return rows


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


TABLES: dict[str, Callable[[], str]] = {
    "summary": summary_table,
    "cifar10-resnet20-k4": lambda: accuracy_table("cifar10-resnet20-k4"),
    "cifar10-resnet32-k16": lambda: accuracy_table("cifar10-resnet32-k16"),
    "digits": lambda: accuracy_table("digits-resnet32-k16"),
    "gpt-text": lambda: text_table("gpt-text"),
    "gpt-text-2-epochs": lambda: text_table("gpt-text-2-epochs"),
}
