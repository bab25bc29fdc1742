"""The training loop: any rule, any data set, one device; it can stop and go on at any batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from localgrad import audit
from localgrad.errors import LocalgradError
from localgrad.experiment import checkpoint, environment
from localgrad.experiment.build import Experiment
from localgrad.experiment.checkpoint import Position
from localgrad.experiment.cost import autocast, first_batch, measure_cost, run_step
from localgrad.experiment.folder import RunFolder, atomically
from localgrad.experiment.schedule import build_optimizer, learning_rate

CHECK_EVERY = 50  # steps between looks at the losses, so that a GPU need not wait at each


class Interrupted(Exception):
    """The run was asked to stop; its state is saved."""


class Watcher:
    """Told what happens; the command line shows it."""

    def batch(self, position: Position, batches: int, losses: list[float] | None) -> None:
        """A batch is done; ``losses`` is of each block, where it was looked at."""

    def epoch(self, metrics: dict[str, Any], epochs: int) -> None:
        """An epoch is done."""


def train(
    experiment: Experiment,
    folder: RunFolder,
    watcher: Watcher | None = None,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
    timing: float | None = None,
) -> dict[str, Any]:
    """Train to the last epoch and fill the run folder.

    Args:
        experiment: what to train.
        folder: where everything is kept.
        watcher: told of progress.
        resume: go on from the folder's checkpoint where it has one.
        stop: asked between batches; once true, the state is saved and Interrupted raised.
        timing: time of a step against BP's, if it was measured.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        LocalgradError: the folder cannot be used, or a loss is not finite (the last good
            checkpoint stays).
        Interrupted: after saving, where ``stop`` asked for it.
    """
    watcher = watcher or Watcher()
    config, learner = experiment.config, experiment.learner
    optimizer = build_optimizer(config.optimizer, learner)
    weights = sum(p.numel() * p.element_size() for p in learner.parameters())
    folder.open(config, resume, needed_bytes=8 * weights + 2**20)
    if resume and folder.finished:
        summary: dict[str, Any] = folder.read_json("summary.json")
        return summary
    position = Position(losses=[0.0] * len(learner.decoupling))
    history: list[dict[str, Any]] = []
    if resume and folder.checkpoint.exists():
        position = checkpoint.load(folder.checkpoint, learner, optimizer)
        history = folder.metrics()[: position.epoch]
    else:
        _describe(experiment, folder)
    cost = measure_cost(experiment)
    with _saving(experiment, folder, optimizer, position):
        while position.epoch < config.epochs:
            _train_epoch(experiment, optimizer, position, watcher, stop)
            history.append(_close_epoch(experiment, position, optimizer))
            folder.write_metrics(history)
            checkpoint.save(folder.checkpoint, learner, optimizer, position)
            watcher.epoch(history[-1], config.epochs)
    summary = _summary(experiment, history, cost, position, timing)
    state = {key: value.contiguous() for key, value in learner.backbone.state_dict().items()}
    atomically(folder / "model.safetensors", lambda part: save_file(state, part))
    folder.write_json("summary.json", summary)
    return summary


def _describe(experiment: Experiment, folder: RunFolder) -> None:
    x, y = first_batch(experiment)
    x, y = x[:4], y[:4]
    learner = experiment.learner
    reach = audit(lambda: learner.step(x, y), learner)
    if reach.violations:
        raise LocalgradError(f"{experiment.label}: {reach.violations[0]}")
    folder.write_json("decoupling.yaml", learner.decoupling.to_dict())
    folder.write_json("environment.json", environment.describe(experiment.device))
    folder.write_json("reach.json", reach.to_dict())


@contextmanager
def _saving(
    experiment: Experiment,
    folder: RunFolder,
    optimizer: torch.optim.Optimizer,
    position: Position,
) -> Iterator[None]:
    try:
        yield
    except Interrupted:
        checkpoint.save(folder.checkpoint, experiment.learner, optimizer, position)
        raise


def _train_epoch(
    experiment: Experiment,
    optimizer: torch.optim.Optimizer,
    position: Position,
    watcher: Watcher,
    stop: Callable[[], bool],
) -> None:
    config, learner, batches = experiment.config, experiment.learner, experiment.train
    learner.train()
    start = time.perf_counter()
    before = position.epoch_seconds
    pending: list[Tensor] = []
    correct: Tensor | None = None
    for index, (x, y) in enumerate(batches.epoch(position.epoch)):
        if index < position.batch:
            continue
        progress = position.epoch + index / len(batches)
        rate = learning_rate(config.schedule, config.optimizer.lr, progress, config.epochs)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        out = run_step(experiment, learner, x, y)
        optimizer.step()
        hits = (out.logits.argmax(dim=1) == y).sum()
        correct = hits if correct is None else correct + hits
        pending.append(torch.stack([loss.float() for loss in out.losses]) * len(x))
        position.batch = index + 1
        position.seen += len(x)
        asked = stop()
        losses = None
        if asked or len(pending) == CHECK_EVERY or position.batch == len(batches) or x.is_cpu:
            losses = _settle(pending, position)
            position.correct += float(correct)
            correct = None
            losses = [value / len(x) for value in losses]
        position.epoch_seconds = before + time.perf_counter() - start
        watcher.batch(position, len(batches), losses)
        if asked:
            raise Interrupted


def _settle(pending: list[Tensor], position: Position) -> list[float]:
    """Add up the losses of the last steps; refuse any that is not finite. Returns the newest."""
    values = torch.stack(pending)
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        step, block = bad[0].tolist()
        batch = position.batch - len(pending) + step
        raise LocalgradError(
            f"the loss of block {block} is not finite in epoch {position.epoch + 1}, batch {batch + 1}"
            ": lower --optimizer.lr or warm up; the last checkpoint is kept"
        )
    totals = values.double().sum(dim=0).tolist()
    position.losses = [a + b for a, b in zip(position.losses, totals, strict=True)]
    newest: list[float] = values[-1].tolist()
    pending.clear()
    return newest


def _close_epoch(
    experiment: Experiment, position: Position, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Test, and turn the epoch under way into a line of metrics."""
    seen = position.seen
    losses = [total / seen for total in position.losses]
    accuracy = test_accuracy(experiment)
    metrics = {
        "epoch": position.epoch + 1,
        "lr": optimizer.param_groups[0]["lr"],
        "train_loss": losses[-1],
        "losses": losses,
        "train_accuracy": position.correct / seen,
        "test_accuracy": accuracy,
        "seconds": position.epoch_seconds,
        "images_per_second": seen / position.epoch_seconds,
    }
    position.seconds += position.epoch_seconds
    position.epoch += 1
    position.batch, position.seen, position.correct, position.epoch_seconds = 0, 0, 0.0, 0.0
    position.losses = [0.0] * len(losses)
    return metrics


@torch.no_grad()
def test_accuracy(experiment: Experiment) -> float:
    """Return the part of the test images that the backbone classifies right, 0..1."""
    learner = experiment.learner
    learner.eval()
    correct = torch.zeros((), dtype=torch.long, device=experiment.device)
    with autocast(experiment):
        for x, y in experiment.test.evaluation():
            correct += (learner(x).argmax(dim=1) == y).sum()
    learner.train()
    return float(correct) / experiment.test.number_of_images


@torch.no_grad()
def block_accuracy(experiment: Experiment) -> list[float | None]:
    """Return the test accuracy of every loss's classifier, None where it has none."""
    learner = experiment.learner
    learner.eval()
    counts: list[Tensor | None] = []
    with autocast(experiment):
        for x, y in experiment.test.evaluation():
            scores = learner.exits(x)
            hits = [None if s is None else (s.argmax(dim=1) == y).sum() for s in scores]
            counts = [_add(a, b) for a, b in zip(counts, hits, strict=True)] if counts else hits
    learner.train()
    number = experiment.test.number_of_images
    return [None if count is None else float(count) / number for count in counts]


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else a + b


def _summary(
    experiment: Experiment,
    history: list[dict[str, Any]],
    cost: dict[str, int],
    position: Position,
    timing: float | None,
) -> dict[str, Any]:
    config = experiment.config
    backbone = sum(p.numel() for p in experiment.learner.backbone.parameters())
    parameters = sum(p.numel() for p in experiment.learner.parameters())
    images = len(experiment.data.train) - (
        len(experiment.data.train) % config.batch_size if config.data.drop_last else 0
    )
    about = environment.describe(experiment.device)
    return {
        "label": experiment.label,
        "method": config.method.name,
        "method_options": config.method.options,
        "network": config.network.name,
        "data": experiment.data.label,
        "train_images": len(experiment.data.train),
        "test_images": len(experiment.data.test),
        "batch_size": config.batch_size,
        "blocks": len(experiment.learner.decoupling),
        "seed": config.seed,
        "epochs": config.epochs,
        "parameters": backbone,
        "head_parameters": parameters - backbone,
        "test_accuracy": history[-1]["test_accuracy"],
        "best_test_accuracy": max(epoch["test_accuracy"] for epoch in history),
        "train_seconds": position.seconds,
        "images_per_second": images * config.epochs / position.seconds,
        **cost,
        "time_ratio": timing,
        "block_accuracy": block_accuracy(experiment),
        **about,
    }
