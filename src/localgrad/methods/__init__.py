"""The rules: one file a paper; a method is a value that turns a chain into a decoupling.

A method is any object with a ``name`` and a call ``method(chain, cuts) -> Decoupling``, where
``cuts`` holds the end (exclusive unit index) of each block, or is None where the user gave neither
``blocks`` nor ``cuts``. Nothing is registered; the names below are those the command line knows.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any, Protocol, runtime_checkable

from localgrad.chain import Chain
from localgrad.decoupling import Decoupling
from localgrad.errors import LocalgradError
from localgrad.methods.auglocal import AugLocal
from localgrad.methods.backlink import BackLink
from localgrad.methods.backprop import Backprop
from localgrad.methods.bwbpf import BWBPF, DeepSupervision
from localgrad.methods.dgl import DGL
from localgrad.methods.greedy import Greedy
from localgrad.methods.infopro import InfoPro
from localgrad.methods.predsim import PredSim

__all__ = [
    "BWBPF",
    "DGL",
    "AugLocal",
    "BackLink",
    "Backprop",
    "DeepSupervision",
    "Greedy",
    "InfoPro",
    "Method",
    "PredSim",
    "get",
    "label",
    "names",
]


@runtime_checkable
class Method(Protocol):
    """What a local-learning rule is."""

    @property
    def name(self) -> str:
        """What the rule is called; a class variable does."""
        ...

    def __call__(self, chain: Chain, cuts: tuple[int, ...] | None) -> Decoupling:
        """Return the blocks, heads, losses and reach of this rule on ``chain``."""
        ...


KNOWN: dict[str, type[Any]] = {
    cls.name: cls
    for cls in (
        Backprop, Greedy, DGL, PredSim, InfoPro, BackLink, AugLocal, BWBPF, DeepSupervision,
    )
}  # fmt: skip


def names() -> tuple[str, ...]:
    """Return the names of the built-in methods."""
    return tuple(KNOWN)


def get(name: str, **options: Any) -> Method:
    """Make a built-in method by name.

    >>> get("auglocal", depth=3)
    AugLocal(depth=3, tau=0.5)

    Raises:
        LocalgradError: the name or an option is unknown (the near match is named), or an option's
            value is refused.
    """
    check(name, options)
    method: Method = KNOWN[name](**options)
    return method


def check(name: str, options: dict[str, Any]) -> None:
    """Refuse an unknown method or option; the error names the near match."""
    if name not in KNOWN:
        near = difflib.get_close_matches(str(name).lower(), KNOWN, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; choose from {', '.join(KNOWN)}"
        raise LocalgradError(f"unknown method {name!r}{hint}")
    fields = [f.name for f in dataclasses.fields(KNOWN[name])]
    for key in options:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            known = ", ".join(fields) or "none"
            hint = f"; did you mean {near[0]!r}?" if near else f"; its options: {known}"
            raise LocalgradError(f"method {name!r} has no option {key!r}{hint}")


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_short, value))})"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


_SHORT = {"length": "L", "depth": "d"}
_OF_THE_DATA = ("mean", "std")  # facts about the images, not choices


def label(method: Any) -> str:
    """Return a short display name: the class and the options that differ from the defaults.

    >>> label(BackLink(length=1)), label(AugLocal(depth=5)), label(Backprop(checkpoint="unit"))
    ('BackLink L=1', 'AugLocal d=5', 'BP + checkpoint unit')
    >>> label(InfoPro(first=(1.0, 0.5)))
    'InfoPro first=(1, 0.5)'
    """
    if isinstance(method, Backprop):
        return f"BP + checkpoint {method.checkpoint}" if method.checkpoint else "BP"
    shown = []
    for field in dataclasses.fields(method) if dataclasses.is_dataclass(method) else ():
        value = getattr(method, field.name)
        if field.name in _OF_THE_DATA:
            continue
        if field.name in _SHORT:
            shown.append(f"{_SHORT[field.name]}={value}")
        elif value != field.default:
            shown.append(value if isinstance(value, str) else f"{field.name}={_short(value)}")
    return " ".join([type(method).__name__, *shown])
