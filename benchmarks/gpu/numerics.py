"""Every rule on the GPU against the CPU: float64 gradients, same bits twice, bf16 beside fp32;
and the ways to be fast against the plain step: two streams, a recorded step, both.

    python benchmarks/gpu/numerics.py --json benchmarks/results/numerics-gpu.json

Exits 1 where a float64 gradient differs by more than 1e-9 of its norm, or two equal steps by a bit;
or a step on two streams or a recorded one by more than 1e-6 of the plain step's (they run the same
kernels, but libraries may choose others for a recording).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products

import torch
from torch import Tensor

import localgrad
from localgrad import methods as M
from localgrad import networks
from localgrad.experiment import environment

RULES: list[M.Method] = [
    M.Backprop(),
    M.Backprop("unit"),
    M.Greedy(),
    M.DGL(),
    M.PredSim(),
    M.InfoPro(),
    M.BackLink(),
    M.BackLink(length_unit="layer"),
    M.BackLink(combine="replace"),
    M.BackLink(keep_error=False),
    M.AugLocal(2),
    M.BWBPF(),
    M.DeepSupervision(),
]


FAST = ("streams", "recorded", "both")
ON_MAPS = (M.InfoPro,)  # rules with a head for feature maps alone
NETWORKS = {"resnet20": 10, "vit_cifar": 7}  # a network that names its units, and a traced one


def gradients(
    network: str, rule: M.Method, device: str, dtype: torch.dtype, bf16: bool = False
) -> list[Tensor]:
    torch.manual_seed(0)
    model = networks.get(network).to(dtype)
    x, y = torch.rand(32, 3, 32, 32, dtype=dtype), torch.randint(10, (32,))
    learner = localgrad.decouple(model, rule, blocks=NETWORKS[network], example_input=x)
    learner = learner.to(device)
    if network == "resnet20":
        learner = learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.to(memory_format=torch.channels_last)
    x, y = x.to(device), y.to(device)
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        learner.step(x, y)
    return collected(learner)


def collected(learner: localgrad.LocalLearner) -> list[Tensor]:
    return [p.grad.cpu() for p in learner.parameters() if p.grad is not None]


def fast_gradients(network: str, rule: M.Method, streams: int, recorded: bool) -> list[Tensor]:
    """Gradients of the third step, after two on other batches that must leave no trace."""
    torch.manual_seed(0)
    model = networks.get(network).cuda()
    x, y = torch.rand(3, 32, 3, 32, 32).cuda(), torch.randint(10, (3, 32)).cuda()
    learner = localgrad.decouple(model, rule, blocks=NETWORKS[network], example_input=x[0])
    learner.streams = streams
    step = localgrad.CapturedStep(learner, x[0], y[0]).step if recorded else learner.step
    for images, labels in zip(x, y, strict=True):
        learner.zero_grad()
        step(images, labels)
    return collected(learner)


def difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return ||found - expected|| / ||expected|| over all gradients together."""
    error = torch.cat(
        [(a.double() - b.double()).flatten() for a, b in zip(found, expected, strict=True)]
    )
    return float(error.norm() / torch.cat([b.double().flatten() for b in expected]).norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    rows: list[dict[str, Any]] = []
    for network, rule in itertools.product(NETWORKS, RULES):
        if network != "resnet20" and isinstance(rule, ON_MAPS):
            continue
        run = partial(gradients, network, rule)
        single = run(options.device, torch.float32)
        again = run(options.device, torch.float32)
        row = {
            "network": network,
            "rule": M.label(rule),
            "float64": difference(run(options.device, torch.float64), run("cpu", torch.float64)),
            "float32": difference(single, run("cpu", torch.float32)),
            "bf16": difference(run(options.device, torch.float32, True), single),
            "same_bits": all(torch.equal(a, b) for a, b in zip(single, again, strict=True)),
        }
        if options.device == "cuda":
            plain = fast_gradients(network, rule, 1, recorded=False)
            ways = {"streams": (2, False), "recorded": (1, True), "both": (2, True)}
            for name, (streams, recorded) in ways.items():
                if recorded and rule == M.Backprop("unit"):
                    continue  # recomputation cannot be recorded
                row[name] = difference(fast_gradients(network, rule, streams, recorded), plain)
        rows.append(row)
        print(
            f"{network:10} {row['rule']:34} float64 {row['float64']:.1e}  "
            f"float32 {row['float32']:.1e}  bf16 {row['bf16']:.1e}  same bits {row['same_bits']}",
            flush=True,
        )
        print(" " * 11 + "  ".join(f"{n} {row[n]:.1e}" for n in FAST if n in row), flush=True)
    if options.json:
        about = environment.describe(torch.device(options.device))
        document = {**about, "n": 1, "rows": rows}
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    wrong = any(row.get(name, 0.0) > 1e-6 for row in rows for name in FAST)
    if wrong or any(row["float64"] > 1e-9 or not row["same_bits"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
