"""Maps of numbers from 0 to 1, units along the bottom: similarity, agreement over training."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from localgrad.report.agreements import Agreements
from localgrad.report.analysis import Group, Reference, Values
from localgrad.report.matrix import positions
from localgrad.report.palette import token
from localgrad.report.svg import inline, sheet

_WIDTH = 320
_LEFT, _BOTTOM, _EDGE = 46, 58, 4  # room for names
_LOW = 56  # the least height, that of an axis' own name
STEPS = 20  # shades of a map


def similarity(group: Group, reference: Reference, name: str) -> Markup | None:
    """A map of CKA: rows are the reference's units, columns the rule's."""
    values = group.compared
    if not values:
        return None
    figure, axes = _map(values)
    axes.set_xticks(*positions(group.runs[0].units), rotation=90)
    axes.set_yticks(*positions(reference.units))
    axes.set_xlabel(f"units of {group.label} →", labelpad=3)
    axes.set_ylabel(f"units of {reference.label} →", labelpad=3)
    text = f"{len(values)} by {len(values[0])} units; the stronger, the more alike, from 0 to 1."
    return inline(figure, name, f"CKA of {group.label} with {reference.label}", text)


def over_time(rules: Sequence[tuple[str, Agreements]]) -> list[tuple[str, Markup]]:
    """(label, map of the agreement with BP over training) of the rules that noted it.

    Rows are epochs, columns units.
    """
    return [
        (label, _over_time(label, found, f"time-{i}"))
        for i, (label, found) in enumerate(rules)
        if found
    ]


def _over_time(label: str, found: Agreements, name: str) -> Markup:
    units = list(next(iter(found.values())))
    figure, axes = _map([tuple(cosines.values()) for cosines in found.values()])
    axes.set_xticks(*positions(units), rotation=90)
    axes.set_yticks(*positions([str(epoch) for epoch in found]))
    axes.set_xlabel("units, input to output →", labelpad=3)
    axes.set_ylabel("epochs →", labelpad=3)
    text = f"{len(found)} epochs by {len(units)} units; the stronger, the closer to 1."
    return inline(figure, name, f"Agreement of {label} with BP over training", text)


def _map(values: Sequence[Values]) -> tuple[Figure, Axes]:
    """Draw a matrix from the bottom up; the ink's strength is the value, from 0 to 1.

    All rules have one colour here: a strong value of a light colour would look like a weak one.
    """
    rows, columns = len(values), len(values[0])
    across = _WIDTH - _LEFT - _EDGE
    tall = max(across * min(rows / columns, 1.0), _LOW)
    height = tall + _BOTTOM + _EDGE
    figure = sheet(_WIDTH, height)
    axes = figure.add_axes((_LEFT / _WIDTH, _BOTTOM / height, across / _WIDTH, tall / height))
    # Neighbours of one shade in a row are one thick line, and all lines of a shade one path, so
    # that a map of 55 x 55 stays small.
    shades: dict[int, list[tuple[float, float]]] = {}
    for r, row in enumerate(values):
        start, shade = 0, 0
        for c, value in enumerate([*row, None]):
            new = 0 if value is None else round(STEPS * min(max(value, 0.0), 1.0))
            if new != shade or c == columns:
                if shade:
                    shades.setdefault(shade, []).extend([(start, r + 0.5), (c, r + 0.5)])
                start, shade = c, new
    for shade, ends in sorted(shades.items()):
        path = Path(ends, [Path.MOVETO, Path.LINETO] * (len(ends) // 2))
        face = to_rgba(token("ink"), shade / STEPS)
        axes.add_patch(PathPatch(path, fill=False, edgecolor=face, linewidth=tall / rows))
    axes.set(xlim=(0, columns), ylim=(0, rows))
    axes.tick_params(length=0, pad=2, labelsize=10)
    for side in axes.spines.values():
        side.set_visible(True)
        side.set_color(token("line"))
    return figure, axes
