"""A schedule as data: for each rank, the actions that it takes, one after the other.

A rank is a process with a device of its own and some consecutive blocks. What it does for one block
and one batch is an :class:`Action`; what it needs from another rank comes by a receive, whose send
stands in that rank's list. A schedule knows no device and no tensor: it is built
(:mod:`localgrad.parallel.builders`), validated, printed, saved, simulated
(:mod:`localgrad.parallel.simulate`), and run.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localgrad import plain_data
from localgrad.errors import LocalgradError

FORMAT = 1
KINDS = {
    "forward": "the block's units on its input; in local learning head and loss too",
    "local": "the backward of the block's own loss; the link's segment is crossed, not finished",
    "backward": "the backward of BP, from the error of the block after",
    "link": "the weight gradients that waited for the error of the block after",
    "reduce": "the block's gradients become the mean over its replicas",
    "step": "the optimizer's update of the block and its head",
    "send": "hand something to another rank; nobody waits for its arrival",
    "receive": "wait for something from another rank",
}
CARRIED = {
    "border": "a block's output, downstream",
    "targets": "the batch's targets, downstream beside a border",
    "error": "a block's error at its input, upstream",
}


@dataclass(frozen=True)
class Action:
    """One thing that a rank does.

    Args:
        kind: one of :data:`KINDS`.
        block: index of the block (of a run of blocks, where borders are open); of a send or
            receive: the block that the border comes out of, or at whose input the error is.
        step: number of the training step, from 0.
        micro_batch: part of the batch, from 0.
        what: of a send or receive, one of :data:`CARRIED`.
        peer: of a send or receive, the other rank.

    >>> print(Action("send", 2, step=1, what="border", peer=1))
    send border of block 2, step 1 to rank 1
    """

    kind: str
    block: int
    step: int = 0
    micro_batch: int = 0
    what: str | None = None
    peer: int | None = None

    @property
    def message(self) -> tuple[str | None, int, int, int]:
        """What is sent or received: the same of a send and of its receive."""
        return self.what, self.block, self.step, self.micro_batch

    def __str__(self) -> str:
        part = f", micro-batch {self.micro_batch}" if self.micro_batch else ""
        which = f"of block {self.block}, step {self.step}{part}"
        if self.what is None:
            return f"{self.kind} {which}"
        side = "to" if self.kind == "send" else "from"
        return f"{self.kind} {self.what} {which} {side} rank {self.peer}"


@dataclass(frozen=True)
class Schedule:
    """What every rank does.

    Args:
        name: what the schedule is called.
        blocks: for each rank, its blocks, in order; each block belongs to one rank.
        ranks: for each rank, its actions, in order.
        links: blocks whose last units also get the error of the block after.
        late: those of them that get it one step late: the error of step t, on the activations of
            step t, goes into the update of step t + 1.
        in_flight: messages of one sort from one rank to another that may be sent and not yet
            received; a further send waits. None: any number.
    """

    name: str
    blocks: tuple[tuple[int, ...], ...]
    ranks: tuple[tuple[Action, ...], ...]
    links: tuple[int, ...] = ()
    late: tuple[int, ...] = ()
    in_flight: int | None = 2

    def __len__(self) -> int:
        """Return the number of ranks."""
        return len(self.ranks)

    @property
    def steps(self) -> int:
        """Number of training steps."""
        return 1 + max((action.step for rank in self.ranks for action in rank), default=-1)

    @property
    def micro_batches(self) -> int:
        """Number of parts of each batch."""
        return 1 + max((action.micro_batch for rank in self.ranks for action in rank), default=-1)

    def rank_of(self, block: int) -> int:
        """Return the rank that a block belongs to."""
        return next(rank for rank, own in enumerate(self.blocks) if block in own)

    def problems(self) -> list[str]:
        """Return what is wrong, in words; empty where every rank can run to its end.

        Every block is on one rank; it runs forward and backward once a step and micro-batch and is
        updated once a step; what an action needs comes before it; the next step's forward comes
        after the update; every send has its receive, in the same order; no ranks wait for each
        other forever.
        """
        from localgrad.parallel.problems import problems  # it simulates

        return problems(self)

    def check(self) -> None:
        """Raise a LocalgradError that names the :meth:`problems`, if there are any."""
        found = self.problems()
        if found:
            more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
            raise LocalgradError(f"schedule {self.name!r}: {'; '.join(found[:3])}{more}")

    def grid(self, width: int = 100) -> str:
        """Return a row a rank and a column a moment (:func:`localgrad.parallel.grid.grid`)."""
        from localgrad.parallel.grid import grid  # it simulates

        return grid(self, width)

    def __str__(self) -> str:
        return self.grid()

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, dicts, strings and numbers; what is at its default is left out."""
        defaults = {field.name: field.default for field in dataclasses.fields(Action)}
        return {
            "format": FORMAT,
            **dataclasses.asdict(self),
            "ranks": [
                [
                    {key: v for key, v in dataclasses.asdict(a).items() if v != defaults[key]}
                    for a in rank
                ]
                for rank in self.ranks
            ],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Schedule:
        """Build a schedule from :meth:`to_dict`'s result.

        Raises:
            LocalgradError: a key is missing, unknown or of the wrong kind, or the schedule has
                :meth:`problems`.
        """
        data = dict(data)
        number = data.pop("format", None)
        if number != FORMAT:
            raise LocalgradError(f"schedule format {number!r}: expected {FORMAT}")
        found = plain_data.read(cls, data, "the schedule")
        found.check()
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the schedule to a file, as JSON."""
        Path(path).write_text(json.dumps(self.to_dict()) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Schedule:
        """Read a schedule that :meth:`save` wrote.

        Raises:
            LocalgradError: the file is missing, is not JSON, or holds something else.
        """
        return cls.from_dict(plain_data.load(path, "a schedule file"))
