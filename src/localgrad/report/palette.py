"""One fixed colour and marker per family of rules, in a light and a dark theme.

The colours were chosen so that any two stay apart in normal vision and under simulated
deuteranopia and protanopia (OKLab distance of at least 0.07), and so that all have a contrast of
3:1 with the page. Marker and dashes repeat what the colour says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A family's name is also the name of its CSS variable, ``--c-NAME``."""

    name: str
    light: str
    dark: str
    marker: str
    words: tuple[str, ...]


# The first family of which a word occurs in the method's name (letters and digits only) wins.
FAMILIES = (
    Family("checkpoint", "#8b939e", "#939ba7", "s", ("checkpoint",)),
    Family("bwbpf", "#046257", "#68d6a3", "D", ("bwbpf",)),
    Family("backlink", "#0b60ea", "#3e75f8", "o", ("backlink",)),
    Family("auglocal", "#d27a00", "#f39030", "^", ("auglocal",)),
    Family("dgl", "#1f1b8f", "#c096fc", "v", ("dgl",)),
    Family("greedy", "#ae389d", "#c23881", "P", ("greedy",)),
    Family("predsim", "#996109", "#faf665", "p", ("predsim",)),
    Family("infopro", "#1f95e0", "#89d0ea", "h", ("infopro",)),
    Family("deep", "#883210", "#aa5905", ">", ("deepsupervision",)),
    Family("bp", "#2f353d", "#e6e8ec", "s", ("backprop", "bp")),
    Family("other", "#6611bb", "#8866bb", "<", ()),
)
INKS = {
    "ink": ("#1b1f24", "#e8eaed"),
    "muted": ("#59616c", "#a3abb6"),
    "line": ("#dcdfe3", "#32373e"),
    "page": ("#fffefb", "#15171a"),
    "panel": ("#f5f4ef", "#1d2024"),
    "violation": ("#bb0055", "#ff4466"),
}
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (7, 2, 1.5, 2))


@dataclass(frozen=True)
class Look:
    """How a rule is drawn; ``variant`` tells the rules of one family apart."""

    family: Family
    variant: int

    @property
    def colour(self) -> str:
        return token(f"c-{self.family.name}")

    @property
    def dashes(self) -> tuple[float, ...]:
        kept = self.family.name == "checkpoint"
        return DASHES[(self.variant + kept) % len(DASHES)]

    @property
    def hollow(self) -> bool:
        turned = self.variant + self.variant // len(DASHES)  # so that eight are told apart
        return turned % 2 == 1 or self.family.name == "checkpoint"


def family(method: str, label: str) -> Family:
    """The family that a rule belongs to, by its method's name."""

    def plain(name: str) -> str:
        return "".join(c for c in name.lower() if c.isalnum())

    names = plain(method), plain(label)
    if "checkpoint" in names[1] and any(word in names[0] for word in ("bp", "backprop")):
        return FAMILIES[0]
    found = (f for name in names for f in FAMILIES if any(w in name for w in f.words))
    return next(found, FAMILIES[-1])


def looks(rules: Iterable[tuple[str, str]]) -> list[Look]:
    """Looks for (method, label) pairs; the variant counts up within a family."""
    seen: dict[str, int] = {}
    made = []
    for method, label in rules:
        found = family(method, label)
        made.append(Look(found, seen.get(found.name, 0)))
        seen[found.name] = made[-1].variant + 1
    return made


def variables(theme: int) -> list[tuple[str, str]]:
    """CSS variables (name, colour) of the light (0) or the dark (1) theme."""
    inks = [(name, pair[theme]) for name, pair in INKS.items()]
    return inks + [(f"c-{f.name}", (f.light, f.dark)[theme]) for f in FAMILIES]


# matplotlib only takes real colours: each variable gets a stand-in, replaced in the finished SVG.
_NAMES = [name for name, _ in variables(0)]
STAND_INS = {f"#a1b2{index:02x}": name for index, name in enumerate(_NAMES)}


_theme: ContextVar[int | None] = ContextVar("theme", default=None)


@contextmanager
def themed(theme: int | None) -> Iterator[None]:
    """In here a colour is that of the light (0) or the dark (1) theme, or (None) a stand-in."""
    kept = _theme.set(theme)
    try:
        yield
    finally:
        _theme.reset(kept)


def token(name: str) -> str:
    """The stand-in colour for a CSS variable; within ``themed(0)`` or ``themed(1)`` its value."""
    theme = _theme.get()
    return f"#a1b2{_NAMES.index(name):02x}" if theme is None else dict(variables(theme))[name]
