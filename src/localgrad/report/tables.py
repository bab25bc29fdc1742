"""The comparison table, as cells for the page and as Markdown for a document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from localgrad.report.records import BITS, read_runs
from localgrad.report.rules import Rule, Spread, rules

MIB = 2**20
NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Column:
    """A column of the comparison: its heading and the text of a rule's cell."""

    name: str
    heading: str
    cell: Callable[[Rule], str]


def amount(value: Spread | None, scale: float = 1.0, digits: int = 2) -> str:
    """``mean ± std``; the spread is left out where there is none to the digits shown."""
    if value is None:
        return NOTHING
    shown = f"{value.mean * scale:,.{digits}f}"
    if value.std is None or f"{value.std * scale:.{digits}f}" == f"{0:.{digits}f}":
        return shown
    return f"{shown} ± {value.std * scale:.{digits}f}"


def mebibytes(value: Spread | None) -> str:
    """Bytes as MiB, with a digit after the point only where it matters."""
    digits = 0 if value is not None and value.mean >= 100 * MIB else 1
    return amount(value, 1 / MIB, digits)


def ratio(value: Spread | None) -> str:
    """A ratio to BP; small ones keep two digits that mean something."""
    return amount(value, 1.0, 3 if value is not None and value.mean < 0.1 else 2)


_COLUMNS = (
    Column("seeds", "n", lambda rule: str(len(rule.runs))),
    Column("losses", "Losses", lambda rule: str(rule.blocks)),
    Column("accuracy", "Test accuracy, %", lambda r: amount(r.number("test_accuracy"), 100)),
    Column("bits_per_byte", "Bits per byte", lambda r: amount(r.number("bits_per_byte"), 1, 3)),
    Column(
        "bits_per_char", "Bits per character", lambda r: amount(r.number("bits_per_char"), 1, 3)
    ),
    Column("memory", "Activations, MiB", lambda r: mebibytes(r.number("peak_activation_bytes"))),
    Column("activation_memory", "Activations ÷ BP", lambda r: ratio(r.ratio("activation_memory"))),
    Column("flops", "FLOPs ÷ BP", lambda r: ratio(r.ratio("flops"))),
    Column("time", "Time ÷ BP", lambda r: ratio(r.ratio("time"))),
)


def columns(found: Sequence[Rule]) -> list[Column]:
    """The columns to show: a ratio that no rule has (BP was not run) and bits of images are not."""
    ratios = ("activation_memory", "flops", "time")

    def known(rule: Rule, name: str) -> bool:
        if name in BITS:
            return rule.number(name) is not None
        return name not in ratios or rule.ratio(name) is not None

    return [column for column in _COLUMNS if any(known(rule, column.name) for rule in found)]


def markdown_table(results: list[dict[str, object]]) -> str:
    """The comparison as a Markdown table, one row per rule: mean ± std over n seeds.

    Args:
        results: summaries as in ``compare.json``.

    Returns:
        The table; it ends in a newline. Activations are the peak of one training step.

    Raises:
        LocalgradError: there are no results, or a key is missing.
    """
    found = rules(read_runs(results))
    shown = columns(found)
    rows = [["Rule", *(column.heading for column in shown)], ["---", *("---:" for _ in shown)]]
    rows += [[rule.label, *(column.cell(rule) for column in shown)] for rule in found]
    return "".join(f"| {' | '.join(map(_escaped, row))} |\n" for row in rows)


def _escaped(cell: str) -> str:
    """A label must not end its cell or become markup of its own."""
    return "".join("\\" + c if c in "\\|*_`<[" else c for c in cell)
