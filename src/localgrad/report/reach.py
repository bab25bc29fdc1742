"""A reach matrix: which unit's parameters each loss was declared to train, and which it did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from localgrad.errors import LocalgradError
from localgrad.report.fields import get, mapping, sequence

Rows = tuple[tuple[bool, ...], ...]


@dataclass(frozen=True)
class Reach:
    """Rows are losses, columns are units; ``declared`` is None where no claim was made."""

    losses: tuple[str, ...]
    units: tuple[str, ...]
    measured: Rows
    declared: Rows | None

    @property
    def names(self) -> tuple[str, ...]:
        """The losses' names for use in a sentence: a bare number is "loss 3"."""
        return tuple(f"loss {name}" if name.isdigit() else name for name in self.losses)

    def cells(self) -> Iterator[tuple[int, int, str]]:
        """(loss, unit, state) of the cells that are not empty.

        The states are ``agree``, ``violation`` (a gradient where none was declared) and
        ``missing`` (declared, but no gradient came).
        """
        for row, measured in enumerate(self.measured):
            for column, found in enumerate(measured):
                claimed = found if self.declared is None else self.declared[row][column]
                if found or claimed:
                    state = "agree" if found and claimed else "violation" if found else "missing"
                    yield row, column, state

    def count(self, state: str) -> int:
        return sum(found == state for _, _, found in self.cells())

    def last_unit(self, loss: int) -> int | None:
        """The deepest unit that the loss trains, which is where its block ends."""
        row = (self.declared or self.measured)[loss]
        return max((unit for unit, trained in enumerate(row) if trained), default=None)

    def sentences(self, state: str) -> list[str]:
        """The cells in a state, one line per loss."""
        found: dict[int, list[str]] = {}
        for row, column, which in self.cells():
            if which == state:
                found.setdefault(row, []).append(self.units[column])
        verb = "trains" if state == "violation" else "leaves out"
        return [f"{self.names[row]} {verb} {', '.join(names)}" for row, names in found.items()]


def merge(found: Sequence[Reach]) -> Reach | None:
    """Union of what was measured over several runs of a rule; the first one's declaration."""
    if not found:
        return None
    first = found[0]
    alike = [r for r in found if (r.losses, r.units) == (first.losses, first.units)]
    measured = tuple(
        tuple(any(r.measured[row][column] for r in alike) for column in range(len(first.units)))
        for row in range(len(first.losses))
    )
    return Reach(first.losses, first.units, measured, first.declared)


def read_reach(value: object, where: str) -> Reach:
    """Check a reach given as plain data: one row per loss, one column per unit."""
    data = mapping(value, where)
    losses = tuple(str(name) for name in sequence(get(data, "losses", where), f"{where}: losses"))
    units = tuple(str(name) for name in sequence(get(data, "units", where), f"{where}: units"))
    declared = get(data, "declared", where)
    shape = len(losses), len(units)
    return Reach(
        losses,
        units,
        _rows(get(data, "measured", where), shape, f"{where}: measured"),
        None if declared is None else _rows(declared, shape, f"{where}: declared"),
    )


def _rows(value: object, shape: tuple[int, int], where: str) -> Rows:
    rows = tuple(
        tuple(bool(cell) for cell in sequence(row, where)) for row in sequence(value, where)
    )
    if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
        raise LocalgradError(f"{where} must have {shape[0]} rows of {shape[1]} cells")
    return rows
