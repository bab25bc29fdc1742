"""The metrics in Trackio or Weights & Biases, which are used in the same way."""

from __future__ import annotations

import secrets
import sys
from typing import Any

from localgrad.errors import LocalgradError
from localgrad.experiment.folder import RunFolder
from localgrad.experiment.log import package, scalars


class TrackerLog:
    """A run in a project of a tracker.

    ``trackers.json`` in the run's folder holds the run's id, and the newest epoch that the tracker
    was given. It is written before that epoch is handed over: trackers send in the background, and
    what a kill catches on the way is missing rather than there twice.

    Args:
        name: the package, ``"trackio"`` or ``"wandb"``.
        project: the tracker's project.
        config: the run's options.
        folder: the run's.
    """

    def __init__(self, name: str, project: str, config: dict[str, Any], folder: RunFolder) -> None:
        self.name, self.project, self.config, self.folder = name, project, config, folder
        self._package = package(name, f"log.{name}")
        self._run: Any = None

    def begin(self, history: list[dict[str, Any]], about: dict[str, Any]) -> None:
        """Start the tracker's run, or go on with it; hand over the epochs that it was not given."""
        path = self.folder.path
        state = self._state()
        options: dict[str, Any] = {
            "project": self.project,
            "name": state["name"],
            "config": {**self.config, "command": about.get("command")},
            "resume": "allow",
        }
        if self.name == "wandb":
            options |= {"id": state["id"], "dir": str(path)}
        try:
            self._run = self._package.init(**options)
        # a network, a key, a version: it may be anything
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise LocalgradError(f"log.{self.name}: cannot be started: {reason}") from error
        for metrics in history:
            self.epoch(metrics)

    def epoch(self, metrics: dict[str, Any]) -> None:
        """Add an epoch; a tracker that fails is left, and the run goes on."""
        state = self._state()
        if self._run is None or metrics["epoch"] <= state["epochs"].get(self.name, 0):
            return
        state["epochs"][self.name] = metrics["epoch"]
        self.folder.write_json("trackers.json", state)
        try:
            self._run.log(scalars(metrics), step=metrics["epoch"])
        except Exception as error:
            self._leave(error)

    def close(self) -> None:
        """Let the tracker send what is left."""
        if self._run is not None:
            try:
                self._run.finish()
            except Exception as error:
                self._leave(error)
            self._run = None

    def _state(self) -> dict[str, Any]:
        if (self.folder / "trackers.json").exists():
            kept: dict[str, Any] = self.folder.read_json("trackers.json")
            return kept
        number = secrets.token_hex(4)
        made = {"id": number, "name": f"{self.folder.path.resolve().name}-{number}", "epochs": {}}
        self.folder.write_json("trackers.json", made)
        return made

    def _leave(self, error: Exception) -> None:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        print(f"warning: log.{self.name}: {reason}; the run goes on without it", file=sys.stderr)
        self._run = None
