"""What a search found, as plain data: every trial, the front, what it cost."""

from __future__ import annotations

import json
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from localgrad.decoupling import Decoupling
from localgrad.experiment.config import Config
from localgrad.search.fronts import ranks
from localgrad.search.record import Record
from localgrad.search.task import cost_of

_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.FAIL: "failed",
}
_SECONDS = 4  # digits after the point


def rows(record: Record) -> list[dict[str, Any]]:
    """Return a row for each trial, in the order of their indices."""
    return [_row(index, trial, record.config) for index, trial in sorted(record.counted().items())]


def _row(index: int, trial: FrozenTrial, config: Config) -> dict[str, Any]:
    known = trial.user_attrs
    decoupling = Decoupling.from_dict(json.loads(known["identity"]))
    blocks = decoupling.blocks
    return {
        "trial": index,
        "name": known.get("name"),
        "state": _STATES[trial.state],
        "reason": known.get("failed"),
        "blocks": len(blocks),
        "cuts": [decoupling.units[block.stop - 1] for block in blocks[:-1]],
        "heads": [_head(block.head) for block in blocks[:-1]],
        "links": [block.link.length if block.link else 0 for block in blocks[1:]],
        "accuracy": known.get("accuracy"),
        "epochs": known.get("epochs", 0),
        "cost": cost_of(config, known) if _priced(config, known) else None,
        "memory_bytes": known["memory"],
        "measured_memory_bytes": known.get("measured memory"),
        "flops": known["flops"],
        "step_seconds": known.get("step seconds"),
        "images_per_second": known.get("images/s"),
        "seconds": round(known.get("seconds", 0.0), _SECONDS),
        "tries": known.get("tries", 1),
        "decoupling": decoupling.to_dict(),
    }


def _priced(config: Config, known: dict[str, Any]) -> bool:
    return config.search.cost != "time" or "step seconds" in known


def _head(part: Any) -> str:
    if part.name == "auglocal":
        return f"auglocal of {len(part.options['units'])}"
    return str(part)


def front(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the complete trials that no other beats in both, the cheapest first."""
    complete = [row for row in found if row["state"] == "complete"]
    points = [(-row["accuracy"], row["cost"] or 0.0) for row in complete]
    best = [row for row, rank in zip(complete, ranks(points), strict=True) if rank == 0]
    return sorted(best, key=lambda row: (row["cost"] or 0.0, -row["accuracy"], row["trial"]))


def document(record: Record, facts: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """Return what ``search.json`` holds.

    Args:
        record: of the search.
        facts: of its subject.
        about: command, versions and machine.
    """
    config = record.config
    found = rows(record)
    best = front(found)
    left_out: dict[str, int] = {}
    for trial in record.trials():
        if "left out" in trial.user_attrs:
            why = trial.user_attrs["left out"].partition(":")[0]
            left_out[why] = left_out.get(why, 0) + 1
    images = facts["training"] + facts["validation"]
    speed = max(best, key=lambda row: row["accuracy"])["images_per_second"] if best else None
    return {
        **about,
        **facts,
        "validation_part": config.search.validation,
        "rungs": config.search.rungs,
        "reduction": config.search.reduction,
        "sampler": config.search.sampler,
        "processes": config.search.processes,
        "counts": {
            state: sum(row["state"] == state for row in found)
            for state in ("complete", "pruned", "failed", "running")
        },
        "left_out": left_out,
        "put_back": sum(row["tries"] - 1 for row in found),
        "seconds": round(sum(row["seconds"] for row in found), _SECONDS),
        "trained_epochs": sum(row["epochs"] for row in found),
        # the most accurate trial's decoupling, for all of the configuration's epochs
        "full_training": {
            "epochs": config.epochs,
            "images": images,
            "seconds": None if not speed else config.epochs * images / speed,
        },
        "front": [row["trial"] for row in best],
        "trials": found,
    }
