"""What became of each cut, head and link of a decoupling that was transferred."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from localgrad.decoupling import Link, Part
from localgrad.places import Place


@dataclass(frozen=True)
class BlockReport:
    """One block, before and after.

    Args:
        block: its number.
        source, target: place of its last unit.
        cut: ``"kept"``: the very same part of the stage (or of the network); ``"nearest"``: the
            nearest border to that; ``"moved"``: that one was taken, so the nearest free one;
            ``"end"``: the network's.
        head_before, head: None where the block ends in the network's tail.
        head_is: ``"kept"``: the same kind and options, built for the new shapes; ``"redone"``: the
            rule chose the units that it copies anew; ``"mapped"``: the units that it names were
            carried over; ``"clipped"``: fewer units are left for it; ``"tail"``.
        link: how its loss reaches into the block before it, which stays as it is.
        link_is: ``"kept"``; ``"clipped to N, the whole block"``, where that block now has fewer
            units than the link is long; None where there is no link.
    """

    block: int
    source: Place
    target: Place
    cut: str
    head_before: Part | None
    head: Part | None
    head_is: str
    link: Link | None = None
    link_is: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Report:
    """What became of a decoupling.

    Args:
        blocks: one for each block.
        by: ``"stage"`` or ``"depth"``: what cuts were carried over by.
        notes: what else the reader should know, in sentences.
    """

    blocks: tuple[BlockReport, ...]
    by: str
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        blocks = [block.to_dict() for block in self.blocks]
        return {"by": self.by, "notes": list(self.notes), "blocks": blocks}

    def __str__(self) -> str:
        links = any(block.link is not None for block in self.blocks)
        rows = [["block", "last unit", "becomes", "cut", "head", *(["link"] if links else [])]]
        for each in self.blocks:
            row = [str(each.block), str(each.source), str(each.target), each.cut, _head(each)]
            rows.append([*row, *([_link(each)] if links else [])])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, *self.notes])


def _head(each: BlockReport) -> str:
    if each.head is None or each.head_before is None:
        return "tail"
    if each.head_is == "kept":
        return f"{each.head.name}: kept"
    before, after = (", ".join(part.options["units"]) for part in (each.head_before, each.head))
    return f"{each.head.name}: {each.head_is}, {before} -> {after}"


def _link(each: BlockReport) -> str:
    if each.link is None:
        return "-"
    return f"{each.link.length} {each.link.length_unit}: {each.link_is}"
