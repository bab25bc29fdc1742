"""Rules against BP on one network: step time, memory, FLOPs, on made-up inputs.

Time is a ratio to BP taken in the same process: a step of BP and a step of the rule in turn, and
the median of the ratios pair by pair, so that a machine whose speed drifts does not matter. Memory
and FLOPs are counted, or predicted on fake tensors, where nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from localgrad import methods
from localgrad.errors import LocalgradError
from localgrad.experiment.bench_case import Case, Row, Timer, measured, predicted
from localgrad.experiment.building.method import build_method
from localgrad.experiment.config import Config
from localgrad.experiment.made_up import make
from localgrad.experiment.precision import check

BASELINES = (methods.Backprop(), methods.Backprop("unit"), methods.Backprop("sqrt"))


@dataclass(frozen=True)
class Bench:
    """What was found.

    Attributes:
        network: the network's name.
        shape: of one input, such as ``3x32x32``.
        batch: inputs a step.
        inputs: what the throughput counts: images, tokens or inputs.
        precision: fp32, or the kind of autocast.
        repeats: timed steps of each row; None where nothing was timed.
        rows: one a rule and number of blocks, BP first; a ratio is None where BP has no figure.
        skipped: ``rule``, ``blocks`` and ``reason`` of each row that this network cannot have.
    """

    network: str
    shape: str
    batch: int
    inputs: str
    precision: str
    repeats: int | None
    rows: list[Row]
    skipped: list[Row]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; every row names its network."""
        about: Row = {"network": self.network, "input": self.shape, "batch": self.batch}
        about |= {"inputs": self.inputs, "precision": self.precision}
        rows = [{**about, **row} for row in self.rows]
        return {"n": self.repeats, **about, "skipped": self.skipped, "rows": rows}


def bench(
    config: Config,
    batch: int,
    blocks: Sequence[int] = (),
    shape: tuple[int, ...] | None = None,
    predict: bool = False,
    note: Callable[[str], Any] = lambda text: None,
) -> Bench:
    """Put BP, BP with checkpointing, and every rule at every number of blocks beside each other.

    Args:
        config: network, rules (``methods``), optimizer, precision, device, ``repeats``.
        batch: inputs a step.
        blocks: numbers of blocks; without one, each rule's own.
        shape: of one input; default: what the network says.
        predict: memory and FLOPs alone, under fake tensors.
        note: told in a line what is under way.

    Raises:
        LocalgradError: the network or a rule cannot be built, or this network can have none of the
            rules that were asked for.
    """
    wanted = _wanted([build_method(choice) for choice in config.methods], blocks)
    if predict and config.optimizer.update == "block":
        raise LocalgradError("optimizer.update: 'block' is measured, not predicted: use 'step'")
    subject = make(config, shape)
    check(subject.device, config.precision)
    baseline = None
    if not predict:
        baseline = Timer(Case(config, make(config, shape), BASELINES[0], None), batch)
    rows: list[Row] = []
    skipped: list[Row] = []
    for number, (rule, k) in enumerate(wanted, start=1):
        label = methods.label(rule)
        note(f"[{number}/{len(wanted)}] {named(label, k)}")
        about: Row = {"rule": label, "blocks": k}
        try:
            case = Case(config, subject, rule, k)
        except LocalgradError as error:
            skipped.append({**about, "reason": str(error)})
            continue
        try:
            costs = predicted(case, batch) if predict else measured(case, batch, baseline)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            skipped.append({**about, "reason": f"out of memory at batch {batch}"})
            baseline = None if rule == BASELINES[0] else baseline
        else:
            losses = len(case.learner.decoupling)
            about |= {"rule": case.label, "method": rule.name, "losses": losses}
            rows.append({**about, **costs})
        case.release()
    asked = any(rule not in BASELINES for rule, _ in wanted)
    if not rows or (asked and all(row["method"] == "backprop" for row in rows)):
        raise LocalgradError("; ".join(reasons(skipped)))
    _add_ratios(rows)
    return Bench(
        config.network.name,
        subject.size,
        batch,
        subject.inputs,
        config.precision,
        None if predict else config.repeats,
        rows,
        skipped,
    )


def named(label: str, blocks: int | None) -> str:
    """Return a rule's name with its number of blocks.

    >>> named("Greedy", 4), named("BP", None)
    ('Greedy K=4', 'BP')
    """
    return label if blocks is None else f"{label} K={blocks}"


def reasons(skipped: Sequence[Row]) -> list[str]:
    """Return a sentence for each reason, after the rules that it holds for.

    >>> reasons([{"rule": "Greedy", "blocks": k, "reason": "too many"} for k in (8, 9)])
    ['Greedy K=8, Greedy K=9: too many']
    """
    found: dict[str, list[str]] = {}
    for row in skipped:
        found.setdefault(row["reason"], []).append(named(row["rule"], row["blocks"]))
    return [f"{', '.join(names)}: {reason}" for reason, names in found.items()]


def _wanted(
    rules: Sequence[methods.Method], blocks: Sequence[int]
) -> list[tuple[methods.Method, int | None]]:
    """Return the baselines, then every other rule at every number of blocks, each once."""
    found: list[tuple[methods.Method, int | None]] = [(rule, None) for rule in BASELINES]
    for k in blocks or (None,):
        found += [(rule, k) for rule in rules if rule not in BASELINES]
    return list(dict.fromkeys(found))


def _is_out_of_memory(error: BaseException) -> bool:
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "can't allocate memory" in str(error)


def _add_ratios(rows: list[Row]) -> None:
    base = next((row for row in rows if row["rule"] == "BP"), None)
    keys = {"memory_ratio": "activation_bytes", "total_ratio": "total_bytes"}
    for ratio, key in {**keys, "flops_ratio": "flops"}.items():
        for row in rows:
            row[ratio] = None if base is None else row[key] / base[key]
