"""Trees of plain values: read from a file, options set by dotted keys, made flat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from localgrad.errors import LocalgradError
from localgrad.experiment.yaml_text import read_yaml


def read_options(path: str | Path) -> dict[str, Any]:
    """Read a file of options; a dotted key, ``data.limit: 100``, stands for a nested one."""
    tree = read_yaml(path)
    for key in [key for key in tree if isinstance(key, str) and "." in key]:
        override(tree, key, tree.pop(key))
    return tree


def override(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set ``a.b.c`` in a nested tree; another rule or network drops the options of the old one.

    >>> tree = {"method": {"name": "auglocal", "depth": 2}}
    >>> override(tree, "method.name", "dgl"); tree
    {'method': {'name': 'dgl'}}
    """
    *path, last = dotted.split(".")
    inner = tree
    for key in path:
        if isinstance(inner.get(key), str) and key in ("method", "network"):
            inner[key] = {"name": inner[key]}
        child = inner.setdefault(key, {})
        if not isinstance(child, dict):
            raise LocalgradError(f"option {dotted!r}: {key!r} holds {child!r}, not options")
        inner = child
    if dotted in ("method.name", "network.name") and inner.get("name") not in (None, value):
        inner.clear()
    inner[last] = value


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested tree by dotted keys.

    >>> flat({"data": {"limit": 5, "name": "digits"}, "seed": 0})
    {'data.limit': 5, 'data.name': 'digits', 'seed': 0}
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inner = flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {}
        found |= inner or {f"{prefix}{key}": value}
    return found
