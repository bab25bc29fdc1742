"""A decoupling: blocks, heads, losses and reach, as plain data.

A decoupling knows no device and no model; it names units by their labels. It is what a method
returns, what the learner runs, and what a run folder keeps.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localgrad import places, plain_data
from localgrad.errors import LocalgradError
from localgrad.places import Place

FORMAT = 1
TIES = {
    "first": "trained by the first block that uses them, constants in later ones",
    "last": "trained by the last block that uses them, constants in earlier ones",
    "untie": "each block trains a copy of its own",
}


@dataclass(frozen=True)
class Part:
    """A head or a loss: a built-in name, or ``package.module:attribute``, with its options."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, what: str | Part | Callable[..., Any], **options: Any) -> Part:
        """Name ``what``: a built-in's name, a part, or any importable callable.

        >>> Part.of("pool_linear")
        Part(name='pool_linear', options={})
        >>> import json
        >>> Part.of(json.dumps).name
        'json:dumps'
        """
        if isinstance(what, Part):
            return what
        if isinstance(what, str):
            return cls(what, options)
        qualname = getattr(what, "__qualname__", "<unknown>")
        if "<" in qualname:
            raise LocalgradError(
                f"{qualname} cannot be named in a decoupling: define it at the top of a module"
            )
        return cls(f"{what.__module__}:{qualname}", options)

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}({inside})" if inside else self.name


@dataclass(frozen=True)
class Link:
    """How a block's error crosses into the block before it (BackLink).

    Args:
        length: how far it reaches back from the border, in ``length_unit``.
        length_unit: ``"unit"``, or ``"layer"`` (a convolution or linear layer with its norm).
        combine: ``"sum"`` adds the link's gradient to the local one; ``"replace"`` puts it in
            the local one's place.
        weight: factor on the link's gradient.
        keep_error: True keeps the local error at the border until the link arrives; False walks
            back through the head a second time instead, for less memory.
    """

    length: int
    length_unit: str = "unit"
    combine: str = "sum"
    weight: float = 1.0
    keep_error: bool = True

    def problems(self) -> list[str]:
        """Return what is wrong with the values, in words."""
        found = []
        if isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < 0:
            found.append(f"link length {self.length!r} must be a whole number >= 0")
        if self.length_unit not in ("unit", "layer"):
            found.append(f"link length_unit {self.length_unit!r} must be 'unit' or 'layer'")
        if self.combine not in ("sum", "replace"):
            found.append(f"link combine {self.combine!r} must be 'sum' or 'replace'")
        if isinstance(self.weight, bool) or not isinstance(self.weight, int | float):
            found.append(f"link weight {self.weight!r} must be a number")
        elif not math.isfinite(self.weight):
            found.append(f"link weight {self.weight!r} must be finite")
        return found


@dataclass(frozen=True)
class Block:
    """Units ``start`` to ``stop`` (exclusive) with their head, loss and reach.

    Args:
        start, stop: unit indices; equal for a last block that is the network's tail alone.
        head: the auxiliary network; None for the last block, which ends in the network's tail.
        loss: the local loss; ``"task"`` is the loss that ``decouple`` was given.
        link: how this block's loss reaches into the block before it; None: not at all.
        open: True: no gradient is stopped at this block's start, so that its loss also reaches
            whatever the block before reaches.
        checkpoint: None, ``"unit"`` or ``"sqrt"``: recompute activations in backward, unit by
            unit or in about sqrt(n) groups of units.
    """

    start: int
    stop: int
    head: Part | None = None
    loss: Part = Part("task")
    link: Link | None = None
    open: bool = False
    checkpoint: str | None = None


@dataclass(frozen=True)
class Decoupling:
    """Blocks over named units: what the learner runs.

    Args:
        method: the rule's name.
        units: labels in order.
        blocks: in order.
        options: the rule's own.
        ties: which block trains a parameter that several blocks use (tied weights): ``"first"``,
            ``"last"``, or ``"untie"``, which gives each block its own; None: there is none.
        stages: number of units in each stage (:mod:`localgrad.stages`), where known. What is
            trained by what does not depend on it: equal decouplings may differ here.
        source: where it comes from, in words: a paper, or what it was transferred from.

    >>> blocks = (Block(0, 1, Part("pool_linear")), Block(1, 2))
    >>> print(Decoupling("greedy", ("a", "b"), blocks))
    greedy: 2 units, 2 losses
      loss  units  head         local loss  reaches
      0     a      pool_linear  task        a
      1     b      tail         task        b, tail
    """

    method: str
    units: tuple[str, ...]
    blocks: tuple[Block, ...]
    options: dict[str, Any] = field(default_factory=dict)
    ties: str | None = None
    stages: tuple[int, ...] = field(default=(), compare=False)
    source: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        problems = self.problems()
        if problems:
            raise LocalgradError(f"decoupling {self.method!r}: {'; '.join(problems)}")

    def __len__(self) -> int:
        return len(self.blocks)

    def problems(self) -> list[str]:
        """Return everything that is wrong with the blocks, in words; empty where nothing is."""
        if not self.blocks:
            return ["it has no block"]
        found = places.problems(self.stages, self.units)
        if self.ties is not None and self.ties not in TIES:
            found.append(f"ties {self.ties!r} must be one of {', '.join(map(repr, TIES))}")
        position = 0
        for k, block in enumerate(self.blocks):
            last = k == len(self.blocks) - 1
            if block.start != position:
                found.append(f"block {k} starts at unit {block.start}, expected {position}")
            if block.stop < block.start or (block.stop == block.start and not last):
                found.append(f"block {k} is empty")
            if last and block.head is not None:
                found.append(
                    f"block {k} is the last: it ends in the network's tail, without a head"
                )
            if not last and block.head is None:
                found.append(f"block {k} has no head")
            if k == 0 and (block.link or block.open):
                found.append("block 0 has no block before it to reach")
            if block.link and block.open:
                found.append(f"block {k} has a link and an open border: choose one")
            if block.checkpoint not in (None, "unit", "sqrt"):
                found.append(f"block {k}: checkpoint {block.checkpoint!r} must be 'unit' or 'sqrt'")
            if block.link:
                found += [f"block {k}: {text}" for text in block.link.problems()]
            position = block.stop
        if position != len(self.units):
            found.append(f"the blocks end at unit {position}, the network at {len(self.units)}")
        return found

    @property
    def cuts(self) -> list[Place]:
        """Where the cuts are: the place of the last unit before each border."""
        ends = [block.stop for block in self.blocks[:-1]]
        return [Place.at(end - 1, self.units, self.stages) for end in ends]

    def first_reached(self, k: int) -> int:
        """Return the first block whose units loss ``k`` trains without a link."""
        while self.blocks[k].open:
            k -= 1
        return k

    def reach(self, layers: Sequence[int] | None = None) -> list[list[bool]]:
        """Return the declared reach: a row a loss, a column a unit, then one for the tail.

        Args:
            layers: number of layers with weights in each unit, needed where a link's length is
                counted in layers; without it each unit counts as one.
        """
        rows = []
        for k, block in enumerate(self.blocks):
            first = self.first_reached(k)
            row = [self.blocks[first].start <= u < block.stop for u in range(len(self.units))]
            row.append(k == len(self.blocks) - 1)
            rows.append(row)
        for k, row in enumerate(rows):
            first = self.first_reached(k)
            if self.blocks[first].link is not None:
                for u in self.linked_units(first - 1, layers):
                    row[u] = True
        self._replace_local_reach(rows, layers)
        return rows

    def linked_units(self, k: int, layers: Sequence[int] | None = None) -> range:
        """Return the units of block ``k`` that the link of block ``k + 1`` reaches."""
        if k + 1 >= len(self.blocks):
            return range(0)
        block, link = self.blocks[k], self.blocks[k + 1].link
        left = link.length if link else 0
        first = block.stop
        while left > 0 and first > block.start:
            first -= 1
            in_layers = link is not None and link.length_unit == "layer" and layers is not None
            left -= layers[first] if in_layers and layers is not None else 1
        return range(first, block.stop)

    def _replace_local_reach(self, rows: list[list[bool]], layers: Sequence[int] | None) -> None:
        """Where the link takes the local gradient's place, the local loss reaches less."""
        for k in range(len(self.blocks) - 1):
            link = self.blocks[k + 1].link
            if link is None or link.combine != "replace":
                continue
            units = list(self.linked_units(k, layers))
            in_layers = link.length_unit == "layer" and layers is not None
            if in_layers and layers is not None and sum(layers[u] for u in units) > link.length:
                units = units[1:]  # some layers of the first one keep their local gradient
            for row in rows[self.first_reached(k) : k + 1]:
                for u in units:
                    row[u] = False

    def __str__(self) -> str:
        rows = [("loss", "units", "head", "local loss", "reaches")]
        for k, (block, reached) in enumerate(zip(self.blocks, self.reach(), strict=True)):
            columns = [*self.units, "tail"]
            names = [columns[i] for i, yes in enumerate(reached) if yes]
            rows.append(
                (
                    str(k),
                    _span(list(self.units[block.start : block.stop])),
                    str(block.head or "tail"),
                    str(block.loss),
                    _span(names),
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        title = f"{self.method}: {len(self.units)} units, {_count(len(self.blocks), 'loss')}"
        tied = [f"  tied parameters: {TIES[self.ties]}"] if self.ties else []
        return "\n".join([title, *lines, *tied])

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, dicts, strings and numbers."""
        return {
            "format": FORMAT,
            "method": self.method,
            "options": copy.deepcopy(self.options),
            "source": self.source,
            "units": list(self.units),
            "stages": list(self.stages),
            "cuts": [dataclasses.asdict(place) for place in self.cuts],
            "blocks": [dataclasses.asdict(block) for block in self.blocks],
            "ties": self.ties,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Decoupling:
        """Build a decoupling from :meth:`to_dict`'s result.

        ``cuts`` follows from the blocks and may be left out.

        Raises:
            LocalgradError: a key is missing, unknown or of the wrong kind, the blocks do not fit
                together, or ``cuts`` contradicts them.
        """
        data = dict(data)
        number = data.pop("format", None)
        if number != FORMAT:
            raise LocalgradError(f"decoupling format {number!r}: expected {FORMAT}")
        written = data.pop("cuts", None)
        found = plain_data.read(cls, data, "the decoupling")
        if written is not None:
            places.check_written(written, found.cuts)
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the decoupling to a file, as JSON (which is YAML too)."""
        Path(path).write_text(plain_data.text(self.to_dict()), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Decoupling:
        """Read a decoupling that :meth:`save` wrote.

        Raises:
            LocalgradError: the file is missing, is not JSON, or holds something else.
        """
        return cls.from_dict(plain_data.load(path, "a decoupling file"))


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}es"


def _span(names: list[str]) -> str:
    if len(names) <= 3:
        return ", ".join(names) or "-"
    return f"{names[0]} .. {names[-1]}"
