"""Peak memory against step time with the Pareto front: panels in a file, or one in a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from localgrad.errors import LocalgradError
from localgrad.report import fields
from localgrad.report.labels import place, shortened
from localgrad.report.palette import Look, looks, token
from localgrad.report.pareto import front
from localgrad.report.svg import sheet, write_picture

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
        memory: at the peak of a step with its update, in the panel's unit.
    """

    label: str
    look: Look
    cost: float
    spread: float
    memory: float


@dataclass(frozen=True)
class Panel:
    """The points of one network, and what the axes show."""

    title: str
    points: list[Point]
    cost: str
    memory: str


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
    read = [_panel(title, rows) for title, rows in panels.items()]
    if not read:
        raise LocalgradError("nothing to draw: no row has both memory and a cost against BP's")
    text = "A point is a rule; left is faster, down needs less memory. The steps go through "
    text += "what nothing else beats in both."
    write_picture(path, "Memory against time", text, lambda: _figure(read, columns))


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
    unit, unit_name = _unit(points)
    points = [replace(point, memory=point.memory / unit) for point in points]
    cost_name = "Time of a step ÷ BP" if timed else "FLOPs of a step ÷ BP"
    return Panel(title, points, cost_name, f"Peak memory, {unit_name}")


def _figure(panels: Sequence[Panel], columns: int) -> Figure:
    if len(panels) == 1:
        figure, rows, columns = sheet(*SINGLE), 1, 1
    else:
        rows = math.ceil(len(panels) / columns)
        figure = sheet(WIDTH * columns, HEIGHT * rows)
    figure.set_layout_engine("constrained")
    every = [figure.add_subplot(rows, columns, place + 1) for place in range(len(panels))]
    for axes, panel in zip(every, panels, strict=True):
        draw(axes, panel)
    for axes, panel in zip(every, panels, strict=True):  # places are known when all is laid out
        name(figure, axes, panel)
    return figure


def name(figure: Figure, axes: Axes, panel: Panel) -> None:
    """Write the points' labels, when all panels of the figure are drawn."""
    spots = [(point.cost, point.memory, shortened(point.label, 30)) for point in panel.points]
    place(figure, axes, spots, _steps(axes, panel))


def draw(axes: Axes, panel: Panel) -> None:
    """Draw a panel's points and the front; :func:`name` adds the labels."""
    axes.grid(axis="both")
    for point in panel.points:
        look, memory = point.look, point.memory
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
    sizes = [point.memory for point in panel.points]
    if max(sizes) > 4 * min(sizes):
        axes.set_yscale("log", base=2)
        axes.set_ylim(min(sizes) / 2, max(sizes) * 1.5)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
    else:
        axes.set_ylim(0, max(sizes) * 1.12)
    axes.margins(x=0.12)
    _front(axes, panel)
    axes.set_title(panel.title, fontsize=12, loc="left", color=token("ink"))
    axes.set_xlabel(panel.cost)
    axes.set_ylabel(panel.memory)


def _steps(axes: Axes, panel: Panel) -> list[tuple[float, float]]:
    """Return the corners of the steps above and right of which a point is beaten in both."""
    pairs = [(point.cost, point.memory) for point in panel.points]
    best = [pairs[index] for index in front(pairs)]
    corners = [(best[0][0], axes.get_ylim()[1]), best[0]]
    for (_, above), (x, y) in pairwise(best):
        corners += [(x, above), (x, y)]
    return [*corners, (axes.get_xlim()[1], best[-1][1])]


def _front(axes: Axes, panel: Panel) -> None:
    corners = _steps(axes, panel)
    x, y = zip(*corners, strict=True)
    limits = axes.get_xlim(), axes.get_ylim()
    colour = token("muted")
    axes.plot(x, y, color=colour, linewidth=1.2, dashes=(4, 3), zorder=1)
    axes.set(xlim=limits[0], ylim=limits[1])
    axes.annotate(
        "Pareto front",
        (1, corners[-1][1]),
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
