"""Summaries as they are read from JSON: checked and typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from localgrad.errors import LocalgradError
from localgrad.report.agreements import Agreements, read_agreements
from localgrad.report.fields import get, mapping, number, optional, sequence, text, whole
from localgrad.report.reach import Reach, read_reach

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
# What runs of before these were measured do not have.
_YOUNGER = ("head_parameters", "parameter_bytes", "optimizer_bytes")
#: Of texts: how many bits a byte or character of the test part takes.
BITS = ("bits_per_byte", "bits_per_char")


@dataclass(frozen=True)
class Epoch:
    """One line of a run's curve; ``losses`` holds one value per block, or nothing."""

    epoch: int
    train_loss: float | None
    test_accuracy: float | None
    seconds: float | None
    losses: tuple[float | None, ...]


@dataclass(frozen=True)
class Saved:
    """The cheapest exit at most one point less accurate than the network itself.

    Attributes:
        exit: index of the block.
        accuracy: of its head, 0..1.
        flops: of an answer from it, the network's own being 1.
    """

    exit: int
    accuracy: float
    flops: float


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
    agreements: Agreements
    reach: Reach | None
    inputs: str = "images"
    exit_flops: tuple[float | None, ...] = ()
    saved: Saved | None = None
    machine: tuple[tuple[str, str], ...] = ()
    date: str = ""


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
        ratios={
            **{key: number(ratios, key, f"{where}: ratios") for key in RATIOS},
            "memory": optional(ratios.get("memory"), f"{where}: ratios"),
        },
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
    numbers |= {key: number(data, key, where) for key in (*BITS, *_YOUNGER) if key in data}
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
        agreements=read_agreements(curve, f"{where}: curve"),
        reach=None if reach is None else read_reach(reach, f"{where}: reach"),
        inputs=text(data, "inputs", where) if "inputs" in data else "images",
        exit_flops=tuple(
            optional(v, f"{where}: exit_flops")
            for v in sequence(data.get("exit_flops", ()), f"{where}: exit_flops")
        ),
        saved=_saved(data.get("one_point_lower"), f"{where}: one_point_lower"),
        machine=tuple((key, str(data[key])) for key in ("hardware", "platform") if data.get(key)),
        date=str(data.get("date") or ""),
    )


def _saved(value: object, where: str) -> Saved | None:
    if value is None:
        return None
    data = mapping(value, where)
    accuracy, flops = number(data, "accuracy", where), number(data, "flops", where)
    if accuracy is None or flops is None:
        return None
    return Saved(whole(data, "exit", where), accuracy, flops)


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
