"""``localgrad train``: one rule, one seed."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from threading import Event
from typing import Any

import localgrad
from localgrad import methods
from localgrad.cli import show
from localgrad.cli.asked_files import check_writable, write_json
from localgrad.cli.interrupt import stop_at_signal
from localgrad.cli.last_word import end_now
from localgrad.cli.page import write_run_page
from localgrad.errors import LocalgradError
from localgrad.experiment import decoupling_file
from localgrad.experiment.build import build
from localgrad.experiment.building.method import build_method
from localgrad.experiment.compare import slug
from localgrad.experiment.config import Config
from localgrad.experiment.folder import OthersFolder, RunFolder
from localgrad.experiment.loop import Interrupted, train
from localgrad.parallel.mesh import Mesh

ONE = {"images": "an image", "sequences": "a sequence"}


def run(config: Config, flags: dict[str, Any], command: str) -> int:
    """Train, fill the run folder, print the summary."""
    config = config.model_copy(update={"methods": [], "seeds": []})  # those are for compare
    check_writable(flags.get("json"))
    label = methods.label(build_method(config.method))
    if config.decoupling is not None:
        label = decoupling_file.label(config.decoupling)
    name = slug(f"{label}-{config.network.name}-{config.data.name}-s{config.seed}")
    where = config.out or Path("runs") / name
    folder = RunFolder(where)
    resume, quiet = "resume" in flags, "quiet" in flags
    folder.check(config, resume)
    finished = (
        None if config.decoupling is None else decoupling_file.of_run(config.decoupling, folder)
    )
    if folder.finished:
        if config.parallel.processes > 1 and os.environ.get("RANK", "0") != "0":
            return 0  # one process says so
        print(f"{folder.path} is finished already")
        return _report(folder, folder.read_json("summary.json"), flags)
    if config.parallel.processes == 1:
        _check_alone()
    asked = Event()
    with stop_at_signal(asked.set if config.parallel.processes > 1 else None) as stop:
        mesh = _processes(config, asked)
        if mesh is not None and mesh.rank != 0:
            folder, quiet = OthersFolder(where), True
        progress = show.progress_bar(quiet)
        with progress or nullcontext(), folder.alone():
            experiment = build(config, mesh=mesh, decoupling=finished)
            watcher = None if quiet else show.Bar(label, progress, config.data.inputs)
            try:
                summary = train(experiment, folder, watcher, resume, stop, command=command)
            except Interrupted:
                out = shlex.quote(str(folder.path))
                if mesh is None or mesh.rank == 0:
                    go_on = f"localgrad train --out {out} --resume"
                    print(f"stopped; go on with: {go_on}", file=sys.stderr)
                if mesh is not None:
                    mesh.close()
                return 130
    if mesh is not None:
        mesh.close()
        if mesh.rank != 0:
            return 0
    return _report(folder, summary, flags)


def _report(folder: RunFolder, summary: dict[str, Any], flags: dict[str, Any]) -> int:
    _print(summary)
    page = write_run_page(folder, summary)
    print(f"wrote {folder.path}: summary.json, metrics.jsonl, model.safetensors, {page}")
    write_json(flags.get("json"), summary)
    return 0


def _check_alone() -> None:
    """Refuse processes of which each would train the whole, into the same folder."""
    started = os.environ.get("WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" in os.environ and started != "1":
        raise LocalgradError(
            f"torchrun has started {started} processes, but parallel.blocks x parallel.data is 1: "
            f"set --parallel.blocks {started}, or start without torchrun"
        )


def _processes(config: Config, asked: Event) -> Mesh | None:
    """Meet the other processes, where there are to be several.

    Args:
        config: says how many.
        asked: set by a signal to end.
    """
    wanted = config.parallel
    if wanted.processes == 1:
        return None
    device = None if config.device == "auto" else config.device
    mesh = Mesh.start(wanted.blocks, wanted.data, device, wanted.timeout)
    mesh.roll.asked, mesh.roll.ends = asked, end_now
    tree = {
        "version of localgrad": localgrad.__version__,
        "version of Python": platform.python_version(),
        **{key: value for key, value in _flat(config.model_dump()).items() if key != "out"},
    }
    mesh.agree(tree, "start every process with the same options and installation")
    return mesh


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in tree.items():
        inner = isinstance(value, dict)
        found |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": str(value)}
    return found


def _print(summary: dict[str, Any]) -> None:
    print(f"{summary['label']} on {summary['network']}, {summary['data']}")
    inputs = summary.get("inputs", "images")
    bits = {key: summary[key] for key in ("bits_per_byte", "bits_per_char") if key in summary}
    facts = {
        "test accuracy": f"{100 * summary['test_accuracy']:.2f} %",
        **{key.replace("_", " "): f"{value:.3f}" for key, value in bits.items()},
        "losses": str(summary["blocks"]),
        "peak activation memory": show.mebibytes(summary["peak_activation_bytes"]),
        "peak memory": show.mebibytes(summary["peak_memory_bytes"]),
        f"FLOPs {ONE[inputs]}": f"{summary['flops_per_image'] / 1e6:,.1f} M",
        "training": f"{summary['train_seconds']:,.1f} s",
        "speed": f"{summary['images_per_second']:,.0f} {inputs}/s",
    }
    if summary["skipped_images"]:
        facts["corrupt images left out"] = f"{summary['skipped_images']} (skipped.json)"
    print(show.aligned([[f"  {name}", value] for name, value in facts.items()]))
