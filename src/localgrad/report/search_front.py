"""What a search found: accuracy against cost, with the front, as a figure in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from localgrad.errors import LocalgradError
from localgrad.report import fields
from localgrad.report.labels import place
from localgrad.report.palette import token
from localgrad.report.svg import plot, write_picture

WIDTH, HEIGHT = 640, 440
_COSTS = {
    "memory": ("memory_bytes", 2**20, "Predicted peak memory of a step, MiB"),
    "none": ("memory_bytes", 2**20, "Predicted peak memory of a step, MiB"),
    "flops": ("flops", 1e9, "FLOPs of a step, G"),
    "time": ("step_seconds", 1e-3, "Time of a step, ms"),
}


@dataclass(frozen=True)
class _Point:
    cost: float
    accuracy: float
    label: str
    best: bool
    baseline: bool


def write_search_front(found: Mapping[str, object], path: str | Path) -> None:
    """Draw the trials that came to their end: accuracy on held-out training images against cost.

    Points of the front are filled and joined by steps; crosses are what the search began with.

    Args:
        found: what ``search.json`` holds: ``cost``, ``trials`` and ``front``.
        path: ends in ``.svg`` (light or dark as the reader's system is) or ``.png`` (light).

    Raises:
        LocalgradError: the path ends in something else, or no trial came to its end; nothing is
            written.
    """
    kind = fields.text(found, "cost", "search")
    key, unit, axis = _COSTS[kind]
    best = set(fields.sequence(fields.get(found, "front", "search"), "front"))
    points = [
        _point(fields.mapping(row, "trial"), key, unit, best)
        for row in fields.sequence(fields.get(found, "trials", "search"), "trials")
        if fields.mapping(row, "trial").get("state") == "complete"
    ]
    if not points:
        raise LocalgradError("nothing to draw: no trial came to its end")
    epochs = fields.whole(found, "epochs", "search")
    text = "A point is a decoupling; left costs less, up is more accurate. The steps go "
    text += "through what nothing else beats in both; crosses are cuts made without a search."
    write_picture(path, "Accuracy against cost", text, lambda: _figure(points, axis, epochs))


def _point(row: Mapping[str, object], key: str, unit: float, best: set[object]) -> _Point:
    cost, accuracy = (fields.number(row, name, "trial") for name in (key, "accuracy"))
    assert cost is not None
    assert accuracy is not None
    name = row.get("name")
    label = str(name) if name else f"K={row.get('blocks')}"
    return _Point(cost / unit, 100 * accuracy, label, row.get("trial") in best, bool(name))


def _figure(points: Sequence[_Point], axis: str, epochs: int) -> Figure:
    figure, axes = plot(WIDTH, HEIGHT)
    axes.grid(axis="x")
    found = token("c-backlink")
    for point in points:
        colour = found if point.best else token("muted")
        axes.plot(
            point.cost,
            point.accuracy,
            color=colour,
            linestyle="none",
            marker="X" if point.baseline else "o",
            markersize=8,
            markerfacecolor=colour if point.best else token("page"),
            markeredgecolor=colour,
            markeredgewidth=1.3,
            zorder=3 if point.best else 2,
        )
    axes.margins(x=0.08, y=0.1)
    _steps(axes, [point for point in points if point.best])
    axes.set_xlabel(axis)
    axes.set_ylabel(f"Accuracy on held-out training images after {epochs} epochs, %")
    shown = [point for point in points if point.best or point.baseline]
    place(figure, axes, [(point.cost, point.accuracy, point.label) for point in shown])
    return figure


def _steps(axes: Axes, best: Sequence[_Point]) -> None:
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    ordered = sorted(best, key=lambda point: point.cost)
    cost = [ordered[0].cost, *(point.cost for point in ordered), right]
    accuracy = [low, *(point.accuracy for point in ordered), ordered[-1].accuracy]
    axes.plot(
        cost,
        accuracy,
        color=token("muted"),
        linewidth=1.2,
        dashes=(4, 3),
        drawstyle="steps-post",
        zorder=1,
    )
    axes.set(xlim=(left, right), ylim=(low, high))
