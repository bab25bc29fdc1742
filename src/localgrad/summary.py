"""A chain as a table: units, parameters, output shapes, blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from localgrad.chain import Chain


def summary(chain: Chain) -> str:
    """Return the table that ``print(chain)`` shows.

    The title counts the legal cuts, of which the units take some; ``block`` is there for the
    chain of a learner, ``output`` (without the batch dimension) where an example is known.
    """
    units = [*chain.units, chain.tail]
    shapes = [str(tuple(shape)) for shape in chain.outputs] or [""] * len(units)
    counts = [sum(p.numel() for p in unit.parameters()) for unit in units]
    blocks = [str(_block(u, chain.ends)) if chain.ends else "" for u in range(len(units))]
    rows = [("block", "unit", "parameters", "output")]
    rows += [
        (block, unit.name, f"{count:,}", shape)
        for block, unit, count, shape in zip(blocks, units, counts, shapes, strict=True)
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    shown = [i for i in range(4) if any(row[i] for row in rows[1:])]
    lines = []
    for row in rows:
        cells = [
            row[i].rjust(widths[i]) if i == 2 else row[i].ljust(widths[i]) for i in shown
        ]  # fmt: skip
        lines.append("  " + "  ".join(cells).rstrip())
    total = sum(p.numel() for p in chain.model.parameters())
    title = (
        f"{type(chain.model).__name__}: {len(chain)} units and a tail, {chain.legal_cuts} legal "
        f"cuts, {total:,} parameters"
    )
    return "\n".join([title, *lines])


def _block(unit: int, ends: tuple[int, ...]) -> int:
    """Return the block that holds a unit; the tail belongs to the last one."""
    return next((k for k, end in enumerate(ends) if unit < end), len(ends) - 1)
