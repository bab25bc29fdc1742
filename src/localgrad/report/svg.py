"""matplotlib figures as SVG that lives inside a page: its fonts, its colours, no clashing ids.

matplotlib draws with stand-in colours, which are replaced here by the page's CSS variables, so
that a figure follows the reader's light or dark theme.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from localgrad.errors import LocalgradError
from localgrad.report.palette import INKS, STAND_INS, themed, token, variables

_REFERENCE = re.compile(r"#([A-Za-z][\w.-]*)")
_COLOUR = re.compile("|".join(STAND_INS))
_LONG = re.compile(r"-?\d+\.\d{3,}")
# What the page's own style sheet says for every figure.
_FAMILY = re.compile(r"(font: [^;']*)'[^;]*")  # as matplotlib wrote it before 3.11
_DEFAULTS = re.compile(r"font-family: [^;]*(; )?|font-size: 11px(; )?")


def _style() -> dict[Any, object]:
    return {
        "axes.axisbelow": True,
        "axes.edgecolor": token("line"),
        "axes.facecolor": "none",
        "axes.labelcolor": token("muted"),
        "axes.labelpad": 6,
        "axes.labelsize": 11,
        "axes.spines.left": False,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.h_pad": 3 / 72,
        "figure.constrained_layout.w_pad": 3 / 72,
        "figure.dpi": 72,
        "figure.facecolor": "none",
        "font.size": 11,
        "grid.color": token("line"),
        "grid.linewidth": 0.8,
        "hatch.linewidth": 1.6,
        "lines.solid_capstyle": "round",
        "svg.fonttype": "none",
        "svg.hashsalt": "localgrad",
        "text.color": token("ink"),
        "text.parse_math": False,
        "xtick.color": token("line"),
        "xtick.labelcolor": token("muted"),
        "xtick.major.size": 3,
        "ytick.color": token("line"),
        "ytick.labelcolor": token("muted"),
        "ytick.major.size": 0,
    }


@contextmanager
def drawing(theme: int | None = None) -> Iterator[None]:
    """Draw and save figures in here: the user's own matplotlib settings are put back after.

    A theme, light (0) or dark (1), is for what has no style sheet: a picture made of pixels.
    """
    with themed(theme), matplotlib.rc_context(), warnings.catch_warnings():
        # The page's own fonts draw the text; matplotlib only measures it.
        warnings.filterwarnings("ignore", message="Glyph")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_style())
        yield


def sheet(width: float, height: float) -> Figure:
    """An empty figure; sizes are in CSS pixels."""
    return Figure(figsize=(width / 72, height / 72))


def plot(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one set of axes and a light horizontal grid."""
    figure = sheet(width, height)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    axes.grid(axis="y")
    return figure, axes


def inline(figure: Figure, name: str, title: str = "", description: str = "") -> Markup:
    """The figure as an ``<svg>`` element.

    Args:
        figure: drawn and saved within ``drawing()``.
        name: prefix of the ids in the element, unique in the page.
        title: what a screen reader says; a figure without one is hidden from it.
        description: the longer text that goes with it.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(file.getvalue())
    _plain_names(root)
    _own_ids(root, name)
    for element in root.iter():
        for key, value in element.attrib.items():
            element.set(key, _page_style(key, value))
    _thin_out(root)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    if title:
        root.set("role", "img")
        root.set("aria-labelledby", f"{name}-title {name}-text")
        for position, (tag, text) in enumerate((("title", title), ("desc", description))):
            element = ElementTree.Element(tag, id=f"{name}-{'text' if position else 'title'}")
            element.text = text
            root.insert(position, element)
    else:
        root.set("aria-hidden", "true")
    # Safe: every text went through matplotlib or ElementTree, which escape it.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def alone(figure: Figure, title: str, description: str) -> str:
    """The figure as an SVG file: with its own colours, light or dark as the reader's system is."""
    root = ElementTree.fromstring(inline(figure, "figure", title, description))
    width, height = (round(size) for size in figure.get_size_inches() * 72)
    attributes = {"xmlns": "http://www.w3.org/2000/svg", "width": width, "height": height}
    for name, value in attributes.items():
        root.set(name, str(value))
    themes = ["".join(f"--{name}:{value};" for name, value in variables(n)) for n in (0, 1)]
    style = ElementTree.Element("style")
    style.text = (
        f"svg{{--sans:system-ui,sans-serif;font-family:var(--sans);font-size:11px;{themes[0]}}}"
        f"@media (prefers-color-scheme:dark){{svg{{{themes[1]}}}}}"
    )
    page = ElementTree.Element("rect", width="100%", height="100%", fill="var(--page)")
    root[2:2] = [style, page]  # after title and description
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def write_picture(
    path: str | Path, title: str, description: str, draw: Callable[[], Figure]
) -> None:
    """Draw a figure into a file: ``.svg``, light or dark as the reader's system is, or ``.png``.

    Args:
        path: of the file.
        title: what a screen reader says.
        description: the longer text that goes with it.
        draw: makes the figure, within ``drawing()``.

    Raises:
        LocalgradError: the path ends in something else; ``draw`` is not called.
    """
    path = Path(path)
    if path.suffix not in (".svg", ".png"):
        raise LocalgradError(f"cannot draw {path}: the name must end in .svg or .png")
    if path.suffix == ".svg":
        with drawing():
            path.write_text(alone(draw(), title, description), encoding="utf-8")
        return
    with drawing(0):  # two pixels for each CSS pixel, in the light theme
        draw().savefig(path, format="png", dpi=144, facecolor=INKS["page"][0])


def _plain_names(root: ElementTree.Element) -> None:
    """HTML knows what an <svg> is: drop the namespaces."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key in list(element.attrib):
            element.set(key.rpartition("}")[2], element.attrib.pop(key))


def _own_ids(root: ElementTree.Element, name: str) -> None:
    """Number the ids that are referred to under the figure's name; drop the others."""
    ids = {element.get("id") for element in root.iter()}
    used: dict[str, str] = {}
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "href" or "url(#" in value:
                for old in _REFERENCE.findall(value):
                    if old in ids:
                        used.setdefault(old, f"{name}-{len(used)}")
                element.set(key, _REFERENCE.sub(lambda m: "#" + used.get(m[1], m[1]), value))
    for element in root.iter():
        old = element.attrib.pop("id", None)
        if old in used:
            element.set("id", used[old])


def _page_style(key: str, value: str) -> str:
    value = _COLOUR.sub(lambda m: f"var(--{STAND_INS[m[0]]})", value)
    if key == "style":
        value = _DEFAULTS.sub("", _FAMILY.sub(r"\1var(--sans)", value))
    if "scale" not in value and key not in ("id", "href"):
        value = _LONG.sub(lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), value)
    return " ".join(value.split())


def _thin_out(parent: ElementTree.Element) -> None:
    """Drop what draws nothing: metadata, invisible frames, bare groups, white space.

    matplotlib's style element has to go as well: it would apply to the whole page.
    """
    parent.tail = None
    if parent.tag != "text":
        parent.text = None
    if parent.get("transform", "").startswith("rotate(-0 "):
        del parent.attrib["transform"]
    kept: list[ElementTree.Element] = []
    for child in parent:
        if child.tag in ("metadata", "style"):
            continue
        if child.tag == "path" and child.get("style") == "fill: none":
            continue
        _thin_out(child)
        bare = child.tag in ("g", "defs") and not child.attrib
        if not bare or (child.tag == "defs" and len(child)):
            kept.append(child)
        else:
            kept.extend(child)
    parent[:] = kept
