"""Memory against time: what a step of each rule costs on a network, as a figure in a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from localgrad.errors import LocalgradError
from localgrad.report import fields
from localgrad.report.figures import shortened
from localgrad.report.labels import place
from localgrad.report.palette import Look, looks, token
from localgrad.report.pareto import front
from localgrad.report.svg import alone, drawing, png, sheet

WIDTH, HEIGHT = 400, 330  # of a panel, in CSS pixels
SINGLE = (640, 440)  # of a panel alone
_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


@dataclass(frozen=True)
class Point:
    """A rule at a number of blocks.

    Attributes:
        label: the rule, with its number of blocks where the rule stands at several.
        look: colour and marker.
        cost: time of a step, or its FLOPs, BP's being 1.
        spread: standard deviation of the time; 0 where there is none.
        memory: bytes at the peak of a step with its update.
    """

    label: str
    look: Look
    cost: float
    spread: float
    memory: float


@dataclass(frozen=True)
class Panel:
    """The points of one network, and whether their cost is time or FLOPs."""

    title: str
    points: list[Point]
    timed: bool


def write_memory_time(
    panels: Mapping[str, Sequence[Mapping[str, object]]], path: str | Path, columns: int = 2
) -> None:
    """Draw peak memory against step time: a panel a network, a point a rule and number of blocks.

    The dashed steps go through the points that no other beats in both (the Pareto front). Rows
    without a time are placed by their FLOPs.

    Args:
        panels: title to rows, as in the JSON of ``localgrad bench``: ``rule``, ``method``,
            ``blocks``, ``total_bytes``, ``flops_ratio``, and ``time_ratio`` and
            ``time_ratio_std`` where the steps were timed.
        path: ends in ``.svg`` (light or dark as the reader's system is) or ``.png`` (light).
        columns: panels side by side.

    Raises:
        LocalgradError: the path ends in something else, there is nothing to draw, or a key is
            missing; nothing is written.
    """
    path = Path(path)
    if path.suffix not in (".svg", ".png"):
        raise LocalgradError(f"cannot draw {path}: the name must end in .svg or .png")
    read = [_panel(title, rows) for title, rows in panels.items()]
    if not read:
        raise LocalgradError("nothing to draw: no row has both memory and a cost against BP's")
    theme = None if path.suffix == ".svg" else 0
    with drawing(theme):
        figure = _figure(read, columns)
        if theme is not None:
            png(figure, path)
            return
        text = "A point is a rule; left is faster, down needs less memory. The steps go through "
        text += "what nothing else beats in both."
        path.write_text(alone(figure, "Memory against time", text), encoding="utf-8")


def _panel(title: str, rows: Sequence[Mapping[str, object]]) -> Panel:
    timed = any(row.get("time_ratio") is not None for row in rows)
    key = "time_ratio" if timed else "flops_ratio"
    shown = [row for row in rows if row.get(key) is not None]
    if not shown:
        raise LocalgradError(
            f"{title}: no row has a {key.replace('_', ' ')} to BP: nothing to draw"
        )
    rules = [fields.text(row, "rule", title) for row in shown]
    pairs = [
        (fields.text(row, "method", title), rule) for row, rule in zip(shown, rules, strict=True)
    ]
    unique = list(dict.fromkeys(pairs))
    drawn = dict(zip(unique, looks(unique), strict=True))
    points = []
    for row, pair in zip(shown, pairs, strict=True):
        blocks = fields.get(row, "blocks", title)
        several = rules.count(pair[1]) > 1
        cost, memory = (fields.number(row, name, title) for name in (key, "total_bytes"))
        spread = fields.optional(row.get("time_ratio_std"), title) if timed else None
        if cost is not None and memory:
            label = f"{pair[1]} K={blocks}" if several and blocks is not None else pair[1]
            points.append(Point(label, drawn[pair], cost, spread or 0.0, memory))
    return Panel(title, points, timed)


def _figure(panels: Sequence[Panel], columns: int) -> Figure:
    if len(panels) == 1:
        figure, rows, columns = sheet(*SINGLE), 1, 1
    else:
        rows = math.ceil(len(panels) / columns)
        figure = sheet(WIDTH * columns, HEIGHT * rows)
    figure.set_layout_engine("constrained")
    every = [figure.add_subplot(rows, columns, place + 1) for place in range(len(panels))]
    for axes, panel in zip(every, panels, strict=True):
        _points(axes, panel)
    for axes, panel in zip(every, panels, strict=True):  # places are known when all is laid out
        unit, _ = _unit(panel.points)
        spots = [
            (point.cost, point.memory / unit, shortened(point.label, 30)) for point in panel.points
        ]
        place(figure, axes, spots)
    return figure


def _points(axes: Axes, panel: Panel) -> None:
    unit, name = _unit(panel.points)
    axes.grid(axis="both")
    for point in panel.points:
        look, memory = point.look, point.memory / unit
        if point.spread:
            axes.errorbar(
                point.cost, memory, xerr=point.spread, color=look.colour, linewidth=1.2, alpha=0.5
            )
        axes.plot(
            point.cost,
            memory,
            color=look.colour,
            linestyle="none",
            marker=look.family.marker,
            markersize=8,
            markerfacecolor=token("page") if look.hollow else look.colour,
            markeredgecolor=look.colour,
            markeredgewidth=1.5,
            zorder=3,
        )
    pairs = [(point.cost, point.memory / unit) for point in panel.points]
    sizes = [memory for _, memory in pairs]
    if max(sizes) > 4 * min(sizes):
        axes.set_yscale("log", base=2)
        axes.set_ylim(min(sizes) / 2, max(sizes) * 1.5)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
    else:
        axes.set_ylim(0, max(sizes) * 1.12)
    axes.margins(x=0.12)
    _front(axes, pairs)
    axes.set_title(panel.title, fontsize=12, loc="left", color=token("ink"))
    axes.set_xlabel("Time of a step ÷ BP" if panel.timed else "FLOPs of a step ÷ BP")
    axes.set_ylabel(f"Peak memory, {name}")


def _front(axes: Axes, pairs: Sequence[tuple[float, float]]) -> None:
    """Draw the steps above and to the right of which a point is beaten in both."""
    best = [pairs[index] for index in front(pairs)]
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    cost = [best[0][0], *(x for x, _ in best), right]
    memory = [high, *(y for _, y in best), best[-1][1]]
    colour = token("muted")
    axes.plot(
        cost, memory, color=colour, linewidth=1.2, dashes=(4, 3), drawstyle="steps-post", zorder=1
    )
    axes.set(xlim=(left, right), ylim=(low, high))
    axes.annotate(
        "Pareto front",
        (1, best[-1][1]),
        (0, -9),
        axes.get_yaxis_transform(),
        textcoords="offset points",
        ha="right",
        va="top",
        color=colour,
        fontsize=10,
    )


def _unit(points: Sequence[Point]) -> tuple[int, str]:
    most = max(point.memory for point in points)
    return next(pair for pair in _UNITS if most >= 2 * pair[0] or pair is _UNITS[-1])
