"""The training loop: any rule, any data set, one device; it can stop and go on at any batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from localgrad import Reach, audit, plain_data
from localgrad.errors import LocalgradError
from localgrad.experiment import environment
from localgrad.experiment.build import Experiment
from localgrad.experiment.checkpoint import Position
from localgrad.experiment.compiling import compile_steps
from localgrad.experiment.cost import first_batch, measure_cost
from localgrad.experiment.finite import check_weights, settle_losses
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.kept_checkpoints import KeptCheckpoints
from localgrad.experiment.late_update import LateUpdate
from localgrad.experiment.log import RunLog
from localgrad.experiment.part_update import PartUpdate, divided
from localgrad.experiment.results import summarise, tested, write_model
from localgrad.experiment.same_data import same_data
from localgrad.experiment.same_run import identity
from localgrad.experiment.schedule import learning_rate
from localgrad.experiment.skipped import note_skipped
from localgrad.experiment.update import Update
from localgrad.experiment.watcher import Interrupted as Interrupted
from localgrad.experiment.watcher import Watcher as Watcher

CHECK_EVERY = 50  # steps between looks at the losses, so that a GPU need not wait at each


def train(
    experiment: Experiment,
    folder: RunFolder,
    watcher: Watcher | None = None,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
    timing: float | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Train to the last epoch and fill the run folder.

    Args:
        experiment: what to train.
        folder: where everything is kept.
        watcher: told of progress.
        resume: go on from the folder's checkpoint where it has one.
        stop: asked between batches; once true, the state is saved and Interrupted raised.
        timing: time of a step against BP's, if it was measured.
        command: what was typed; default: this process's command line.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        LocalgradError: the folder cannot be used, or another process is in it; or a loss or
            weight is not finite (the last good checkpoint stays).
        Interrupted: after saving, where ``stop`` asked for it.
    """
    with folder.alone():
        return _trained(experiment, folder, watcher or Watcher(), resume, stop, timing, command)


def _trained(
    experiment: Experiment,
    folder: RunFolder,
    watcher: Watcher,
    resume: bool,
    stop: Callable[[], bool],
    timing: float | None,
    command: str | None,
) -> dict[str, Any]:
    config, learner = experiment.config, experiment.learner
    folder.check(config, resume)
    mesh = experiment.mesh
    if folder.finished:
        summary: dict[str, Any] = folder.read_json("summary.json")
        return summary
    log = RunLog(experiment, folder)
    late = mesh is None and config.parallel.late_links is not False
    update = (LateUpdate if late else Update)(config, learner, experiment.device)
    cost = measure_cost(experiment)
    kept = KeptCheckpoints(folder, config.checkpoint.keep)
    reach = None if kept.found() else _audited(experiment)
    if mesh is not None:
        same_data(mesh, experiment.data)  # and all have looked at the folder before one writes
        ends = divided(config, learner, mesh, first_batch(experiment))
    compiled = compile_steps(experiment, learner)
    if compiled is not None:
        watcher.compiled(compiled)
    size = sum(p.numel() * p.element_size() for p in learner.parameters())
    room = 3 * size * (config.checkpoint.keep + 2)  # AdamW's two moments; the best, the next one
    folder.open(config, resume, needed_bytes=room + 2**20)
    history: list[dict[str, Any]] = []
    about = {
        "run": identity(config),
        **environment.describe(experiment.device, command),
        "data_facts": experiment.data.facts(),
    }
    if reach is None:
        run = folder.read_json("environment.json").get("run", "")
        position, damaged = kept.load(learner, update.optimizer, update.scaler, run)
        for text in damaged if folder.writes else ():
            watcher.refused(text)
        history = _history(folder, position)
        about = environment.resumed(folder, about)
        kept.note_best(history, position)
    else:
        position = Position(losses=[0.0] * len(learner.decoupling), run=about["run"])
        folder.write("decoupling.yaml", plain_data.text(learner.decoupling.to_dict()))
        folder.write_json("environment.json", about)
        folder.write_json("reach.json", reach.to_dict())
    if mesh is not None:
        done = position.epoch * len(experiment.train) + position.batch
        update = PartUpdate(config, learner, mesh, update.optimizer, position, ends, done)
        stop = update.agreed(stop)

    def save() -> None:
        note_skipped(experiment, folder)
        with kept.making_room():
            update.save(folder.checkpoint, position)

    with log.open(history, about):
        while position.epoch < config.epochs:
            _train_epoch(experiment, update, position, watcher, stop, save)
            history.append(log.completed(_close_epoch(experiment, position, update)))
            folder.write_metrics(history)
            save()
            kept.note_best(history, position)
            log.epoch(history[-1])
            watcher.epoch(history[-1], config.epochs)
    costs = {**cost, "time_ratio": timing}
    summary = summarise(experiment, history, position.seconds, costs, about, update)
    summary["skipped_images"] = note_skipped(experiment, folder)
    weights = update.backbone()
    if weights is not None:
        write_model(weights, folder / "model.safetensors")
    summary |= update.facts()
    if compiled is not None:
        summary["compiled"] = compiled.to_dict()
    folder.write_json("summary.json", summary)
    return summary


def _audited(experiment: Experiment) -> Reach:
    """Return the measured reach of a step; refuse one that is not the declared reach."""
    x, y = first_batch(experiment)
    x, y = x[:4], y[:4]
    learner = experiment.learner
    reach = audit(lambda: learner.step(x, y), learner)
    if reach.violations:
        raise LocalgradError(f"{experiment.label}: {reach.violations[0]}")
    return reach


def _history(folder: RunFolder, position: Position) -> list[dict[str, Any]]:
    found = folder.metrics()[: position.epoch]
    if len(found) < position.epoch:
        raise LocalgradError(
            f"{folder / 'metrics.jsonl'} has {len(found)} epochs, the checkpoint {position.epoch}: "
            "put the file back, or delete the checkpoint to start the run anew"
        )
    return found


def _train_epoch(
    experiment: Experiment,
    update: Update,
    position: Position,
    watcher: Watcher,
    stop: Callable[[], bool],
    save: Callable[[], None],
) -> None:
    """Train from where the epoch stands to its end, saving on the way where that is wished.

    Raises:
        Interrupted: after saving, where ``stop`` asked for it.
        LocalgradError: after saving, where the images cannot be read.
    """
    config, learner, batches = experiment.config, experiment.learner, experiment.train
    learner.train()
    start = time.perf_counter()
    before = position.epoch_seconds
    pending: list[Tensor] = []
    correct: Tensor | None = None
    every = config.checkpoint_every

    def settle() -> list[float] | None:
        nonlocal correct
        if correct is None:
            return None
        newest = settle_losses(pending, position)
        position.skipped += update.take_skipped()
        position.correct += float(correct)
        correct = None
        return newest

    def keep() -> None:
        settle()
        update.finish()
        check_weights(update, position)
        save()

    left = _kept_if_unreadable(batches.epoch(position.epoch, position.batch), update, keep)
    for index, (x, y) in enumerate(update.over(left), start=position.batch):
        progress = position.epoch + index / len(batches)
        rate = learning_rate(config.schedule, config.optimizer.lr, progress, config.epochs)
        update.set_rate(rate)
        out = update.step(x, y)
        hits = update.hits(out, y)
        correct = hits if correct is None else correct + hits
        pending.append(torch.stack([loss.float() for loss in out.losses]) * len(x))
        position.batch = index + 1
        position.seen += len(x)
        asked = stop()
        due = every is not None and position.batch % every == 0 and position.batch < len(batches)
        keeps = asked or due
        losses = None
        if keeps or len(pending) == CHECK_EVERY or position.batch == len(batches) or x.is_cpu:
            newest = settle()
            losses = newest and [value / len(x) for value in newest]
        position.epoch_seconds = before + time.perf_counter() - start
        watcher.batch(position, len(batches), losses)
        if keeps:
            keep()
        if asked:
            raise Interrupted
    update.finish()
    check_weights(update, position)


def _kept_if_unreadable(
    batches: Iterator[tuple[Tensor, Tensor]], update: Update, keep: Callable[[], None]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Save before an image that cannot be read ends the run."""
    try:
        yield from batches
    except LocalgradError:
        if update.all_stop():
            keep()
        raise


def _close_epoch(experiment: Experiment, position: Position, update: Update) -> dict[str, Any]:
    """Test, and turn the epoch under way into a line of metrics."""
    seen = position.seen
    total = update.combined(position)
    losses = [value / seen for value in total.losses]
    metrics = {
        "epoch": position.epoch + 1,
        "lr": update.optimizer.param_groups[0]["lr"],
        "train_loss": losses[-1],
        "losses": losses,
        "train_accuracy": total.correct / (seen * experiment.targets_each),
        **tested(experiment, update),
        **({} if update.scaler is None else {"skipped_updates": position.skipped}),
        "seconds": position.epoch_seconds,
        "images_per_second": seen / position.epoch_seconds,
    }
    position.seconds += position.epoch_seconds
    position.epoch += 1
    position.batch, position.seen, position.correct, position.epoch_seconds = 0, 0, 0.0, 0.0
    position.losses, position.skipped = [0.0] * len(losses), 0
    return metrics
