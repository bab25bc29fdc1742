"""How a rule's line looks: swatch, mean, band, marker."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.markers import MarkerStyle
from matplotlib.patches import PathPatch
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D

from localgrad.report.palette import Look, token
from localgrad.report.rules import Spread
from localgrad.report.svg import inline, sheet

Points = Sequence[tuple[float, Spread]]


def swatch(look: Look) -> Markup:
    """A short piece of a rule's line with its marker, for tables and legends."""
    figure = sheet(30, 12)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, 30), ylim=(0, 12))
    axes.plot([2, 28], [6, 6], color=look.colour, linewidth=2, dashes=look.dashes, clip_on=False)
    shape = MarkerStyle(look.family.marker)
    to_middle = Affine2D(shape.get_transform().get_matrix()).scale(8).translate(15, 6)
    axes.add_patch(
        PathPatch(
            shape.get_path().transformed(to_middle),
            facecolor=token("page") if look.hollow else look.colour,
            edgecolor=look.colour,
            linewidth=1.5,
            clip_on=False,
        )
    )
    return inline(figure, "swatch")


def line(axes: Axes, points: Points, look: Look, every: int = 0) -> None:
    """Mean as a line, one standard deviation around it as a band.

    A marker stands on every ``every``-th point, and always on the last one.
    """
    if not points:
        return
    x = [at for at, _ in points]
    mean = [value.mean for _, value in points]
    marked = sorted({*(range(0, len(x), every) if every else ()), len(x) - 1})
    if any(value.std for _, value in points):
        low = [value.mean - (value.std or 0) for _, value in points]
        high = [value.mean + (value.std or 0) for _, value in points]
        axes.fill_between(x, low, high, color=look.colour, alpha=0.16, linewidth=0)
    axes.plot(
        x,
        mean,
        color=look.colour,
        linewidth=1.8,
        dashes=look.dashes,
        marker=look.family.marker,
        markersize=7.5 if look.hollow else 6,
        markeredgewidth=1.4,
        markerfacecolor=token("page") if look.hollow else look.colour,
        markevery=marked,
        clip_on=False,
        zorder=3 if look.hollow else 3.1,
    )


def percent(points: Points) -> Points:
    """The same points in percent."""
    return [
        (at, Spread(v.mean * 100, None if v.std is None else v.std * 100, v.n)) for at, v in points
    ]


def epochs(axes: Axes) -> None:
    """Epochs along the bottom, at whole numbers."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, steps=[1, 2, 5, 10]))
    axes.set_xlabel("Epoch")
    axes.margins(x=0.02)
