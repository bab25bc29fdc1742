"""A run that has trained, as it stood at its last checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from localgrad.data import Dataset, TextDataset
from localgrad.errors import LocalgradError
from localgrad.experiment import decoupling_file
from localgrad.experiment.build import Experiment, build
from localgrad.experiment.config import Config, build_config
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.seal import check_seal
from localgrad.experiment.tree import read_options


@dataclass(frozen=True)
class Saved:
    """A run with its weights in place, in evaluation mode.

    Attributes:
        path: its folder.
        experiment: learner and data.
        history: its epochs, as in ``metrics.jsonl``.
        summary: ``summary.json``, or None where the run has not come to its end.
    """

    path: Path
    experiment: Experiment
    history: list[dict[str, Any]]
    summary: dict[str, Any] | None


def read_run_config(path: Path, data_path: str | None = None) -> Config:
    """Return the configuration of the run in a folder.

    Args:
        path: the folder.
        data_path: where the data are on this machine; default: where they were.

    Raises:
        LocalgradError: the folder holds no single run.
    """
    file = path / "config.yaml"
    if not file.exists():
        raise LocalgradError(f"{path} holds no run: give the folder that `train` or `compare` made")
    if not (path / "decoupling.yaml").exists():
        runs = ", ".join(sorted(found.parent.name for found in path.glob("*/decoupling.yaml"))[:3])
        hint = f"give the runs in it, such as {runs}" if runs else "train it first"
        raise LocalgradError(f"{path} holds no trained run: {hint}")
    config = build_config(read_options(file))
    if data_path is not None:
        config = config.model_copy(
            update={"data": config.data.model_copy(update={"path": data_path})}
        )
    return config.model_copy(update={"parallel": type(config.parallel)()})


def load_run(
    path: Path, data_path: str | None = None, data: Dataset | TextDataset | None = None
) -> Saved:
    """Build the run in a folder and put its weights in place.

    Args:
        path: the folder.
        data_path: where the data are on this machine; default: where they were.
        data: already loaded, by the run's own options.

    Raises:
        LocalgradError: the folder holds no run, or its checkpoint is not there or damaged.
    """
    config = read_run_config(path, data_path)
    folder = RunFolder(path)
    kept = None if config.decoupling is None else decoupling_file.read(path)
    experiment = build(config, data, decoupling=kept)
    try:
        check_seal(folder.checkpoint)
        state = torch.load(folder.checkpoint, map_location=experiment.device, weights_only=True)
        experiment.learner.load_state_dict(state["learner"])
    except FileNotFoundError as error:
        raise LocalgradError(f"{path} has no checkpoint: train it first") from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LocalgradError(f"checkpoint {folder.checkpoint} is damaged: {reason}") from error
    experiment.learner.eval()
    summary = folder.read_json("summary.json") if folder.finished else None
    return Saved(path, experiment, folder.metrics(), summary)
