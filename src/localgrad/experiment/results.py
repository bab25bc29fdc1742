"""What a trained network achieves: accuracies, the summary, the weights as a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from localgrad import Decoupling
from localgrad.analysis.exits import saving
from localgrad.data import TextDataset
from localgrad.experiment.build import Experiment
from localgrad.experiment.precision import autocast
from localgrad.experiment.update import Update
from localgrad.experiment.whole_file import atomically
from localgrad.tracing.units import tensor_of

RESULTS = ("test_accuracy", "test_loss", "bits_per_byte", "bits_per_char")


@torch.no_grad()
def tested(experiment: Experiment, update: Update | None) -> dict[str, float]:
    """Return what the backbone achieves on the test part.

    ``test_accuracy`` is the part of the targets (labels of images, tokens of a text) that it gets
    right, 0..1; ``test_loss`` the task loss, in nats a target. Of a text there is also
    ``bits_per_byte`` or ``bits_per_char``.

    Args:
        experiment: trained.
        update: what trained it, which knows how to run a network in parts; None: the learner.
    """
    forward = experiment.learner if update is None else update.scores
    learner = experiment.learner
    learner.eval()
    correct = torch.zeros((), dtype=torch.long, device=experiment.device)
    loss = torch.zeros((), dtype=torch.double, device=experiment.device)
    count = 0
    with autocast(experiment.device, experiment.config.precision):
        for x, y in experiment.test.evaluation():
            out = forward(x)
            count += y.numel()
            if out is None:
                continue
            scores = tensor_of(out)
            correct += (scores.argmax(dim=-1) == y).sum()
            loss += experiment.loss(scores, y).double() * y.numel()
    learner.train()
    both = [float(correct), float(loss)]
    if update is not None:
        both = [sum(column) for column in zip(*update.gathered(both), strict=True)]
    found = {"test_accuracy": both[0] / count, "test_loss": both[1] / count}
    if isinstance(experiment.data, TextDataset):
        found[f"bits_per_{experiment.data.level}"] = found["test_loss"] / math.log(2)
    return found


@torch.no_grad()
def block_accuracy(experiment: Experiment, update: Update) -> list[float | None]:
    """Return the test accuracy of every loss's classifier, None where it has none."""
    learner = experiment.learner
    learner.eval()
    counts: list[Tensor | None] = []
    number = 0
    with autocast(experiment.device, experiment.config.precision):
        for x, y in experiment.test.evaluation():
            scores = update.exits(x)
            hits = [None if s is None else (s.argmax(dim=-1) == y).sum() for s in scores]
            number += y.numel()
            counts = [_add(a, b) for a, b in zip(counts, hits, strict=True)] if counts else hits
    learner.train()
    own = [None if count is None else float(count) / number for count in counts]
    return [accuracy for some in update.gathered(own) for accuracy in some]


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else a + b


def summarise(
    experiment: Experiment,
    history: list[dict[str, Any]],
    seconds: float,
    cost: dict[str, Any],
    about: dict[str, Any],
    update: Update,
) -> dict[str, Any]:
    """Return what ``summary.json`` holds.

    Args:
        experiment: trained.
        history: the epochs' metrics.
        seconds: spent in training steps.
        cost: bytes, FLOPs and time of a step, and FLOPs of each exit.
        about: command, versions and machine that the run began with.
        update: what trained.
    """
    config = experiment.config
    backbone = sum(p.numel() for p in experiment.learner.backbone.parameters())
    parameters = sum(p.numel() for p in experiment.learner.parameters())
    accuracies = block_accuracy(experiment, update)
    images = len(experiment.data.train)
    if config.data.drop_last:
        images -= images % config.batch_size
    return {
        "label": experiment.label,
        **_rule(experiment),
        "network": config.network.name,
        "network_options": config.network.options,
        "data": experiment.data.label,
        "inputs": config.data.inputs,
        "train_images": len(experiment.data.train),
        "test_images": len(experiment.data.test),
        "batch_size": config.batch_size,
        "blocks": len(experiment.learner.decoupling),
        "seed": config.seed,
        "epochs": config.epochs,
        "parameters": backbone,
        "head_parameters": parameters - backbone,
        **{key: history[-1][key] for key in RESULTS if key in history[-1]},
        "best_test_accuracy": max(epoch["test_accuracy"] for epoch in history),
        "train_seconds": seconds,
        "images_per_second": images * config.epochs / seconds,
        **cost,
        "block_accuracy": accuracies,
        "one_point_lower": saving(accuracies, cost["exit_flops"])._asdict(),
        **about,
    }


def _rule(experiment: Experiment) -> dict[str, Any]:
    """Return the rule's name and options; of a finished decoupling, those that it was made by."""
    config, method = experiment.config, experiment.method
    if not isinstance(method, Decoupling):
        return {"method": config.method.name, "method_options": config.method.options}
    facts = {"decoupling": config.decoupling, "decoupling_source": method.source}
    return {"method": method.method, "method_options": method.options, **facts}


def write_model(weights: dict[str, Tensor], path: Path) -> None:
    """Write the plain network's weights; tied ones are written under each of their names."""
    state = {key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}
    atomically(path, lambda part: part.write_bytes(save(state)))
