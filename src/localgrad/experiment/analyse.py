"""What runs have learned: similarity, probes, exits, agreement with the gradients of BP."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from localgrad.analysis.agreement import agreement
from localgrad.analysis.cka import Alignment, grams
from localgrad.analysis.exits import exit_flops, saving
from localgrad.analysis.features import pooled, unit_outputs
from localgrad.analysis.probes import probe
from localgrad.data import Dataset, TextDataset
from localgrad.errors import LocalgradError
from localgrad.experiment import decoupling_file, environment
from localgrad.experiment.cost import first_batch
from localgrad.experiment.saved import Saved, load_run, read_run_config

BATCH = 200
Note = Callable[[str], None]


def analyse(
    paths: Sequence[Path],
    inputs: int = 2000,
    probes: bool = True,
    data_path: str | None = None,
    note: Note = lambda text: None,
    command: str | None = None,
    data: Dataset | TextDataset | None = None,
) -> dict[str, Any]:
    """Return what the runs in these folders have learned, as plain data.

    CKA and probes are of the network in evaluation mode: CKA on the first test images, a probe is
    fitted to the first training images, not augmented, and tested on the first test images. No more
    than two networks are in memory: the reference and one other.

    Args:
        paths: run folders, of one data set. CKA compares each with the first that was trained by
            BP, or with the first of all.
        inputs: number of images for CKA and of each part for the probes, at most.
        probes: also fit probes.
        data_path: where the data are, if not where they were.
        note: told in a line what is under way.
        command: what was typed; default: this process's command line.
        data: already loaded, by the options that all the runs have.

    Raises:
        LocalgradError: a folder holds no run, the runs' data differ, or they read texts.
    """
    if inputs < 4:
        raise LocalgradError(f"inputs={inputs}: CKA needs 4 or more")
    load = _Loader(data_path, data, note)
    for path in paths:
        read_run_config(path)  # a folder that holds none is found before anything is loaded
    losses = [len(decoupling_file.read(path / "decoupling.yaml")) for path in paths]
    reference = losses.index(1) if 1 in losses else 0
    base = load(paths[reference])
    known = list(_grams(base, base, inputs))
    found, alike = [], []
    for number, path in enumerate(paths):
        run = base if number == reference else load(path)
        found.append(_one(run, inputs, probes, note))
        note(f"CKA: {run.experiment.label}, seed {run.experiment.config.seed}")
        values = _similarity(known, known if run is base else _grams(run, base, inputs))
        alike.append({"reference": reference, "run": number, "values": values})
        del run  # before the next one is built
    return {
        "reference": reference,
        "inputs": min(inputs, len(base.experiment.data.test)),
        "runs": found,
        "cka": alike,
        **environment.describe(base.experiment.device, command),
    }


class _Loader:
    """Loads runs one by one, and the data of those that have the same options once."""

    def __init__(self, path: str | None, data: Dataset | TextDataset | None, note: Note) -> None:
        self.path, self.given, self.note = path, data, note
        self.first: Saved | None = None

    def __call__(self, path: Path) -> Saved:
        self.note(f"reading {path}")
        data = self.given
        if self.first is not None:
            first = self.first.experiment
            if read_run_config(path, self.path).data == first.config.data:
                data = first.data
        run = load_run(path, self.path, data)
        self.first = self.first or run
        _check_alike(self.first, run)
        return run


def _check_alike(first: Saved, run: Saved) -> None:
    facts = []
    for each in (first, run):
        data = each.experiment.data
        if isinstance(data, TextDataset):
            raise LocalgradError(f"{each.path}: analyse reads images; this run learned texts")
        shape = "x".join(map(str, data.image_shape))
        facts.append(f"{data.label} of {shape}, {len(data.test)} for testing")
    if facts[1] != facts[0]:
        raise LocalgradError(
            f"{run.path} learned {facts[1]}; {first.path} {facts[0]}: analyse runs of the same data"
        )


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


def _grams(run: Saved, base: Saved, inputs: int) -> Iterator[Tensor]:
    """Yield :func:`grams` of a run's units for batches of the reference's test images."""
    for x, _ in _first(base.experiment.test.evaluation(), inputs):
        if len(x) >= 4:  # the rest of the last batch may be fewer
            yield grams(unit_outputs(run.experiment.learner.chain, x))


def _similarity(known: Iterable[Tensor], own: Iterable[Tensor]) -> list[list[float | None]]:
    """Return CKA of the reference's units (rows) with a run's."""
    alignment = Alignment()
    for first, second in zip(known, own, strict=True):
        alignment.add(first, second)
    # a unit whose output is constant is like none
    return [[v if v == v else None for v in row] for row in alignment.result().tolist()]
