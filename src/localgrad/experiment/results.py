"""What a trained network achieves: accuracies, the summary, the weights as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from localgrad.experiment.build import Experiment
from localgrad.experiment.cost import autocast
from localgrad.experiment.folder import atomically


@torch.no_grad()
def test_accuracy(experiment: Experiment) -> float:
    """Return the part of the test images that the backbone classifies right, 0..1."""
    learner = experiment.learner
    learner.eval()
    correct = torch.zeros((), dtype=torch.long, device=experiment.device)
    seen = 0
    with autocast(experiment):
        for x, y in experiment.test.evaluation():
            correct += (learner(x).argmax(dim=1) == y).sum()
            seen += len(y)
    learner.train()
    return float(correct) / seen


@torch.no_grad()
def block_accuracy(experiment: Experiment) -> list[float | None]:
    """Return the test accuracy of every loss's classifier, None where it has none."""
    learner = experiment.learner
    learner.eval()
    counts: list[Tensor | None] = []
    seen = 0
    with autocast(experiment):
        for x, y in experiment.test.evaluation():
            scores = learner.exits(x)
            hits = [None if s is None else (s.argmax(dim=1) == y).sum() for s in scores]
            counts = [_add(a, b) for a, b in zip(counts, hits, strict=True)] if counts else hits
            seen += len(y)
    learner.train()
    return [None if count is None else float(count) / seen for count in counts]


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else a + b


def summarise(
    experiment: Experiment,
    history: list[dict[str, Any]],
    seconds: float,
    cost: dict[str, Any],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Return what ``summary.json`` holds.

    Args:
        experiment: trained.
        history: the epochs' metrics.
        seconds: spent in training steps.
        cost: bytes, FLOPs and time of a step.
        about: command, versions and machine that the run began with.
    """
    config = experiment.config
    backbone = sum(p.numel() for p in experiment.learner.backbone.parameters())
    parameters = sum(p.numel() for p in experiment.learner.parameters())
    images = len(experiment.data.train)
    if config.data.drop_last:
        images -= images % config.batch_size
    return {
        "label": experiment.label,
        "method": config.method.name,
        "method_options": config.method.options,
        "network": config.network.name,
        "network_options": config.network.options,
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
        "train_seconds": seconds,
        "images_per_second": images * config.epochs / seconds,
        **cost,
        "block_accuracy": block_accuracy(experiment),
        **about,
    }


def write_model(model: nn.Module, path: Path) -> None:
    """Write the plain network's weights; tied ones are written under each of their names."""
    state = {
        key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()
    }
    atomically(path, lambda part: part.write_bytes(save(state)))
