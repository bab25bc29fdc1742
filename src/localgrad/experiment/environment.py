"""What a result depends on besides its configuration."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from localgrad.experiment.folder import RunFolder

PACKAGES = ("localgrad", "torch", "numpy")
NETWORKS = ("transformers",)  # named where the run loaded them


def versions() -> dict[str, str]:
    """Return the versions of Python and the packages that make the numbers."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *(name for name in NETWORKS if name in sys.modules)):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["torch"] = str(torch.__version__)
    return found


def commit() -> str | None:
    """Return the commit of the source tree, with ``+`` where it was changed; None outside git."""
    root = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) not in root.parents:
            return None
        git("ls-files", "--error-unmatch", "environment.py")
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "-uno") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return None


def hardware(device: torch.device) -> str:
    """Return the processor's or accelerator's name and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        pass
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' * (threads > 1)} of {os.cpu_count()} cores"


def command() -> str:
    """Return the command line that started this process."""
    words = [Path(sys.argv[0]).name if sys.argv else "python", *sys.argv[1:]]
    if words[0] == "__main__.py":
        words[0] = "localgrad"
    return shlex.join(words)


def describe(device: torch.device, typed: str | None = None) -> dict[str, Any]:
    """Return everything above, with the date; ``typed`` takes the process's command's place."""
    return {
        "command": typed or command(),
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(device),
        "platform": platform.platform(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def resumed(folder: RunFolder, now: dict[str, Any]) -> dict[str, Any]:
    """Add ``now`` under ``resumed`` to the folder's ``environment.json``.

    Returns:
        What the run began with: its command makes the result, the resumption's alone does not.
    """
    began: dict[str, Any] = folder.read_json("environment.json")
    began["resumed"] = [*began.get("resumed", []), now]
    folder.write_json("environment.json", began)
    return {key: value for key, value in began.items() if key != "resumed"}
