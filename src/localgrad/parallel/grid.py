"""A schedule to look at: a row a rank, a column a moment."""

from __future__ import annotations

from localgrad.parallel.costs import Costs
from localgrad.parallel.schedule import Action, Schedule
from localgrad.parallel.simulate import simulate

LETTERS = {"forward": "F", "local": "B", "backward": "B", "link": "W"}


def grid(schedule: Schedule, width: int = 100) -> str:
    """Return a schedule as text, every forward, backward and link as long as any other.

    ``F`` is a forward, ``B`` a backward (the block's own in local learning), ``W`` the weight
    gradients that waited for a link; the number after it is the step, a second one the micro-batch,
    one before it the block, where a rank has several. Messages and updates take no time and are
    left out.

    Args:
        schedule: without :meth:`Schedule.problems`.
        width: columns of text; what is longer goes on below.

    Raises:
        LocalgradError: ranks wait for each other forever.
    """
    count = sum(len(blocks) for blocks in schedule.blocks)
    cells: list[dict[int, str]] = [{} for _ in schedule.blocks]
    for event in simulate(schedule, Costs.alike(count)).events:
        if event.action.kind in LETTERS:
            cells[event.rank][round(event.start)] = _cell(schedule, event.action)
    room = max((len(text) for row in cells for text in row.values()), default=1)
    length = 1 + max((moment for row in cells for moment in row), default=0)
    names = [f"rank {rank}" for rank in range(len(schedule))]
    margin = 2 + max(map(len, names)) + 2
    each = max(1, (width - margin + 1) // (room + 1))
    bands = []
    for start in range(0, length, each):
        rows = []
        for name, row in zip(names, cells, strict=True):
            moments = range(start, min(start + each, length))
            line = " ".join(row.get(moment, "").ljust(room) for moment in moments)
            rows.append(f"  {name.ljust(margin - 2)}{line}".rstrip())
        bands.append("\n".join(rows))
    return "\n".join([_title(schedule), "\n\n".join(bands)])


def _cell(schedule: Schedule, action: Action) -> str:
    several = any(len(blocks) > 1 for blocks in schedule.blocks)
    block = f"{action.block}" if several else ""
    part = f".{action.micro_batch}" if schedule.micro_batches > 1 else ""
    return f"{block}{LETTERS[action.kind]}{action.step}{part}"


def _title(schedule: Schedule) -> str:
    parts = [_count(len(schedule), "rank"), _count(schedule.steps, "step")]
    if schedule.micro_batches > 1:
        parts.append(_count(schedule.micro_batches, "micro-batch", "es"))
    if any(len(blocks) > 1 for blocks in schedule.blocks):
        ends = [f"{own[0]}-{own[-1]}" if own[1:] else f"{own[0]}" for own in schedule.blocks]
        parts.append(f"blocks {', '.join(ends)}")
    return f"{schedule.name}: {', '.join(parts)}"


def _count(number: int, word: str, plural: str = "s") -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}{plural}"
