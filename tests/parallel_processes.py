"""Every rule in several processes; rank 0 writes the weights that they end with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from launcher import forked
from localgrad import LocalgradError, LocalLearner, decouple, methods
from localgrad.parallel import gathered
from localgrad.parallel.mesh import Mesh
from localgrad.parallel.pipeline import ParallelLearner

STEPS, BATCH = 20, 12
Batch = tuple[Tensor, Tensor]


def batches(precision: torch.dtype = torch.float32) -> list[Batch]:
    """Batches of another size every fourth time: the last of an epoch."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for t in range(STEPS):
        size = BATCH // 2 if t % 4 == 3 else BATCH
        x = torch.rand(size, 1, 8, 8, generator=generator, dtype=precision)
        found.append((x, torch.randint(10, (size,), generator=generator)))
    return found


def network(norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    width = 1
    for out in (4, 4, 6, 6, 8, 8):
        layers.append(nn.Conv2d(width, out, 3, stride=1 + (out > width > 1), padding=1))
        layers += [nn.BatchNorm2d(out)] if norm else []
        layers.append(nn.ReLU())
        width = out
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 4, 10))


RULES: dict[str, Any] = {
    "greedy": methods.Greedy(),
    "backlink": methods.BackLink(),
    "backlink_head_again": methods.BackLink(keep_error=False, weight=0.5),
    "backlink_whole_block": methods.BackLink(length=3, combine="replace"),
    "backlink_layers": methods.BackLink(length_unit="layer"),
    "auglocal": methods.AugLocal(depth=1),
    "bwbpf": methods.BWBPF(),
    "predsim": methods.PredSim(),
    "backlink_no_norm": methods.BackLink(head="pool_linear"),
    "infopro": methods.InfoPro(mean=(0.0,), std=(1.0,)),
}


def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01)


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3)


#: with replicas: a batch norm's statistics are each replica's own
REPLICATED = ("greedy", "backlink_no_norm", "bwbpf")
OPTIMIZERS = {"sgd": sgd, "adamw": adamw}
#: name: rule, optimizer, updates block by block, autocast to bf16
CASES: dict[str, tuple[str, str, bool, bool]] = {
    **{f"{rule}-sgd": (rule, "sgd", True, False) for rule in RULES if rule != "backlink_no_norm"},
    **{f"{rule}-adamw": (rule, "adamw", True, False) for rule in ("greedy", "backlink")},
    **{f"{rule}-at-once": (rule, "adamw", False, False) for rule in ("greedy", "backlink")},
    **{f"{rule}-bf16": (rule, "sgd", True, True) for rule in ("greedy", "backlink")},
}


def learner(rule: str, norm: bool = True, precision: torch.dtype = torch.float32) -> LocalLearner:
    model = network(norm).to(precision, memory_format=torch.channels_last)
    example = batches(precision)[0][0][:2]
    return decouple(model, RULES[rule], 6, example_input=example)


def rate(step: int) -> float:
    """The learning rate falls: what waits for a link must use that of its own step."""
    return 0.05 / (1 + step)


def trained_alone(one: LocalLearner, optimizer: torch.optim.Optimizer, bf16: bool) -> None:
    for t, (x, y) in enumerate(batches(next(one.parameters()).dtype)):
        optimizer.param_groups[0]["lr"] = rate(t)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            one.step(x, y)
        optimizer.step()
        optimizer.zero_grad()


def trained_together(
    one: ParallelLearner, optimizer: torch.optim.Optimizer, by_block: bool, bf16: bool
) -> None:
    given = batches(one.parameters()[0].dtype)
    if not by_block:
        for t, (x, y) in enumerate(given):
            optimizer.param_groups[0]["lr"] = rate(t)
            one.step(x, y)
            optimizer.step()
            optimizer.zero_grad()
        return
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        optimizer.param_groups[0]["lr"] = rate(0)
        for t, _ in enumerate(one.steps(given, optimizer)):
            optimizer.param_groups[0]["lr"] = rate(t + 1)


def every_case(mesh: Mesh, folder: Path) -> None:
    for name, (rule, kind, by_block, bf16) in CASES.items():
        whole = learner(rule)
        one = ParallelLearner(whole, mesh)
        optimizer = OPTIMIZERS[kind](one.parameters())
        trained_together(one, optimizer, by_block, bf16)
        state = gathered.state(one)
        moments = gathered.optimizer_state(one, optimizer)
        exits = mesh.gather(one.eval().exits(batches()[0][0]))
        if name == "backlink-sgd":
            joined(one, whole)
        if mesh.rank == 0:
            kept = [score for part in exits[: mesh.blocks] for score in part]
            torch.save((state, moments, kept), folder / f"{name}.pt")


def joined(one: ParallelLearner, whole: LocalLearner) -> None:
    """The whole learner is back in every process, and steps as one."""
    assert gathered.join(one) is whole
    assert not any(p.isnan().any() for p in whole.parameters())
    whole.train().zero_grad()
    whole.step(*batches()[0])
    gradients = [None if p.grad is None else p.grad for p in whole.parameters()]
    for others in one.mesh.gather(gradients):
        for a, b in zip(gradients, others, strict=True):
            assert a is b is None or torch.equal(a, b)
    try:
        one.step(*batches()[0])
    except LocalgradError:
        return
    raise AssertionError("a part stepped on")


def replicas(mesh: Mesh, folder: Path) -> None:
    for rule in REPLICATED:
        one = ParallelLearner(learner(rule, norm=False, precision=torch.float64), mesh)
        optimizer = sgd(one.parameters())
        trained_together(one, optimizer, True, False)
        state = gathered.state(one)
        mine = [p.detach() for p in one.parameters()]
        columns = mesh.gather(mine)
        twin = columns[(mesh.rank + mesh.blocks) % (mesh.blocks * mesh.data)]
        assert all(torch.equal(a, b) for a, b in zip(mine, twin, strict=True))
        if mesh.rank == 0:
            torch.save(state, folder / f"{rule}.pt")


def one_process(rank: int, folder: str, blocks: int, data: int) -> None:
    mesh = Mesh.start(blocks, data, "cpu", timeout=60)
    (every_case if data == 1 else replicas)(mesh, Path(folder))
    mesh.close()


def run(folder: str, blocks: int, data: int) -> list[int | None]:
    return forked(one_process, blocks * data, folder, blocks, data)
