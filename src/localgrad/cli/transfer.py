"""``localgrad transfer FILE``: a decoupling carried over to another network."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from localgrad import Decoupling, Part, decouple, plain_data, predict_flops, predict_memory
from localgrad.cli import show
from localgrad.cli.asked_files import check_writable, write_json
from localgrad.errors import LocalgradError
from localgrad.experiment import decoupling_file, environment
from localgrad.experiment.config import Config
from localgrad.experiment.made_up import MadeUp, make, read_count, read_shape
from localgrad.experiment.whole_file import atomically
from localgrad.search import Transferred, transfer

BATCH = "128"


def run(operands: list[str], config: Config, flags: dict[str, Any], command: str) -> int:
    """Print what became of each cut and head; write the decoupling for the new network."""
    file, *others = operands
    if others:
        raise LocalgradError(f"transfer takes one decoupling: what is {others[0]!r}?")
    for path in (flags.get("json"), flags.get("out")):
        check_writable(path)
    batch = read_count("batch", flags.get("batch", BATCH))
    if "batch" in flags and "predict" not in flags:
        raise LocalgradError("transfer takes --batch with --predict")
    source = decoupling_file.read(file)
    shape = read_shape(flags["input"]) if "input" in flags else None
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    subject = make(config, shape)
    found = transfer(source, subject.chain, subject.example())
    if config.ties is not None:
        found = found._replace(decoupling=replace(found.decoupling, ties=config.ties))
    title = f"{source.method}: {len(source.units)} units to {config.network.name}'s"
    print(f"{title} {len(subject.chain)}, {len(source)} losses\n{found.report}")
    costs = _costs(subject, found.decoupling, batch) if "predict" in flags else None
    if costs is not None:
        memory, flops = (show.ratio(costs[key]) for key in ("activations_ratio", "flops_ratio"))
        print(f"predicted at batch {batch}: activations {memory} of BP's, FLOPs {flops}")
    write_json(flags.get("json"), _record(config, file, command, source, found, subject, costs))
    if "out" in flags:
        text = plain_data.text(found.decoupling.to_dict())
        atomically(Path(flags["out"]), lambda part: part.write_text(text, encoding="utf-8"))
        train = shlex.join(["localgrad", "train", "--decoupling", flags["out"], *_network(config)])
        print(f"wrote {flags['out']}; train it with: {train}")
    return 0


def _network(config: Config) -> list[str]:
    """Return the words that name the network and its units."""
    found = ["--network.name", config.network.name]
    for key, value in config.network.options.items():
        found += [f"--network.{key}", json.dumps(value) if not isinstance(value, str) else value]
    if config.granularity != "unit":
        found += ["--granularity", config.granularity]
    if config.units is not None:
        found += ["--units", ",".join(config.units)]
    return found


def _costs(subject: MadeUp, decoupling: Decoupling, batch: int) -> dict[str, Any]:
    """Return activations and FLOPs of a step, and against BP's, predicted."""
    known: list[tuple[int, int]] = []
    for what in (_plain_images(decoupling), "backprop"):
        learner = decouple(
            subject.chain,
            what,
            example_input=subject.example(),
            loss=subject.loss,
            ties=decoupling.ties,
        )
        try:
            x = subject.example()
            memory = predict_memory(learner, x, batch=batch)
            known.append((memory.activations, predict_flops(learner, x, batch=batch)))
        finally:
            learner.release()
    (activations, flops), (most, base) = known
    return {
        "batch": batch,
        "activations": activations,
        "activations_ratio": activations / most,
        "flops": flops,
        "flops_ratio": flops / base,
    }


def _plain_images(decoupling: Decoupling) -> Decoupling:
    """Return the decoupling for made-up images, which are not normalised."""
    plain = {"mean": [0.0], "std": [1.0]}
    blocks = tuple(
        replace(block, loss=Part(block.loss.name, {**block.loss.options, **plain}))
        if block.loss.name == "infopro"
        else block
        for block in decoupling.blocks
    )
    return replace(decoupling, blocks=blocks)


def _record(
    config: Config,
    file: str,
    command: str,
    source: Decoupling,
    found: Transferred,
    subject: MadeUp,
    costs: dict[str, Any] | None,
) -> dict[str, Any]:
    return {
        **environment.describe(subject.device, command),
        "file": file,
        "network": config.network.name,
        "network_options": config.network.options,
        "source": source.source,
        **found.report.to_dict(),
        "decoupling": found.decoupling.to_dict(),
        "predicted": costs,
    }
