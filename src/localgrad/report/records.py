"""Summaries as they are read from JSON: checked, typed, and grouped by rule."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from localgrad.errors import LocalgradError
from localgrad.report.fields import get, mapping, number, optional, sequence, text, whole
from localgrad.report.palette import Look, looks
from localgrad.report.reach import Reach, merge, read_reach

RATIOS = ("activation_memory", "flops", "time")
_NUMBERS = (
    "parameters",
    "test_accuracy",
    "best_test_accuracy",
    "train_seconds",
    "images_per_second",
    "peak_activation_bytes",
    "peak_memory_bytes",
    "flops_per_image",
)


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; ``std`` is None where there is only one value."""

    mean: float
    std: float | None
    n: int


def spread(values: Iterable[float | None]) -> Spread | None:
    """Summary of the values that are known, or None if none is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    std = statistics.stdev(known) if len(known) > 1 else None
    return Spread(statistics.fmean(known), std, len(known))


@dataclass(frozen=True)
class Epoch:
    """One line of a run's curve; ``losses`` holds one value per block, or nothing."""

    epoch: int
    train_loss: float | None
    test_accuracy: float | None
    seconds: float | None
    losses: tuple[float | None, ...]


@dataclass(frozen=True)
class Run:
    """One training run. Accuracies are in 0..1; a number that is None was not measured."""

    label: str
    method: str
    network: str
    data: str
    blocks: int
    seed: str
    epochs: int
    numbers: Mapping[str, float | None]
    ratios: Mapping[str, float | None]
    block_accuracy: tuple[float | None, ...]
    command: str
    versions: tuple[tuple[str, str], ...]
    commit: str
    curve: tuple[Epoch, ...]
    reach: Reach | None


@dataclass(frozen=True)
class Rule:
    """The runs of one rule in one setting, which differ by seed only."""

    label: str
    look: Look
    runs: tuple[Run, ...]

    @property
    def blocks(self) -> int:
        return self.runs[0].blocks

    @property
    def reach(self) -> Reach | None:
        """Union over the runs: a violation of any seed is a violation of the rule."""
        return merge([run.reach for run in self.runs if run.reach is not None])

    def number(self, key: str) -> Spread | None:
        return spread(run.numbers[key] for run in self.runs)

    def ratio(self, key: str) -> Spread | None:
        return spread(run.ratios.get(key) for run in self.runs)

    def curve(self, value: Callable[[Epoch], float | None]) -> list[tuple[int, Spread]]:
        """(epoch, spread over the seeds) for every epoch that has a value."""
        epochs = sorted({entry.epoch for run in self.runs for entry in run.curve})
        rows = [
            (e, spread(value(entry) for run in self.runs for entry in run.curve if entry.epoch == e))
            for e in epochs
        ]
        return [(epoch, row) for epoch, row in rows if row is not None]

    def exits(self) -> list[tuple[int, Spread]]:
        """(loss index, spread over the seeds) of the accuracy of every block's classifier."""
        count = max(len(run.block_accuracy) for run in self.runs)
        rows = [
            (k, spread(r.block_accuracy[k] for r in self.runs if k < len(r.block_accuracy)))
            for k in range(count)
        ]
        return [(k, row) for k, row in rows if row is not None]


def read_runs(results: object) -> list[Run]:
    """Check the summaries of a comparison; LocalgradError names the first key that is wrong."""
    if not isinstance(results, Sequence) or isinstance(results, str | bytes):
        raise LocalgradError(f"results must be a list of summaries, not {type(results).__name__}")
    if not results:
        raise LocalgradError("there are no results to report: run at least one rule first")
    return [_compared(item, f"results[{i}]") for i, item in enumerate(results)]


def _compared(item: object, where: str) -> Run:
    data = mapping(item, where)
    label = text(data, "label", where)
    where = f"{where} ({label})"
    ratios = mapping(get(data, "ratios", where), f"{where}: ratios")
    return read_run(
        data,
        where,
        ratios={key: number(ratios, key, f"{where}: ratios") for key in RATIOS},
        curve=get(data, "curve", where),
        reach=get(data, "reach", where),
    )


def read_run(
    data: Mapping[str, object],
    where: str,
    *,
    ratios: Mapping[str, float | None],
    curve: object,
    reach: object,
) -> Run:
    """Check one summary, its curve and its reach."""
    versions = mapping(get(data, "versions", where), f"{where}: versions")
    accuracy = sequence(get(data, "block_accuracy", where), f"{where}: block_accuracy")
    numbers = {key: number(data, key, where) for key in _NUMBERS}
    return Run(
        label=text(data, "label" if "label" in data else "method", where),
        method=text(data, "method", where),
        network=text(data, "network", where),
        data=text(data, "data", where),
        blocks=whole(data, "blocks", where),
        seed=text(data, "seed", where),
        epochs=whole(data, "epochs", where),
        numbers=numbers,
        ratios=ratios,
        block_accuracy=tuple(optional(v, f"{where}: block_accuracy") for v in accuracy),
        command=str(get(data, "command", where) or ""),
        versions=tuple((str(key), str(value)) for key, value in sorted(versions.items())),
        commit=str(get(data, "commit", where) or ""),
        curve=tuple(
            _epoch(entry, f"{where}: curve[{i}]")
            for i, entry in enumerate(sequence(curve, f"{where}: curve"))
        ),
        reach=None if reach is None else read_reach(mapping(reach, f"{where}: reach"), f"{where}: reach"),
    )


def _epoch(item: object, where: str) -> Epoch:
    data = mapping(item, where)
    losses = sequence(data.get("losses") or (), f"{where}: losses")
    return Epoch(
        epoch=whole(data, "epoch", where),
        train_loss=number(data, "train_loss", where),
        test_accuracy=number(data, "test_accuracy", where),
        seconds=number(data, "seconds", where),
        losses=tuple(optional(value, f"{where}: losses") for value in losses),
    )


def rules(runs: Sequence[Run]) -> list[Rule]:
    """Group the runs that differ by seed only; BP comes first, then BP with checkpointing.

    A label that was used in two settings gets the settings that differ added to it.
    """
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        setting = (run.label, run.method, run.network, run.data, run.blocks, run.epochs)
        groups.setdefault(setting, []).append(run)
    labels = [_distinct(setting, list(groups)) for setting in groups]
    drawn = looks((str(setting[1]), str(setting[0])) for setting in groups)
    made = [
        Rule(label, look, tuple(found))
        for label, look, found in zip(labels, drawn, groups.values(), strict=True)
    ]
    first = {"bp": 0, "checkpoint": 1}
    return sorted(made, key=lambda rule: first.get(rule.look.family.name, 2))


def _distinct(setting: tuple[object, ...], settings: Sequence[tuple[object, ...]]) -> str:
    alike = [other for other in settings if other[0] == setting[0]]
    shown = ("{}", "{}", "{}", "{}", "{} losses", "{} epochs")
    added = [
        form.format(value)
        for form, value, *others in zip(shown, setting, *alike, strict=True)
        if len(set(others)) > 1
    ]
    return ", ".join([str(setting[0]), *added])
