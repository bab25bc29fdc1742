"""Whether two configurations are of one run: which options decide its numbers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from localgrad.errors import LocalgradError
from localgrad.experiment.config import Config, to_yaml
from localgrad.experiment.tree import flat
from localgrad.experiment.yaml_text import loads, read_yaml

# what may differ between a run and its resumption: it changes no number already reached
FREE = (
    *("out", "device", "threads", "checkpoint_every", "methods", "seeds", "repeats"),
    *("checkpoint.keep", "log.tensorboard", "log.trackio", "log.wandb", "log.agreement"),
    *("data.path", "data.workers", "data.prefetch", "analyse"),
    *("parallel.blocks", "parallel.data", "parallel.timeout", "parallel.memory"),
    *("search.trials", "search.processes"),
)


def identity(config: Config) -> str:
    """Return a digest of the options that decide a run's numbers."""
    tree = flat(loads(to_yaml(config)))
    numbers = {key: value for key, value in tree.items() if key not in FREE}
    return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()


def of_comparison(folder: Path) -> bool:
    """Whether the options in a folder are those of a comparison, not of a single run."""
    alone = (folder / "decoupling.yaml").exists()
    return not alone and bool(flat(read_yaml(folder / "config.yaml")).get("methods"))


def check_same(folder: Path, config: Config) -> None:
    """Refuse to go on in a folder with another configuration than it has.

    Raises:
        LocalgradError: names what differs.
    """
    old, new = flat(read_yaml(folder / "config.yaml")), flat(loads(to_yaml(config)))
    compares = of_comparison(folder)
    if compares != bool(new["methods"]):
        kind = "comparison" if compares else "single run"
        raise LocalgradError(f"{folder} holds a {kind}: give another --out")
    compared = [key for key in {**old, **new} if key not in FREE]
    if compares:  # its rules and seeds are in methods and seeds
        compared = [key for key in compared if key != "seed" and not key.startswith("method.")]
    if new["data.name"] == "text":  # there the path is the data
        compared.append("data.path")
    none = object()
    default = flat(loads(to_yaml(Config())))  # of options younger than the run
    changed = [
        key
        for key in compared
        if old.get(key, default.get(key, none)) != new.get(key, default.get(key, none))
    ]
    if changed:
        detail = ", ".join(
            f"{key} was {old.get(key, 'not set')}, now {new.get(key, 'not set')}" for key in changed
        )
        raise LocalgradError(
            f"{folder} holds a run of another configuration ({detail}): give another --out"
        )
