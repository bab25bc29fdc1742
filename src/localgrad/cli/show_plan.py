"""How a plan is printed: a table whose rows come one by one, times, the advice."""

from __future__ import annotations

import textwrap

from localgrad import methods
from localgrad.cli import show
from localgrad.planning import Option, Plan, Row, shown

WIDTH = 100
_COLUMNS = {
    "rule": 25, "K": 3, "ckpt": 4, "losses": 6, "activ.": 7, "param.": 7, "grad.": 7, "optim.": 7,
    "total": 7, "fits": 4, "FLOPs": 5, "batch": 6,
}  # fmt: skip
_FROM_GIB = 8 * 2**30  # of BP, from which on sizes are in GiB


class Table:
    """Rows of known widths, so that each can be printed as soon as it is known."""

    def __init__(self) -> None:
        self.unit: str | None = None

    def line(self, row: Row, budget: int, batch: int) -> str:
        """Return a row; before the first one, which is BP's and sets the unit, the header."""
        header = ""
        if self.unit is None:
            self.unit = "GiB" if row.total >= _FROM_GIB else "MiB"
            header = "\n".join(["", _cells(list(_COLUMNS)), ""])
        memory = row.memory
        parts = (memory.activations, memory.parameters, memory.gradients, memory.optimizer)
        cells = [
            rule(row.option, batch),
            str(row.option.blocks or "-"),
            row.option.checkpoint or getattr(row.option.method, "checkpoint", None) or "-",
            str(row.losses),
            *(self.size(part) for part in (*parts, memory.total)),
            "yes" if row.total <= budget else "no",
            f"{row.flops_ratio:.2f}",
            "" if row.largest_batch is None else str(row.largest_batch),
        ]
        return header + _cells(cells)

    def size(self, count: int) -> str:
        """Return bytes in the table's unit."""
        return f"{count / 2**30:.2f}" if self.unit == "GiB" else f"{count / 2**20:.1f}"


def rule(option: Option, batch: int) -> str:
    """Return the rule's name; parts of the batch belong to it."""
    plain = isinstance(option.method, methods.Backprop)
    name = "BP" if plain else methods.label(option.method)
    parts = option.micro_batches
    return name if parts == 1 else f"{name}, {parts} x {batch // parts}"


def times(plan: Plan) -> str:
    """Return the table of what was measured."""
    rows = [
        {
            "measured": row.option.label,
            "s a step": f"{row.seconds:.3f}",
            "time vs BP": show.ratio(row.time_ratio),
            "total": shown(row.measured.total),
            "predicted": shown(row.total),
            **({"allocated": shown(row.measured.allocated)} if row.measured.workspace else {}),
        }
        for row in plan.rows
        if row.measured is not None and row.seconds is not None
    ]
    other = plan.baseline_batch not in (None, plan.batch)
    note = f"\ntime vs BP: a row of data, BP at batch {plan.baseline_batch}" if other else ""
    return f"\n{show.table(rows)}{note}"


def advice(plan: Plan, table: Table) -> str:
    """Return what to choose, what else fits, what was left out, and what the figures mean."""
    lines = [""]
    if plan.best is not None:
        lines.append(_wrapped("choose: ", plan.advice.reason))
        lines += [_wrapped("  ", why) for _, why in plan.advice.others]
        lines += _found_late(plan)
    reasons: dict[str, list[str]] = {}
    for label, reason in plan.left_out:
        reasons.setdefault(reason, []).append(label)
    lines += [_wrapped("left out: ", f"{', '.join(who)}: {why}") for why, who in reasons.items()]
    lines.append(
        _wrapped(
            "",
            f"{table.unit}; FLOPs against BP's; batch: the largest that fits. Totals are of live "
            f"tensors; the batch itself ({shown(plan.example_bytes)}) and what operators take "
            "inside of themselves come on top.",
        )
    )
    return "\n".join(lines)


def _found_late(plan: Plan) -> list[str]:
    """Return the largest batches of local rules, which are known after the table."""
    found = [
        f"{row.option.label} {row.largest_batch}"
        for row in plan.rows
        if row.option.kind == "local" and row.largest_batch is not None
    ]
    return [_wrapped("largest batch: ", ", ".join(found))] if found else []


def _wrapped(start: str, text: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=start, subsequent_indent=" " * max(len(start), 2)
    )


def _cells(cells: list[str]) -> str:
    widths = list(_COLUMNS.values())
    first, *rest = zip(cells, widths, strict=True)
    return " ".join(
        [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
    ).rstrip()
