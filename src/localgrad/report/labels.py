"""Labels beside points that run into neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from localgrad.report.palette import token

_SIZE = 11.0
_LETTER = 0.56 * _SIZE
_DISTANCES = (1.0, 2.2, 3.4, 4.6, 5.8)  # from the second on, a thin line leads to the label
# (horizontal, vertical) steps away from the point, the most natural place first.
_PLACES = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]


def place(
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[float, float, str]],
    lines: Sequence[tuple[float, float]] = (),
) -> None:
    """Write each point's label where it covers least; x and y are data coordinates.

    Args:
        figure, axes: where the points are.
        points: x, y and label of each.
        lines: corners of a line of level and upright pieces, which labels stay off.
    """
    FigureCanvasBase(figure).figure.draw_without_rendering()
    frame = axes.get_window_extent()
    spots = [axes.transData.transform((x, y)) for x, y, _ in points]
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in spots]
    corners = [axes.transData.transform(corner) for corner in lines]
    for (x0, y0), (x1, y1) in pairwise(corners):
        taken.append(Bbox([(min(x0, x1) - 2, min(y0, y1) - 2), (max(x0, x1) + 2, max(y0, y1) + 2)]))
    for (x, y), (_, _, label) in zip(spots, points, strict=True):
        width, height = _LETTER * len(label), 1.25 * _SIZE
        boxes: list[tuple[int, float, Bbox]] = []
        for distance in _DISTANCES:
            for right, up in _PLACES:
                middle = x + right * (width / 2 + 9), y + up * 13 * distance
                if up or distance == 1.0:
                    corner = middle[0] - width / 2, middle[1] - height / 2
                    boxes.append((right, distance, Bbox.from_bounds(*corner, width, height)))
        # min takes the first of equals, which is the most natural place.
        right, distance, best = min(boxes, key=lambda found: _cost(found[2], taken, frame))
        taken.append(best)
        # The page's font may be narrower than was reckoned: hold on to the side of the point.
        at, side = {
            1: (best.x0, "left"),
            0: ((best.x0 + best.x1) / 2, "center"),
            -1: (best.x1, "right"),
        }[right]
        middle_y = (best.y0 + best.y1) / 2
        # Inches, unlike pixels, are the same in every resolution.
        inches = figure.dpi_scale_trans
        if distance > 1.0:
            end = best.y0 if best.y0 > y else best.y1
            leader = Line2D(
                [x / figure.dpi, at / figure.dpi],
                [y / figure.dpi, (end if right == 0 else middle_y) / figure.dpi],
                transform=inches,
                color=token("muted"),
                linewidth=0.6,
                zorder=1,
            )
            leader.set_in_layout(False)
            axes.add_artist(leader)
        text = axes.text(
            at / figure.dpi,
            middle_y / figure.dpi,
            label,
            transform=inches,
            ha=side,
            va="center",
            fontsize=_SIZE,
            zorder=2.5,
            bbox={"facecolor": token("page"), "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
        )
        text.set_in_layout(False)  # the axes stay where they were when the labels were placed


def _cost(box: Bbox, taken: Sequence[Bbox], frame: Bbox) -> float:
    """Covered area, with what leaves the frame counted double."""
    outside = box.width * box.height - _overlap(box, frame)
    return round(2 * outside + sum(_overlap(box, other) for other in taken), 3)


def _overlap(one: Bbox, other: Bbox) -> float:
    shared = Bbox.intersection(one, other)
    return 0.0 if shared is None else float(shared.width * shared.height)


def shortened(name: str, length: int) -> str:
    """A label that fits; the table has the whole one."""
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"
