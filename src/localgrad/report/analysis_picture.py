"""An analysis as one picture: gradients, probes, similarity and early exits of all rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from localgrad.report import analysis
from localgrad.report.analysis import Group
from localgrad.report.analysis_figures import (
    draw_agreement,
    draw_alike,
    draw_exits,
    draw_probes,
)
from localgrad.report.palette import token
from localgrad.report.svg import sheet, write_picture

WIDTH, HEIGHT = 860, 640  # in CSS pixels
_PANELS = (draw_agreement, draw_probes, draw_alike, draw_exits)


def write_analysis_picture(data: Mapping[str, object], path: str | Path) -> None:
    """Draw what ``localgrad analyse`` found: a panel a question, a line a rule.

    Args:
        data: content of ``analysis.json``.
        path: ends in ``.svg`` (light or dark as the reader's system is) or ``.png`` (light).

    Raises:
        LocalgradError: the path ends in something else, or a key is missing; nothing is written.
    """
    groups = analysis.read(data)
    text = "Four panels: cosine with BP's gradient, linear probes and similarity along the "
    text += "depth; accuracy of early exits against their FLOPs. A line a rule."
    write_picture(path, "What the networks have learned", text, lambda: _figure(groups))


def _figure(groups: Sequence[Group]) -> Figure:
    figure = sheet(WIDTH, HEIGHT)
    figure.set_layout_engine("constrained")
    for axes, draw in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        axes.grid(axis="y")
        if not draw(axes, groups):
            axes.set_axis_off()
    handles = [
        Line2D(
            [],
            [],
            color=group.look.colour,
            dashes=group.look.dashes,
            marker=group.look.family.marker,
            markersize=6,
            markerfacecolor=token("page") if group.look.hollow else group.look.colour,
            label=group.label,
        )
        for group in groups
    ]
    figure.legend(
        handles=handles, loc="outside upper left", ncols=5, frameon=False, handlelength=2.6
    )
    return figure
