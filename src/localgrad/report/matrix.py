"""The reach matrix as a figure: rows are losses, columns are units."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from localgrad.report.palette import Look, looks, token
from localgrad.report.reach import Reach, read_reach
from localgrad.report.svg import alone, drawing, inline, sheet

_WIDTH = 320
_FEW = 20


def matrix(reach: Reach, look: Look, label: str, name: str) -> Markup:
    """One rule's reach, for a page; see :func:`_drawn`."""
    figure, text = _drawn(reach, look)
    return inline(figure, name, f"Reach of {label}", text)


def write_matrix(reach: Mapping[str, object], method: str, label: str, path: pathlib.Path) -> None:
    """Write a reach as an SVG picture, light or dark as the reader's system is.

    Args:
        reach: as :meth:`localgrad.Reach.to_dict` gives it.
        method: whose colour it has.
        label: of what it is the reach.
        path: of the file.
    """
    with drawing():
        figure, text = _drawn(read_reach(reach, "reach"), looks([(method, label)])[0])
        path.write_text(alone(figure, f"Reach of {label}", text), encoding="utf-8")


def _drawn(reach: Reach, look: Look) -> tuple[Figure, str]:
    """The figure and what it shows: filled where it is as declared, open where no gradient came,
    crossed or solid in the violation's colour where a gradient was not declared.
    """
    rows, columns = len(reach.losses), len(reach.units)
    losses, noun = _names(reach.losses)
    letters = max((len(text) for text in _ticks(losses)), default=1) + (2 if noun else 0)
    left = 14 + 6.2 * min(letters, 10)
    top = 12 + (6.4 * min(max(len(u) for u in _ticks(reach.units)), 10) if columns else 0)
    cell = (_WIDTH - left - 4) / max(columns, 1)
    # Two blocks must not give cells as large as a thumb, nor a single loss a mere hairline.
    tall = max(min(cell, 24), 12 if rows <= 4 else 0)
    height = top + tall * rows + 18
    figure = sheet(_WIDTH, height)
    axes = figure.add_axes(
        (left / _WIDTH, 18 / height, cell * columns / _WIDTH, tall * rows / height)
    )
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0, pad=2, labelsize=10)
    axes.xaxis.tick_top()
    axes.set_xticks(*positions(reach.units), rotation=90)
    axes.set_yticks(*positions(losses))
    axes.set_ylabel(noun, fontsize=10, labelpad=3)
    axes.set_xlabel("units, input to output →", labelpad=4, fontsize=10)
    axes.xaxis.set_label_position("bottom")
    cells = list(reach.cells())
    gap = min(0.9, 0.07 * cell) / tall
    filled = [_box(r, c, gap, cell / tall) for r, c, state in cells if state == "agree"]
    hollow = [
        _box(r, c, 0.6 / tall + gap, cell / tall) for r, c, state in cells if state == "missing"
    ]
    wrong = [(r, c) for r, c, state in cells if state == "violation"]
    axes.add_collection(_lattice(rows, columns))
    style = {"clip_on": False, "linewidth": 0}
    if filled:
        axes.add_patch(PathPatch(_joined(filled), facecolor=look.colour, **style))
    if hollow:
        edge = {"facecolor": "none", "edgecolor": look.colour, "linewidth": 1.2, "clip_on": False}
        axes.add_patch(PathPatch(_joined(hollow), **edge))
    if wrong:
        small = cell < 8
        boxes = [_box(r, c, -0.12 if small else 0.0, cell / tall) for r, c in wrong]
        axes.add_patch(PathPatch(_joined(boxes), facecolor=token("violation"), zorder=4, **style))
        # A cross would hide a cell of a few pixels: those are solid and larger than the others.
        cross = [
            stroke
            for r, c in ([] if small else wrong)
            for stroke in (
                [(c + 0.25, r + 0.25), (c + 0.75, r + 0.75)],
                [(c + 0.25, r + 0.75), (c + 0.75, r + 0.25)],
            )
        ]
        width = max(0.8, min(2.2, tall / 8))
        axes.add_collection(
            LineCollection(cross, colors=token("page"), linewidths=width, zorder=5, clip_on=False)
        )
    agree, missing = reach.count("agree"), reach.count("missing")
    text = (
        f"{rows} losses by {columns} units: {agree} cells agree, {len(wrong)} violations, "
        f"{missing} declared without a gradient."
    )
    return figure, text


def _ticks(names: Sequence[str]) -> list[str]:
    return [name if len(name) <= 10 else name[:9] + "…" for name in names]


def _names(names: Sequence[str]) -> tuple[Sequence[str], str]:
    """The names beside the rows, and the word that many of them share ("loss 12"), set apart."""
    if names and all(name.isdigit() for name in names):
        return names, "loss"
    word = names[0].partition(" ")[0] + " " if names else ""
    if len(names) <= _FEW or not all(name.startswith(word) for name in names):
        return names, ""
    return [name.removeprefix(word) for name in names], word.strip()


def positions(names: Sequence[str]) -> tuple[list[float], list[str]]:
    """Tick positions and names: all of a few, about every twelfth of many."""
    step = 1 if len(names) <= _FEW else 5 if len(names) <= 60 else 10
    shown = range(0, len(names), step)
    return [index + 0.5 for index in shown], [_ticks(names)[index] for index in shown]


def _box(row: int, column: int, gap: float, stretch: float) -> list[tuple[float, float]]:
    x0, x1 = column + gap / stretch, column + 1 - gap / stretch
    return [(x0, row + gap), (x1, row + gap), (x1, row + 1 - gap), (x0, row + 1 - gap)]


def _joined(boxes: Sequence[list[tuple[float, float]]]) -> Path:
    """All boxes as one path, which keeps a 55 x 56 matrix small."""
    corners = [point for box in boxes for point in [*box, box[0]]]
    codes = [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY] * len(boxes)
    return Path(corners, codes)


def _lattice(rows: int, columns: int) -> LineCollection:
    """Every border of few cells; every fifth of many, which a full lattice would turn grey."""
    across, down = 5 if rows > _FEW else 1, 5 if columns > _FEW else 1
    lines = [[(0, row), (columns, row)] for row in [*range(0, rows, across), rows]]
    lines += [[(column, 0), (column, rows)] for column in [*range(0, columns, down), columns]]
    return LineCollection(lines, colors=token("line"), linewidths=0.6, clip_on=False)
