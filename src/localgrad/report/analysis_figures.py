"""The figures of an analysis. Each takes groups of runs and returns the text of an ``<svg>``."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from localgrad.report.analysis import Group, Values
from localgrad.report.figures import HEIGHT, WIDTH
from localgrad.report.palette import token
from localgrad.report.strokes import line, percent
from localgrad.report.svg import inline, plot, sheet

_SIDE = 260
STEPS = 20  # shades of a map


def probes(groups: Sequence[Group], name: str = "probes") -> Markup | None:
    """Accuracy that a linear classifier reads off each unit."""
    lines = [(group, percent(group.curve(lambda run: run.probes))) for group in groups]
    if not any(points for _, points in lines):
        return None
    figure, axes = plot(WIDTH, HEIGHT)
    for group, points in lines:
        line(axes, points, group.look)
    _depth(axes)
    axes.set_ylabel("Accuracy of a linear probe, %")
    return inline(figure, name, "Linear probes", "A line a rule, from the first unit to the last.")


def agreement(groups: Sequence[Group], name: str = "agreement") -> Markup:
    """Cosine between each unit's local gradient and BP's, at the end of training."""
    figure, axes = plot(WIDTH, HEIGHT)
    for group in groups:
        line(axes, group.curve(lambda run: run.agreement), group.look)
    axes.axhline(0, color=token("line"), linewidth=1.2, zorder=1)
    axes.set_ylim(min(-0.05, axes.get_ylim()[0]), 1.03)
    _depth(axes)
    axes.set_ylabel("Cosine with BP's gradient")
    text = "A line a rule, from the first unit to the tail."
    return inline(figure, name, "Agreement with the gradients of BP", text)


def exits(groups: Sequence[Group], name: str = "early-exits") -> Markup | None:
    """Accuracy of each head against the compute that an answer from it takes."""
    found = [
        (group, point) for group in groups for run in group.runs for point in [run.exits] if point
    ]
    if not any(len(points) > 1 for _, points in found):
        return None
    figure, axes = plot(WIDTH, HEIGHT)
    for group, points in found:
        axes.plot(
            [100 * cost for cost, _ in points],
            [100 * accuracy for _, accuracy in points],
            color=group.look.colour,
            dashes=group.look.dashes,
            linewidth=1.4,
            marker=group.look.family.marker,
            markersize=4.5,
            markerfacecolor=token("page") if group.look.hollow else group.look.colour,
        )
    axes.set_xlim(left=0)
    axes.set_xlabel("FLOPs of an answer, % of the whole network")
    axes.set_ylabel("Test accuracy, %")
    text = "A line a run; a point is the head of a block, the last one the network's own output."
    return inline(figure, name, "Heads as early exits", text)


def similarity(group: Group, reference: str, name: str) -> Markup | None:
    """A map of CKA: rows are the reference's units, columns the rule's."""
    values = group.compared
    if not values:
        return None
    figure, axes = _map(values, group.look.colour)
    axes.set_xlabel(f"units of {group.label} →")
    axes.set_ylabel(f"units of {reference} →")
    text = f"{len(values)} by {len(values[0])} units; the darker, the more alike, from 0 to 1."
    return inline(figure, name, f"CKA of {group.label} with {reference}", text)


def over_time(group: Group, name: str) -> Markup | None:
    """A map of the agreement with BP over training: rows are epochs, columns units."""
    values = group.over_time
    if not values:
        return None
    figure, axes = _map(values, group.look.colour)
    axes.set_xlabel("units, input to output →")
    axes.set_ylabel("epochs →")
    text = f"{len(values)} epochs by {len(values[0])} units; the darker, the closer to 1."
    return inline(figure, name, f"Agreement of {group.label} with BP over training", text)


def _map(values: Sequence[Values], colour: str) -> tuple[Figure, Axes]:
    """Draw a matrix from the bottom up; a colour's strength is the value, from 0 to 1."""
    figure = sheet(_SIDE + 30, _SIDE + 30)
    start, length = 28 / (_SIDE + 30), _SIDE / (_SIDE + 30)
    axes = figure.add_axes((start, start, length, length))
    rows, columns = len(values), len(values[0])
    # cells of one shade are one path: a map of 55 x 55 stays small
    shades: dict[int, list[list[tuple[float, float]]]] = {}
    for r, row in enumerate(values):
        for c, value in enumerate(row):
            if value is not None:
                shade = round(STEPS * min(max(value, 0.0), 1.0))
                cell = [(c, r), (c + 1, r), (c + 1, r + 1), (c, r + 1)]
                shades.setdefault(shade, []).append([(float(x), float(y)) for x, y in cell])
    for shade, cells in sorted(shades.items()):
        if shade:
            face = to_rgba(colour, shade / STEPS)
            axes.add_collection(PolyCollection(cells, facecolors=[face], linewidths=0))
    axes.set(xlim=(0, columns), ylim=(0, rows), xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(True)
        side.set_color(token("line"))
    return figure, axes


def _depth(axes: Axes) -> None:
    axes.set_xlim(-2, 102)
    axes.set_xlabel("Depth, % of the network's units")
