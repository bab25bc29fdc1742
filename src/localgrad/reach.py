"""A reach matrix: which units each loss trains, as measured and as declared."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Reach:
    """Which units each loss trains.

    Args:
        units: column labels; the last one is ``"tail"`` where the model is a chain.
        matrix: measured, ``(losses, units)``, bool.
        declared: what the decoupling says, of the same shape, or None where there is none.
        heads: measured, ``(losses, heads)``, bool; None for a model without heads.
        parameters: for each loss, the names of the parameters that it trains.
        names: for each loss of a step that is not a learner's, what it is and where it is computed,
            such as ``"cross_entropy, train.py:12"``; else empty.
    """

    units: tuple[str, ...]
    matrix: Tensor
    declared: Tensor | None
    heads: Tensor | None
    parameters: tuple[frozenset[str], ...]
    names: tuple[str, ...] = ()

    @property
    def violations(self) -> list[str]:
        """What was measured against what was declared, a sentence each; empty where they agree."""
        found = []
        if self.declared is not None:
            for k, u in (self.matrix != self.declared).nonzero().tolist():
                verb = "trains" if self.matrix[k, u] else "does not train"
                found.append(f"loss {k} {verb} unit {self.units[u]!r}, against its declaration")
        if self.heads is not None:
            for k, h in (self.heads != torch.eye(*self.heads.shape, dtype=torch.bool)).nonzero():
                verb = "trains" if self.heads[k, h] else "does not train"
                found.append(f"loss {int(k)} {verb} head {int(h)}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists: ``losses``, ``units``, ``measured``, ``declared``, ``violations``,
        and ``names`` where the losses have some."""
        named = {"names": list(self.names)} if self.names else {}
        return {
            "losses": [str(k) for k in range(len(self.matrix))],
            "units": list(self.units),
            "measured": self.matrix.tolist(),
            "declared": None if self.declared is None else self.declared.tolist(),
            "violations": self.violations,
            **named,
        }

    def __str__(self) -> str:
        width = max(4, len(str(len(self.matrix) - 1)))
        height = max(len(name) for name in self.units)
        lines = []
        for row in range(height):
            letters = [name.rjust(height)[row] for name in self.units]
            title = "loss" if row == height - 1 else ""
            lines.append(f"{title:>{width}} {' '.join(letters)}")
        for k, reached in enumerate(self.matrix.tolist()):
            expected = reached if self.declared is None else self.declared[k].tolist()
            marks = [_mark(m, d) for m, d in zip(reached, expected, strict=True)]
            lines.append(str(k).rjust(width) + " " + " ".join(marks))
        if self.declared is not None:
            lines.append(f"violations: {len(self.violations)}")
        return "\n".join(lines)

    def plot(self, path: str) -> None:
        """Write the matrix as an SVG picture."""
        size, left, top = 16, 40, 60
        rows, columns = self.matrix.shape
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="11" '
            f'width="{left + columns * size + 8}" height="{top + rows * size + 8}">'
        ]
        for u, name in enumerate(self.units):
            x = left + u * size + 12
            where = f"translate({x},{top - 6}) rotate(-60)"
            parts.append(f'<text transform="{where}">{escape(name)}</text>')
        for k in range(rows):
            y = top + k * size
            parts.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{k}</text>')
            for u in range(columns):
                right = self.declared is None or bool(self.matrix[k, u] == self.declared[k, u])
                fill = "#2a6fbb" if self.matrix[k, u] else "#e8e8e8"
                parts.append(
                    f'<rect x="{left + u * size}" y="{y}" width="{size - 2}" height="{size - 2}" '
                    f'fill="{fill if right else "#d62728"}"/>'
                )
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join([*parts, "</svg>"]) + "\n")


def _mark(measured: bool, declared: bool) -> str:
    if measured == declared:
        return "#" if measured else "."
    return "!" if measured else "?"
