"""Which option to take: the order, and why.

1. **BP**, where it fits. Nothing below saves memory that is needed, and all of it costs something.
2. **BP's gradients for less memory.** Two ways keep them: gradient accumulation (equal parts of the
   batch, one update), where no BatchNorm looks at the whole batch, and activation checkpointing.
   The cheaper one goes first: accumulation repeats no FLOPs, checkpointing about a third of BP's.
   Beyond 4 parts accumulation goes second, and the fewer parts the better, also where
   checkpointing makes them fewer: small parts keep a device less busy. Where time was measured, it
   decides. Neither costs accuracy, so both go before every local rule.
3. **Accumulation under BatchNorm**, in parts of at least 16 rows. Statistics of so many rows cost
   little: Wu & He, "Group Normalization" (ECCV 2018, arXiv 1803.08494): ResNet-50 on ImageNet
   loses 10.6 points at 2 images (abstract), about 1 at 8 and none to speak of at 16 (their table
   2, from memory). Local rules cost more (docs/results.md).
4. **A local rule**: the fewest losses first, then the rule that came nearest to BP at one number of
   losses, then the cheapest. Our evidence (docs/results.md): every rule is below BP, and the more
   losses the further; AugLocal with 2 losses is within the spread of BP, with 14 it is 3 points
   below.
5. **Accumulation under BatchNorm in smaller parts**: the last resort.

Only rows that fit are considered; this module knows no network and runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localgrad.planning.row import Row
from localgrad.sizes import shown

FEW_PARTS = 4
ENOUGH_FOR_NORMS = 16


@dataclass(frozen=True)
class Advice:
    """What to take and why, and what else fits.

    Args:
        best: None where nothing fits.
        reason: one sentence.
        others: runner-ups, each with a sentence.
    """

    best: Row | None
    reason: str
    others: tuple[tuple[Row, str], ...] = ()


def advise(rows: Sequence[Row], budget: int, batch: int, norms: bool) -> Advice:
    """Return the advice for a budget.

    Args:
        rows: the options, at one batch size.
        budget: bytes.
        batch: rows of data a step.
        norms: whether the network has a BatchNorm, which sees a part's statistics alone.
    """
    fitting = sorted(
        (row for row in rows if row.total <= budget), key=lambda row: _order(row, batch, norms)
    )
    if not fitting:
        return Advice(None, _nothing(rows, budget, batch))
    best, *rest = fitting
    others = []
    seen = {_sort(best)}
    if best.option.kind == "bp":
        return Advice(best, _sentence(best, batch, norms))
    for row in rest:  # one of each sort
        if _sort(row) not in seen:
            seen.add(_sort(row))
            others.append((row, f"or {_sentence(row, batch, norms)}"))
    local = [row for row in rest if row.option.kind == "local"]
    thrifty = min(local, key=lambda row: (row.cost, row.total), default=None)
    if thrifty is not None and thrifty not in [row for row, _ in others]:
        others.append((thrifty, f"or, cheapest a step, {_sentence(thrifty, batch, norms)}"))
    return Advice(best, _sentence(best, batch, norms), tuple(others))


def _order(row: Row, batch: int, norms: bool) -> tuple[float, ...]:
    option = row.option
    if option.kind == "bp":
        return (1,)
    if option.kind == "checkpoint":
        return (2, row.cost, 1, row.total)
    if option.kind == "local":
        return (4, row.losses, option.farness, row.cost, row.total)
    if norms:
        enough = batch // option.micro_batches >= ENOUGH_FOR_NORMS
        return (
            (3, row.cost, option.micro_batches) if enough else (5, option.micro_batches, row.cost)
        )
    if option.micro_batches <= FEW_PARTS or row.time_ratio is not None:
        return (2, row.cost, option.micro_batches)
    return (2.5, option.micro_batches, row.cost)


def _sort(row: Row) -> str:
    inside = " + checkpoint" if row.option.checkpoint else ""
    return f"{row.option.kind}{inside}"


def _sentence(row: Row, batch: int, norms: bool) -> str:
    option = row.option
    fits = f"{option.label} fits at {shown(row.total)}"
    if option.kind == "bp":
        return f"{fits}: there is no memory to gain that is needed"
    cost = f"{row.flops_ratio:.2f} times its FLOPs"
    if row.time_ratio is not None:
        cost += f", {row.time_ratio:.2f} times its time"
    if option.kind == "checkpoint":
        return f"{fits}: the same gradients as BP for {cost}"
    if option.kind == "accumulated":
        part = batch // option.micro_batches
        fits = f"{option.label} of {part} fits at {shown(row.total)}"
        if norms:
            seen = f"BatchNorm sees {part} rows, not {batch}"
            return f"{fits}: gradients add up before the update; {seen}"
        return f"{fits}: gradients add up before the update to those of BP, for {cost}"
    losses = "1 loss" if row.losses == 1 else f"{row.losses} losses"
    return f"{fits}: {losses}, so accuracy is usually below BP's; {cost} of BP".replace(
        "times its", "times the"
    )


def _nothing(rows: Sequence[Row], budget: int, batch: int) -> str:
    if not rows:
        return f"nothing was predicted for {shown(budget)}"
    least = min(rows, key=lambda row: row.total)
    memory = least.memory
    fixed = memory.parameters + memory.gradients + memory.optimizer
    text = (
        f"nothing fits {shown(budget)} at batch {batch}: the least is {least.option.label}, which "
        f"takes {shown(least.total)}"
    )
    if least.largest_batch:
        return f"{text} and would fit at batch {least.largest_batch}"
    if fixed > budget:
        return f"{text}; parameters, gradients and optimizer alone are {shown(fixed)}"
    return text
