"""Late links in several processes, and what every rank does; rank 0 writes what came out."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from pathlib import Path

import torch

from launcher import forked
from localgrad import LocalLearner
from localgrad.parallel import gathered
from localgrad.parallel.late import LateLearner
from localgrad.parallel.mesh import Mesh
from localgrad.parallel.pipeline import ParallelLearner
from localgrad.parallel.schedule import Schedule
from parallel_processes import OPTIMIZERS, STEPS, batches, learner, rate, sgd

#: name: rule, optimizer, updates block by block, late links, steps after which training pauses
CASES: dict[str, tuple[str, str, bool, bool | tuple[int, ...], tuple[int, ...]]] = {
    "sgd": ("backlink", "sgd", True, True, ()),
    "adamw": ("backlink", "adamw", True, True, ()),
    "pauses": ("backlink", "sgd", True, True, (0, 7)),
    "at-once": ("backlink", "adamw", False, True, ()),
    "head_again": ("backlink_head_again", "sgd", True, True, ()),
    "whole_block": ("backlink_whole_block", "sgd", True, True, ()),
    "layers": ("backlink_layers", "sgd", True, True, ()),
    "bf16": ("backlink", "sgd", True, True, ()),
    "named": ("backlink", "sgd", True, (0, 2), ()),
}
#: rule, late links
ORDERS: dict[str, tuple[str, bool | tuple[int, ...]]] = {
    "greedy": ("greedy", False),
    "in-time": ("backlink", False),
    "late": ("backlink", True),
    "named": ("backlink", (0, 2)),
}
SHORT = 4  # steps


def train(
    one: ParallelLearner | LateLearner,
    optimizer: torch.optim.Optimizer,
    by_block: bool = True,
    bf16: bool = False,
    pauses: Collection[int] = (),
    steps: int = STEPS,
) -> None:
    """Step over batches; after some steps, take what is late."""
    whole = one.learner
    for t, (x, y) in enumerate(batches(next(whole.parameters()).dtype)[:steps]):
        optimizer.param_groups[0]["lr"] = rate(t)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            one.step(x, y, optimizer if by_block else None)
        if not by_block:
            optimizer.step()
            optimizer.zero_grad()
        if t in pauses:
            one.finish()
    one.finish()


def alone(name: str, late: Collection[int]) -> tuple[LocalLearner, torch.optim.Optimizer]:
    """Train in one process with late links at the given blocks."""
    rule, kind, by_block, _, pauses = CASES[name]
    whole = learner(rule)
    optimizer = OPTIMIZERS[kind](whole.parameters())
    train(LateLearner(whole, late), optimizer, by_block, name == "bf16", pauses)
    return whole, optimizer


def every_case(mesh: Mesh, folder: Path) -> None:
    for name, (rule, kind, by_block, late, pauses) in CASES.items():
        one = ParallelLearner(learner(rule), mesh, late_links=late)
        optimizer = OPTIMIZERS[kind](one.parameters())
        train(one, optimizer, by_block, name == "bf16", pauses)
        assert one.actions is None
        kept = (
            gathered.state(one),
            gathered.optimizer_state(one, optimizer),
            gathered.late_gradients(one),
        )
        if name == "sgd":
            whole = gathered.join(one)
            had = [None if p.grad is None else p.grad for p in whole.parameters()]
            assert sum(grad is not None for grad in had) == len(gathered_names(mesh, kept[2]))
        if mesh.rank == 0:
            torch.save((*kept, one.late_blocks), folder / f"{name}.pt")


def gathered_names(mesh: Mesh, waiting: dict[str, torch.Tensor] | None) -> list[str]:
    names: list[str] = mesh.gather(None if waiting is None else list(waiting))[0]
    return names


def replicas(mesh: Mesh, folder: Path) -> None:
    whole = learner("backlink_no_norm", norm=False, precision=torch.float64)
    one = ParallelLearner(whole, mesh, late_links=True)
    train(one, sgd(one.parameters()), pauses=(4,))
    kept = gathered.state(one), one.late_blocks
    if mesh.rank == 0:
        torch.save(kept, folder / "replicas.pt")


def orders(mesh: Mesh, folder: Path) -> None:
    for name, (rule, late) in ORDERS.items():
        rule = "backlink_no_norm" if mesh.data > 1 and rule == "backlink" else rule
        norm = mesh.data == 1
        one = ParallelLearner(learner(rule, norm=norm), mesh, late_links=late, record=True)
        train(one, sgd(one.parameters()), steps=SHORT)
        ends = [0, *one.share.ends]
        own = tuple(tuple(range(a, b)) for a, b in itertools.pairwise(ends))
        schedule = Schedule(
            name, own, tuple(map(tuple, mesh.gather(one.actions)[: mesh.blocks])),
            tuple(k for k, group in enumerate(one.share.everything) if group.linked),
            one.late_blocks,
        )  # fmt: skip
        if mesh.rank == 0:
            schedule.save(folder / f"{name}.json")


WHAT = {"bits": every_case, "replicas": replicas, "orders": orders}


def one_process(rank: int, what: str, folder: str, blocks: int, data: int) -> None:
    mesh = Mesh.start(blocks, data, "cpu", timeout=60)
    WHAT[what](mesh, Path(folder))
    mesh.close()


def run(what: str, folder: str, blocks: int, data: int) -> list[int | None]:
    return forked(one_process, blocks * data, what, folder, blocks, data)
