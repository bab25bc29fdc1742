"""What a page says in words and single numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from localgrad.report.reach import Reach
from localgrad.report.records import BITS, Run
from localgrad.report.rules import Rule, Spread, spread
from localgrad.report.tables import NOTHING, amount, mebibytes

_SHOWN = 6


def _plural(count: int, noun: str, many: str = "") -> str:
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def lead(found: Sequence[Rule]) -> str:
    """The one sentence under the title."""

    def either(values: Sequence[str], many: str) -> str:
        different = sorted(set(values))
        return different[0] if len(different) == 1 else f"{len(different)} {many}"

    runs = [run for rule in found for run in rule.runs]
    trained = either([_plural(run.epochs, "epoch") for run in runs], "lengths of training")
    seeds = either([_plural(len(rule.runs), "seed") for rule in found], "numbers of seeds")
    verb = "rule trains" if len(found) == 1 else "rules train"
    return (
        f"{len(found)} {verb} {either([run.network for run in runs], 'networks')} on "
        f"{either([run.data for run in runs], 'data sets')} for {trained}, {seeds} each: "
        "how accurate each becomes, what it costs, and which units its losses train."
    )


def verdict(reach: Reach) -> Mapping[str, object]:
    """What the audit found; of many violations the first lines."""
    lines = reach.sentences("violation")
    more = len(lines) - _SHOWN
    rest = [f"and {_plural(more, 'more loss', 'more losses')}"] if more > 0 else []
    losses = _plural(len(reach.losses), "loss", "losses")
    return {
        "size": f"{losses}, {_columns(reach.units)}",
        "wrong": lines[:_SHOWN] + rest,
        "violations": _plural(reach.count("violation"), "violation"),
        "missing": reach.count("missing"),
        "declared": reach.declared is not None,
    }


def facts(rule: Rule) -> list[tuple[str, str]]:
    """(name, value) of the numbers at the head of a run's page."""
    flops, inputs = rule.number("flops_per_image"), rule.runs[0].inputs
    bits = [(key, rule.number(key)) for key in BITS]
    heads = rule.number("head_parameters")
    return [
        ("Test accuracy", amount(rule.number("test_accuracy"), 100) + " %"),
        *((_words(key), amount(value, 1, 3)) for key, value in bits if value is not None),
        ("Best epoch's accuracy", amount(rule.number("best_test_accuracy"), 100) + " %"),
        ("Peak activations", mebibytes(rule.number("peak_activation_bytes")) + " MiB"),
        ("Peak memory", mebibytes(rule.number("peak_memory_bytes")) + " MiB"),
        ("Speed", amount(rule.number("images_per_second"), 1, 0) + f" {inputs}/s"),
        ("Training time", _duration(rule.number("train_seconds"))),
        (f"FLOPs per {inputs.removesuffix('s')}", amount(flops, 1e-6, 1) + " M"),
        ("Parameters", amount(rule.number("parameters"), 1, 0)),
        *([] if heads is None else [("Parameters of heads", amount(heads, 1, 0))]),
        ("Losses", str(rule.blocks)),
    ]


def _words(key: str) -> str:
    return key.replace("_", " ").capitalize()


def _duration(seconds: Spread | None) -> str:
    if seconds is None or seconds.mean < 120:
        return amount(seconds, 1, 1) + " s"
    return amount(seconds, 1 / 60, 1) + " min"


def blocks(run: Run) -> list[tuple[str, str, str, str]]:
    """(name, last loss, accuracy in percent, FLOPs of an answer in percent) of every block."""
    last = run.curve[-1].losses if run.curve else ()
    flops = run.exit_flops
    whole = (flops[-1] if flops else None) or 1.0
    named = run.reach.names if run.reach and len(run.reach.losses) == run.blocks else None
    return [
        (
            named[k] if named else f"loss {k}",
            _cell(last[k] if k < len(last) else None, "{:.4f}", 1),
            _cell(run.block_accuracy[k] if k < len(run.block_accuracy) else None, "{:.2f}", 100),
            _cell(flops[k] if k < len(flops) else None, "{:.0f}", 100 / whole),
        )
        for k in range(run.blocks)
    ]


def saved(found: Sequence[Rule]) -> list[tuple[str, ...]]:
    """(rule, accuracy, exit, its accuracy, FLOPs saved) at a point less than the network's own.

    All in percent, over the seeds, of the rules that have several exits.
    """
    rows: list[tuple[str, ...]] = []
    for rule in found:
        runs = [run for run in rule.runs if run.saved is not None]
        each = [run.saved for run in runs if run.saved is not None]
        if each and rule.blocks > 1:
            rows.append(
                (
                    rule.label,
                    amount(spread(run.numbers["test_accuracy"] for run in runs), 100),
                    _range([one.exit for one in each]),
                    amount(spread(one.accuracy for one in each), 100),
                    amount(spread(1 - one.flops for one in each), 100, 0),
                )
            )
    return rows


def _range(exits: Sequence[int]) -> str:
    first, last = min(exits), max(exits)
    return str(first) if first == last else f"{first}\N{EN DASH}{last}"


def _cell(value: float | None, form: str, scale: float) -> str:
    return NOTHING if value is None else form.format(value * scale)


def commands(found: Sequence[Rule], main: str) -> list[tuple[str, str]]:
    """(runs, command) of what was typed besides the main command, each command once."""
    typed: dict[str, dict[str, list[str]]] = {}
    for rule in found:
        for run in rule.runs:
            if run.command and run.command != main:
                typed.setdefault(run.command, {}).setdefault(rule.label, []).append(run.seed)
    return [
        (
            "; ".join(
                f"{label}, seed{'' if len(seeds) == 1 else 's'} {', '.join(seeds)}"
                for label, seeds in who.items()
            ),
            command,
        )
        for command, who in typed.items()
    ]


def environments(found: Sequence[Rule]) -> list[Mapping[str, object]]:
    """The different sets of versions, each with the runs that had it."""
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[str, str]]] = {}
    for rule in found:
        for run in rule.runs:
            name = f"{rule.label}, seed {run.seed}"
            facts = (*run.machine, *run.versions)
            groups.setdefault((run.commit, facts), []).append((name, run.date[:10]))
    return [
        {
            "commit": commit,
            "versions": (*facts, *_dates([day for _, day in runs])),
            "runs": [name for name, _ in runs] if len(groups) > 1 else [],
        }
        for (commit, facts), runs in groups.items()
    ]


def _dates(days: Sequence[str]) -> list[tuple[str, str]]:
    known = sorted({day for day in days if day})
    if not known:
        return []
    return [("date", known[0] if len(known) == 1 else f"{known[0]} to {known[-1]}")]


def _columns(units: Sequence[str]) -> str:
    """A chain's last column is its tail, which is no unit."""
    if len(units) > 1 and units[-1] == "tail":
        return f"{_plural(len(units) - 1, 'unit')} and the tail"
    return _plural(len(units), "unit")
