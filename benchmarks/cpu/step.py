"""One training step of every rule against BP: time, memory, FLOPs, network by network.

    python benchmarks/cpu/step.py --case resnet32 --json benchmarks/results/step-resnet32-cpu.json

What ``localgrad bench`` does, with the cases that the documents quote. Memory and FLOPs are exact
and machine-independent; networks of full size are timed at a batch that a CPU can bear, and their
memory at the batches that people train is predicted. Time is a ratio to BP; nothing else should
run meanwhile.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localgrad.cli.bench import table
from localgrad.cli.show import table as aligned
from localgrad.experiment import environment
from localgrad.experiment.bench import bench
from localgrad.experiment.config import build_config
from localgrad.experiment.host import find_device

Rule = dict[str, Any]


def rule(name: str, **options: Any) -> Rule:
    return {"name": name, **options}


LINKED = rule("backlink", head="pool_linear")
FEW = (rule("greedy"), LINKED, rule("auglocal", depth=2))
ALL = (
    rule("greedy"),
    rule("greedy", head="conv_mlp"),
    rule("dgl"),
    rule("predsim"),
    rule("infopro"),
    LINKED,
    {**LINKED, "keep_error": False},
    rule("backlink"),
    {**LINKED, "length_unit": "layer"},
    rule("backlink", length_unit="layer"),
    rule("auglocal", depth=2),
    rule("auglocal", depth=5),
    rule("bwbpf"),
    rule("deep_supervision"),
)


@dataclass(frozen=True)
class Case:
    """A network, at the batch at which it is timed and those for which memory is predicted."""

    network: Rule
    batch: int
    blocks: tuple[int, ...]
    rules: tuple[Rule, ...] = FEW
    repeats: int = 9
    shape: tuple[int, ...] | None = None
    predicted: tuple[int, ...] = ()
    predicted_shape: tuple[int, ...] | None = None


IMAGENET = {"stem": "imagenet", "num_classes": 1000}
STILL = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # as most GPTs are trained now
CASES = {
    "resnet32": Case(rule("resnet32"), 128, (16,), ALL),
    "resnet110": Case(rule("resnet110"), 128, (16, 55), predicted=(1024,)),
    "resnet50": Case(
        rule("resnet50", **IMAGENET), 4, (4, 17), repeats=5, predicted=(64, 256)
    ),
    "resnet101": Case(
        rule("resnet101", **IMAGENET), 4, (4, 34), repeats=5, predicted=(64, 256)
    ),
    "vit": Case(
        rule("timm:vit_small_patch16_224"), 4, (4, 13), repeats=5, predicted=(64, 256)
    ),
    "gpt2": Case(
        rule("transformers:gpt2", **STILL),
        1,
        (4, 13),
        repeats=5,
        shape=(256,),  # 1,024 tokens take minutes a step
        predicted=(8,),
        predicted_shape=(1024,),
    ),
}  # fmt: skip


def measure(case: Case, threads: int, device: str, repeats: int | None) -> dict[str, Any]:
    """Return the document: timed rows, and predicted ones by batch."""
    config = build_config(
        {
            "network": case.network,
            "methods": list(case.rules),
            "device": device,
            "threads": threads,
            "repeats": repeats or case.repeats,
            "optimizer": {"lr": 0.01, "nesterov": False, "weight_decay": 0.0},
        }
    )
    timed = bench(config, case.batch, case.blocks, case.shape, note=print)
    print(aligned(table(timed)), flush=True)
    predicted = []
    for batch in case.predicted:
        found = bench(config, batch, case.blocks, case.predicted_shape, predict=True)
        print(f"batch {batch}, {found.shape}, predicted")
        print(aligned(table(found)), flush=True)
        predicted += found.to_dict()["rows"]
    about = environment.describe(find_device(device))
    return {**about, **timed.to_dict(), "predicted": predicted}


def main() -> None:
    """Measure one case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="resnet32", choices=list(CASES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, help="timed pairs of steps, at least 5")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    document = measure(CASES[options.case], options.threads, options.device, options.repeats)
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
