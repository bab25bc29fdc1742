"""Rules against BP on one network: step time, memory, FLOPs, on made-up inputs.

Time is a ratio to BP taken in the same process: a step of BP and a step of the rule in turn, and
the median of the ratios pair by pair, so that a machine whose speed drifts does not matter. Memory
and FLOPs are counted, or predicted on fake tensors, where nothing is computed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from localgrad import (
    LocalLearner,
    decouple,
    measure_flops,
    measure_memory,
    methods,
    predict_flops,
    predict_memory,
)
from localgrad.errors import LocalgradError
from localgrad.experiment.building.method import build_method
from localgrad.experiment.config import Config
from localgrad.experiment.made_up import MadeUp, make
from localgrad.experiment.precision import autocast, check
from localgrad.experiment.schedule import build_optimizer
from localgrad.experiment.update import Update

Row = dict[str, Any]
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


class Case:
    """A rule on a network with an optimizer, ready to step.

    The learning rate is 0: the same arithmetic, and weights that random targets lead nowhere. BP
    stays as it is elsewhere: what is asked for of updates and recomputation is for the rules.
    """

    def __init__(
        self, config: Config, subject: MadeUp, rule: methods.Method, blocks: int | None
    ) -> None:
        is_bp = isinstance(rule, methods.Backprop)
        recomputed = None if is_bp else config.activation_checkpoint
        still = config.optimizer.model_copy(
            update={"lr": 0.0, "update": "step" if is_bp else config.optimizer.update}
        )
        self.subject = subject
        self.config = config.model_copy(update={"optimizer": still})
        self.label = methods.label(rule) + (f" + checkpoint {recomputed}" if recomputed else "")
        self.learner: LocalLearner = decouple(
            subject.chain,
            rule,
            blocks=None if is_bp else blocks,
            example_input=subject.example(),
            loss=subject.loss,
            ties=config.ties or ("first" if subject.inputs == "tokens" else None),
            balance=None if is_bp or blocks is None else config.balance,
            checkpoint=recomputed,
        )

    def steps(self, batch: int) -> tuple[Callable[[], Any], Callable[[], Any], Any]:
        """Return a local step, a whole step with zero_grad and update, and the optimizer."""
        x, y = self.subject.batch(batch)
        device = self.subject.device
        # a scale that cannot overflow: every step of fp16 is updated, as most are in training
        update = Update(self.config, self.learner, device, scale=1.0)

        def local() -> None:
            with autocast(device, self.config.precision):
                self.learner.step(x, y)

        return local, lambda: update.step(x, y), update.optimizer

    def counted(self, batch: int) -> Row:
        """Return bytes and FLOPs of a step."""
        local, whole, optimizer = self.steps(batch)
        whole()  # the optimizer's state is there from now on
        optimizer.zero_grad()
        activations = measure_memory(local, self.learner).activations
        total = measure_memory(whole, self.learner, optimizer).total
        optimizer.zero_grad()
        flops = measure_flops(local)
        optimizer.zero_grad()
        return {"activation_bytes": activations, "total_bytes": total, "flops": flops}

    def allocated(self, batch: int) -> Row:
        """Return what CUDA's allocator held at the peak: of a step beyond before, and in all."""
        if self.subject.device.type != "cuda":
            return {"allocated_bytes": None, "allocated_total_bytes": None}
        local, whole, optimizer = self.steps(batch)
        whole()
        found = []
        for run in (local, whole):
            optimizer.zero_grad()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            torch.cuda.synchronize()
            found.append(torch.cuda.max_memory_allocated() - before)
        optimizer.zero_grad()
        held = measure_memory(lambda: None, self.learner, optimizer)
        total = found[1] + held.parameters + held.optimizer
        return {"allocated_bytes": found[0], "allocated_total_bytes": total}

    def release(self) -> None:
        """Give the network back."""
        self.learner.zero_grad()
        self.learner.release()


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
            costs = _predicted(case, batch) if predict else _measured(case, batch, baseline)
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


class Timer:
    """A case that steps under a clock."""

    def __init__(self, case: Case, batch: int) -> None:
        self.device = case.subject.device
        _, self.whole, _ = case.steps(batch)

    def seconds(self) -> float:
        """Run a whole step; return how long it took."""
        self._wait()
        start = time.perf_counter()
        self.whole()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def paired(timer: Timer, baseline: Timer | None, repeats: int) -> Row:
    """Time steps in turn with the baseline's, after one of each that does not count."""
    taken, ratios = [], []
    for turn in range(repeats + 1):
        base = None if baseline is None else baseline.seconds()
        took = timer.seconds()
        if turn:
            taken.append(took)
            ratios += [] if base is None else [took / base]
    return {
        "median_seconds": statistics.median(taken),
        "seconds_std": statistics.stdev(taken),
        "time_ratio": statistics.median(ratios) if ratios else None,
        "time_ratio_std": statistics.stdev(ratios) if ratios else None,
    }


def _measured(case: Case, batch: int, baseline: Timer | None) -> Row:
    costs = case.counted(batch) | case.allocated(batch)
    costs |= paired(Timer(case, batch), baseline, case.config.repeats)
    return {**costs, "per_second": batch * case.subject.each / costs["median_seconds"]}


def _predicted(case: Case, batch: int) -> Row:
    x, precision = case.subject.example(), case.config.precision
    update = partial(build_optimizer, case.config.optimizer)
    memory = predict_memory(case.learner, x, batch=batch, optimizer=update, precision=precision)
    return {
        "activation_bytes": memory.activations,
        "total_bytes": memory.total,
        "flops": predict_flops(case.learner, x, batch=batch),
    }


def _is_out_of_memory(error: BaseException) -> bool:
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "can't allocate memory" in str(error)


def _add_ratios(rows: list[Row]) -> None:
    base = next((row for row in rows if row["rule"] == "BP"), None)
    keys = {"memory_ratio": "activation_bytes", "total_ratio": "total_bytes"}
    for ratio, key in {**keys, "flops_ratio": "flops"}.items():
        for row in rows:
            row[ratio] = None if base is None else row[key] / base[key]
