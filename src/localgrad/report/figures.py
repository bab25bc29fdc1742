"""The figures of a comparison. Each takes rules and returns the text of an ``<svg>``.

They are 380 pixels wide, which is both a phone's width and half of a desktop page: the same
drawing serves both with letters of a readable size.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from localgrad.report import pareto
from localgrad.report.labels import place, shortened
from localgrad.report.memory_time import Panel, Point, draw
from localgrad.report.memory_time import name as name_points
from localgrad.report.palette import token
from localgrad.report.rules import Rule
from localgrad.report.strokes import epochs, line, percent
from localgrad.report.svg import inline, plot, sheet
from localgrad.report.tables import mebibytes, ratio

WIDTH, HEIGHT = 380, 280


def curves(found: Sequence[Rule], name: str = "curves") -> Markup:
    """Test accuracy over the epochs, a line per rule."""
    figure, axes = plot(WIDTH, HEIGHT)
    lines = [percent(rule.curve(lambda entry: entry.test_accuracy)) for rule in found]
    for rule, points in zip(found, lines, strict=True):
        line(axes, points, rule.look)
    # The first epochs are low for every rule and would flatten what is to be compared.
    settled = [value for points in lines for _, value in points[len(points) // 8 :]]
    if settled:
        low = min(value.mean for value in settled)
        high = max(value.mean + (value.std or 0) for points in lines for _, value in points)
        axes.set_ylim(low - 0.08 * (high - low) - 0.2, high + 0.05 * (high - low) + 0.2)
    for drawn in axes.lines:
        drawn.set_clip_on(True)
    epochs(axes)
    axes.set_ylabel("Test accuracy, %")
    several = any(value.std is not None for points in lines for _, value in points)
    bands = "; bands are one standard deviation over seeds" if several else ""
    text = f"One line for each of {len(found)} rules{bands}."
    return inline(figure, name, "Test accuracy over epochs", text)


def exits(found: Sequence[Rule], name: str = "exits") -> Markup | None:
    """Accuracy of each block's own classifier against the depth at which it sits."""
    lines = [(rule, rule.exits()) for rule in found]
    if not any(len(points) > 1 for _, points in lines):
        return None
    figure, axes = plot(WIDTH, HEIGHT)
    for rule, points in lines:
        placed = [(_depth(rule, k), value) for k, value in points]
        line(axes, percent(placed), rule.look, every=1 if len(points) <= 20 else 6)
    axes.set_xlim(0, 102)
    axes.set_xlabel("Depth of the exit, % of the network's units")
    axes.set_ylabel("Test accuracy, %")
    text = "One line per rule; a point is the classifier of one block, the last is the network's."
    return inline(figure, name, "Accuracy of every block's exit", text)


def _depth(rule: Rule, loss: int) -> float:
    """Percent of the units that come before the exit; even steps where the reach is unknown."""
    reach = rule.reach
    if reach is not None and len(reach.losses) == rule.blocks and loss < rule.blocks:
        unit = reach.last_unit(loss)
        if unit is not None:
            return 100 * (unit + 1) / len(reach.units)
    return 100 * (loss + 1) / max(rule.blocks, loss + 1)


def memory(found: Sequence[Rule], name: str = "memory") -> Markup | None:
    """Bars of the peak activation memory, each under its label."""
    sizes = [(rule, rule.number("peak_activation_bytes")) for rule in found]
    known = [(rule, size) for rule, size in sizes if size is not None and size.mean > 0]
    if not known:
        return None
    figure = sheet(WIDTH, 40 * len(known))
    axes = figure.add_axes((0, 0, 1, 1))
    longest = max(size.mean for _, size in known)
    axes.set(xlim=(0, longest), ylim=(len(known) - 0.5, -0.5))
    axes.set_axis_off()
    for row, (rule, size) in enumerate(known):
        kept = rule.look.family.name == "checkpoint"
        axes.barh(row + 0.22, longest, 0.3, color=token("line"), alpha=0.45)
        axes.barh(
            row + 0.22,
            size.mean,
            0.3,
            color=rule.look.colour,
            edgecolor=token("page") if kept else rule.look.colour,
            linewidth=0,
            hatch="///" if kept else None,
        )
        relative = rule.ratio("activation_memory")
        times = "" if relative is None else f"  ·  {ratio(relative)} \N{MULTIPLICATION SIGN} BP"
        axes.text(0, row - 0.18, shortened(rule.label, 30), va="center", weight="bold")
        axes.text(longest, row - 0.18, mebibytes(size) + " MiB" + times, va="center", ha="right")
    text = "; ".join(f"{rule.label} {mebibytes(size)} MiB" for rule, size in known)
    return inline(figure, name, "Peak activation memory", text)


def tradeoff(found: Sequence[Rule], name: str = "tradeoff") -> Markup | None:
    """Test accuracy against peak activation memory, a labelled point per rule."""
    pairs = [
        (rule, rule.number("peak_activation_bytes"), rule.number("test_accuracy")) for rule in found
    ]
    known = [(rule, x.mean / 2**20, y) for rule, x, y in pairs if x and y and x.mean > 0]
    if len(known) < 2:
        return None
    figure, axes = plot(WIDTH, HEIGHT)
    axes.grid(axis="x")
    sizes = [x for _, x, _ in known]
    wide = max(sizes) > 6 * min(sizes)
    if wide:
        axes.set_xscale("log", base=2)
        axes.set_xlim(min(sizes) / 1.5, max(sizes) * 1.5)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
    else:
        axes.set_xlim(0, max(sizes) * 1.12)
    for rule, x, y in known:
        look = rule.look
        axes.errorbar(x, 100 * y.mean, 100 * (y.std or 0), color=look.colour, linewidth=1.4)
        axes.plot(
            x,
            100 * y.mean,
            color=look.colour,
            linestyle="none",
            marker=look.family.marker,
            markersize=8,
            markerfacecolor=token("page") if look.hollow else look.colour,
            markeredgecolor=look.colour,
            markeredgewidth=1.5,
        )
    axes.margins(y=0.14)
    axes.set_xlabel("Peak activation memory, MiB" + (" (each step doubles)" if wide else ""))
    axes.set_ylabel("Test accuracy, %")
    place(figure, axes, [(x, 100 * y.mean, shortened(rule.label, 24)) for rule, x, y in known])
    text = "Up is more accurate, left needs less memory."
    return inline(figure, name, "Accuracy against memory", text)


def front(found: Sequence[Rule], name: str = "front") -> Markup | None:
    """Peak memory against the time of a step, BP being at (1, 1), with the Pareto front."""
    timed = any(rule.ratio("time") for rule in found)
    placed = [
        (rule, rule.ratio("time" if timed else "flops"), rule.ratio("memory")) for rule in found
    ]
    points = [
        Point(rule.label, rule.look, cost.mean, 0.0, memory.mean)
        for rule, cost, memory in placed
        if cost and memory
    ]
    if len(points) < 2:
        return None
    cost_name = "Time of an image ÷ BP" if timed else "FLOPs of an image ÷ BP"
    panel = Panel("", points, cost_name, "Peak memory ÷ BP")
    figure, axes = plot(WIDTH, HEIGHT)
    draw(axes, panel)
    name_points(figure, axes, panel)
    best = {points[index].label for index in pareto.front([(p.cost, p.memory) for p in points])}
    text = f"Left is faster, down needs less memory. On the front: {', '.join(sorted(best))}."
    return inline(figure, name, "Peak memory against time", text)


def early_exits(found: Sequence[Rule], name: str = "early-exits") -> Markup | None:
    """Accuracy of each block's head against the compute that an answer from it takes."""
    lines = [(rule, rule.early_exits()) for rule in found]
    if not any(len(points) > 1 for _, points in lines):
        return None
    figure, axes = plot(WIDTH, HEIGHT)
    for rule, points in lines:
        line(axes, percent(points), rule.look, every=1 if len(points) <= 20 else 6)
    axes.set_xlim(left=0)
    axes.set_xlabel("FLOPs of an answer, % of the whole network's")
    axes.set_ylabel("Test accuracy, %")
    text = "One line per rule; a point is an answer from one block's head, the last the network's."
    return inline(figure, name, "Heads as early exits", text)
