"""A row's run, and what is smaller in it than published: exactly which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from localgrad.errors import LocalgradError
from localgrad.experiment.config import Config, build_config
from localgrad.experiment.reproduce.table import Row, Table
from localgrad.experiment.same_run import FREE
from localgrad.experiment.tree import flat, override

#: What makes a row this row; to change it would be another row.
_THE_ROW = (
    *("method", "network.name", "data.name", "blocks", "cuts", "granularity", "units", "balance"),
    *("seed", "ties", "decoupling"),
)
_ONLY_SPEED = (
    "compile",
    "compile_fallback",
    "channels_last",
    "optimizer.update",
    "optimizer.fused",
)
_NO_COST = ("epochs", "data", "schedule", "optimizer.lr", "optimizer.weight_decay")


def run_config(
    row: Row, seed: int, changes: Sequence[tuple[str, Any]] = (), out: str | None = None
) -> Config:
    """Return what is run of a row.

    Fewer epochs shorten the warm-up in proportion, unless the changes say otherwise.

    Args:
        row: of a table; it has a recipe.
        seed: of this run.
        changes: dotted options and values, such as ``("data.limit", 512)``.
        out: the run's folder.

    Raises:
        LocalgradError: a change is not to the recipe but to the row itself, or is refused.
    """
    assert row.config is not None, row.name
    tree = row.config.model_dump()
    for key, value in changes:
        if any(key == fixed or key.startswith(f"{fixed}.") for fixed in _THE_ROW):
            raise LocalgradError(
                f"--{key} would make another row: choose rows by --rows, seeds by --seeds"
            )
        override(tree, key, value)
    given = {key for key, _ in changes}
    if "schedule.warmup_epochs" not in given and tree["epochs"] != row.config.epochs:
        whole = row.config.schedule.warmup_epochs / row.config.epochs
        if isinstance(tree["epochs"], int):
            tree["schedule"]["warmup_epochs"] = whole * tree["epochs"]
    if out is not None:
        tree["out"] = out
    return build_config({**tree, "seed": seed})


def scaled(
    table: Table, row: Row, config: Config, summary: dict[str, Any] | None = None
) -> list[str]:
    """Return what is not as published in a run, in words; nothing for the full recipe.

    Args:
        table: knows how many images there are.
        row: with the full recipe.
        config: what was run.
        summary: of the finished run, which knows how many images there were and which copy.
    """
    assert row.config is not None, row.name
    full, ours = flat(row.config.model_dump()), flat(config.model_dump())
    marks = []
    for key in {**full, **ours}:
        was, now = full.get(key), ours.get(key)
        if was == now or key in (*FREE, *_ONLY_SPEED, "seed", "data.limit"):
            continue
        if key == "schedule.warmup_epochs" and _in_proportion(row.config, config):
            continue
        marks.append(_mark(key, was, now))
    if config.epochs != row.config.epochs and row.config.schedule.warmup_epochs:
        index = next(i for i, mark in enumerate(marks) if mark.startswith("epochs "))
        if _in_proportion(row.config, config):
            marks[index] += ", warm-up in proportion"
    images = config.data.limit if summary is None else summary["train_images"]
    whole = table.images
    if whole is None and config.data.limit is not None:
        marks.insert(0, f"images {images:,}")
    elif whole is not None and images is not None and images != whole:
        marks.insert(0, _mark("images", whole, images))
    if summary is not None and summary["data"] != config.data.name:
        marks.append(f"data: {summary['data']}")
    return marks


def cost_marks(row: Row, config: Config, marks: list[str]) -> list[str]:
    """Return those of the marks that change a step's memory and time; images and epochs do not."""
    assert row.config is not None, row.name
    full, ours = flat(row.config.model_dump()), flat(config.model_dump())
    kept = []
    for key in {**full, **ours}:
        if key in (*FREE, *_ONLY_SPEED) or key == "seed" or key.startswith(_NO_COST):
            continue
        if full.get(key) != ours.get(key):
            kept.append(_mark(key, full.get(key), ours.get(key)))
    batch = ours["batch_size"]
    limit = ours["data.limit"]
    if limit is not None and limit < batch:
        kept.append(f"batch {limit:,} of {full['batch_size']:,}")
    return [mark for mark in marks if mark in kept] + [m for m in kept if m not in marks]


def check_changes(changes: Sequence[tuple[str, Any]], rows: Sequence[Row]) -> None:
    """Refuse changes that no row takes, before anything is read or run."""
    for row in rows:
        if row.config is not None:
            run_config(row, 0, changes)


def _in_proportion(full: Config, ours: Config) -> bool:
    whole, part = full.schedule.warmup_epochs, ours.schedule.warmup_epochs
    return abs(whole * ours.epochs - part * full.epochs) < 1e-9 * max(full.epochs, 1)


def _mark(key: str, was: Any, now: Any) -> str:
    name = {"batch_size": "batch", "data.test_limit": "test images"}.get(key, key)
    if was is None:
        return f"{name} {_shown(now)}"
    if _smaller(was, now):
        return f"{name} {_shown(now)} of {_shown(was)}"
    return f"{name} {_shown(now)}, not {_shown(was)}"


def _smaller(was: Any, now: Any) -> bool:
    return isinstance(was, int) and isinstance(now, int) and not isinstance(was, bool) and now < was


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "not set"}[value]
    return f"{value:,}" if isinstance(value, int) else _number(value)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
