"""What runs have learned: similarity, probes, exits, agreement with the gradients of BP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from localgrad.analysis.agreement import agreement
from localgrad.analysis.cka import Alignment, grams
from localgrad.analysis.exits import exit_flops, saving
from localgrad.analysis.features import pooled, unit_outputs
from localgrad.analysis.probes import probe
from localgrad.data import TextDataset
from localgrad.errors import LocalgradError
from localgrad.experiment import environment
from localgrad.experiment.cost import first_batch
from localgrad.experiment.saved import Saved, load_run

BATCH = 200
Note = Callable[[str], None]


def analyse(
    paths: Sequence[Path],
    inputs: int = 2000,
    probes: bool = True,
    data_path: str | None = None,
    note: Note = lambda text: None,
    command: str | None = None,
) -> dict[str, Any]:
    """Return what the runs in these folders have learned, as plain data.

    CKA and probes are of the network in evaluation mode: CKA on the first test images, a probe is
    fitted to the first training images, not augmented, and tested on the first test images.

    Args:
        paths: run folders, of one data set. CKA compares each with the first that was trained by
            BP, or with the first of all.
        inputs: number of images for CKA and of each part for the probes, at most.
        probes: also fit probes.
        data_path: where the data are, if not where they were.
        note: told in a line what is under way.
        command: what was typed; default: this process's command line.

    Raises:
        LocalgradError: a folder holds no run, the runs' data differ, or they read texts.
    """
    if inputs < 4:
        raise LocalgradError(f"inputs={inputs}: CKA needs 4 or more")
    runs = []
    for path in paths:
        note(f"reading {path}")
        runs.append(load_run(path, data_path))
    _check_alike(runs)
    reference = next((i for i, run in enumerate(runs) if len(_decoupling(run)) == 1), 0)
    return {
        "reference": reference,
        "inputs": min(inputs, len(runs[0].experiment.data.test)),
        "runs": [_one(run, inputs, probes, note) for run in runs],
        "cka": _similarities(runs, reference, inputs, note),
        **environment.describe(runs[0].experiment.device, command),
    }


def _check_alike(runs: list[Saved]) -> None:
    facts = []
    for run in runs:
        data = run.experiment.data
        if isinstance(data, TextDataset):
            raise LocalgradError(f"{run.path}: analyse reads images; this run learned texts")
        facts.append((data.label, "x".join(map(str, data.image_shape)), len(data.test)))
        if facts[-1] != facts[0]:
            first, other = (
                "{} of {}, {} for testing".format(*each) for each in (facts[0], facts[-1])
            )
            raise LocalgradError(
                f"{run.path} learned {other}; {runs[0].path} {first}: analyse runs of the same data"
            )


def _decoupling(run: Saved) -> Any:
    return run.experiment.learner.decoupling


def _one(run: Saved, inputs: int, probes: bool, note: Note) -> dict[str, Any]:
    learner, experiment = run.experiment.learner, run.experiment
    label = f"{experiment.label}, seed {experiment.config.seed}"
    note(f"{label}: gradients and exits")
    x, y = first_batch(experiment)
    learner.train()
    compared = agreement(learner, x, y)
    learner.eval()
    found: dict[str, Any] = {
        "path": str(run.path),
        "label": experiment.label,
        "method": experiment.config.method.name,
        "network": experiment.config.network.name,
        "data": experiment.data.label,
        "seed": experiment.config.seed,
        "epochs": len(run.history),
        "units": list(learner.chain.names),
        "ends": [block.stop for block in learner.decoupling.blocks],
        "agreement": [{"unit": a.unit, "cosine": a.cosine, "ratio": a.ratio} for a in compared],
        "history": [
            {key: epoch.get(key) for key in ("epoch", "losses", "agreement", "test_accuracy")}
            for epoch in run.history
        ],
        "exits": _exits(run, x),
        "command": None if run.summary is None else run.summary["command"],
    }
    if probes:
        note(f"{label}: probes")
        found["probes"] = _probes(run, inputs)
    return found


def _exits(run: Saved, x: Tensor) -> dict[str, Any] | None:
    """Return accuracy and FLOPs of each block's head; None where the run is not at its end."""
    if run.summary is None:
        return None
    learner = run.experiment.learner
    flops = exit_flops(learner, x[:2])
    accuracies = run.summary["block_accuracy"]
    cheapest = saving(accuracies, flops)
    return {"accuracy": accuracies, "flops": flops, "one_point_lower": cheapest._asdict()}


def _probes(run: Saved, inputs: int) -> list[dict[str, Any]]:
    experiment = run.experiment
    classes = experiment.data.num_classes
    train = _features(run, _first(experiment.train.evaluation(), inputs))
    test = _features(run, _first(experiment.test.evaluation(), inputs))
    found = []
    for name, fitted, tested in zip(experiment.learner.chain.names, train[0], test[0], strict=True):
        result = probe((fitted, train[1]), (tested, test[1]), classes)
        found.append({
            "unit": name,
            "train_accuracy": result.train_accuracy,
            "test_accuracy": result.test_accuracy,
        })  # fmt: skip
    return found


def _features(run: Saved, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], Tensor]:
    """Return each unit's pooled features of all inputs, and the labels."""
    parts: list[list[Tensor]] = []
    labels = []
    for x, y in batches:
        parts.append([pooled(out) for out in unit_outputs(run.experiment.learner.chain, x)])
        labels.append(y)
    return [torch.cat(column) for column in zip(*parts, strict=True)], torch.cat(labels)


def _first(
    batches: Iterator[tuple[Tensor, Tensor]], inputs: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of at most ``BATCH`` of the first inputs."""
    left = inputs
    for x, y in batches:
        for start in range(0, min(len(x), left), BATCH):
            stop = min(start + BATCH, left, len(x))
            yield x[start:stop], y[start:stop]
        left -= min(len(x), left)
        if left == 0:
            return


def _similarities(
    runs: list[Saved], reference: int, inputs: int, note: Note
) -> list[dict[str, Any]]:
    """Return CKA of each run's units with those of the reference, which is one of the runs."""
    found = []
    for number, run in enumerate(runs):
        note(f"CKA: {run.experiment.label}, seed {run.experiment.config.seed}")
        alignment = Alignment()
        for x, _ in _first(runs[0].experiment.test.evaluation(), inputs):
            if len(x) < 4:
                continue  # the rest of the last batch
            first = grams(unit_outputs(runs[reference].experiment.learner.chain, x))
            own = (
                first
                if number == reference
                else grams(unit_outputs(run.experiment.learner.chain, x))
            )
            alignment.add(first, own)
        # a unit whose output is constant is like none
        values = [[v if v == v else None for v in row] for row in alignment.result().tolist()]
        found.append({"reference": reference, "run": number, "values": values})
    return found
