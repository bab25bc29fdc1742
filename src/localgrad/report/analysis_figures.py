"""The figures of an analysis, from groups of runs: in a page, or as panels of a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes

from localgrad.report.analysis import Group
from localgrad.report.figures import HEIGHT, WIDTH
from localgrad.report.palette import token
from localgrad.report.strokes import line, percent
from localgrad.report.svg import inline, plot

#: Draws on axes; False where the runs have nothing to draw.
Draw = Callable[[Axes, Sequence[Group]], bool]


def draw_probes(axes: Axes, groups: Sequence[Group]) -> bool:
    """Accuracy that a linear classifier reads off each unit."""
    lines = [(group, percent(group.curve(lambda run: run.probes))) for group in groups]
    for group, points in lines:
        line(axes, points, group.look)
    _depth(axes)
    axes.set_ylabel("Accuracy of a linear probe, %")
    return any(points for _, points in lines)


def draw_agreement(axes: Axes, groups: Sequence[Group]) -> bool:
    """Cosine between each unit's local gradient and BP's, at the end of training."""
    for group in groups:
        line(axes, group.curve(lambda run: run.agreement), group.look)
    axes.axhline(0, color=token("line"), linewidth=1.2, zorder=1)
    axes.set_ylim(min(-0.05, axes.get_ylim()[0]), 1.03)
    _depth(axes)
    axes.set_ylabel("Cosine with BP's gradient")
    return True


def draw_exits(axes: Axes, groups: Sequence[Group]) -> bool:
    """Accuracy of each head against the compute that an answer from it takes."""
    found = [
        (group, point) for group in groups for run in group.runs for point in [run.exits] if point
    ]
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
    return any(len(points) > 1 for _, points in found)


def draw_alike(axes: Axes, groups: Sequence[Group]) -> bool:
    """CKA of each unit with the same unit of the reference."""
    lines = [(group, group.alike()) for group in groups]
    for group, points in lines:
        line(axes, points, group.look)
    axes.set_ylim(max(axes.get_ylim()[0], 0.0), 1.01)
    _depth(axes)
    axes.set_ylabel("CKA with the same unit")
    return any(points for _, points in lines)


def probes(groups: Sequence[Group], name: str = "probes") -> Markup | None:
    """Return :func:`draw_probes` as the text of an ``<svg>``."""
    text = "A line a rule, from the first unit to the last."
    return _inline(draw_probes, groups, name, "Linear probes", text)


def agreement(groups: Sequence[Group], name: str = "agreement") -> Markup | None:
    """Return :func:`draw_agreement` as the text of an ``<svg>``."""
    text = "A line a rule, from the first unit to the tail."
    return _inline(draw_agreement, groups, name, "Agreement with the gradients of BP", text)


def exits(groups: Sequence[Group], name: str = "early-exits") -> Markup | None:
    """Return :func:`draw_exits` as the text of an ``<svg>``."""
    text = "A line a run; a point is the head of a block, the last one the network's own output."
    return _inline(draw_exits, groups, name, "Heads as early exits", text)


def alike(groups: Sequence[Group], name: str = "alike") -> Markup | None:
    """Return :func:`draw_alike` as the text of an ``<svg>``."""
    text = "A line a rule, from the first unit to the last."
    return _inline(draw_alike, groups, name, "Similarity unit by unit", text)


def _inline(draw: Draw, groups: Sequence[Group], name: str, title: str, text: str) -> Markup | None:
    figure, axes = plot(WIDTH, HEIGHT)
    return inline(figure, name, title, text) if draw(axes, groups) else None


def _depth(axes: Axes) -> None:
    axes.set_xlim(-2, 102)
    axes.set_xlabel("Depth, % of the network's units")
