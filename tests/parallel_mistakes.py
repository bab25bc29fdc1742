"""Three processes that do not agree, and one that goes away; each writes what it is told."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from launcher import forked
from localgrad import LocalgradError
from localgrad.parallel.mesh import Mesh
from localgrad.parallel.pipeline import ParallelLearner
from parallel_processes import adamw, batches, learner

SIZE = 3


def told(does: Callable[[], object]) -> str:
    try:
        does()
    except LocalgradError as error:
        return str(error)
    return "nothing"


def differ(mesh: Mesh) -> list[str]:
    other = learner("backlink")
    if mesh.rank == 2:
        with torch.no_grad():
            other.backbone[3].weight[0] += 1
    found = [told(lambda: ParallelLearner(other, mesh))]
    rule = "greedy" if mesh.rank == 1 else "backlink"
    found.append(told(lambda: ParallelLearner(learner(rule), mesh)))
    one = ParallelLearner(learner("backlink"), mesh)
    x, y = batches()[0]
    if mesh.rank == 1:
        y = (y + 1) % 10
    found.append(told(lambda: one.step(x, y)))
    return found


def lose(mesh: Mesh, how: str, folder: Path) -> list[str]:
    one = ParallelLearner(learner("backlink"), mesh)
    steps = one.steps(batches(), adamw(one.parameters()))

    def some() -> None:
        for t, _ in enumerate(steps):
            if mesh.rank == 1 and t == 5:
                while how == "hang" and len(list(folder.iterdir())) < SIZE - 1:
                    time.sleep(0.1)  # until the others have ended
                os._exit(9)

    return [told(some)]


def one_process(rank: int, folder: str, how: str) -> None:
    mesh = Mesh.start(SIZE, 1, "cpu", timeout=4 if how == "hang" else 30)
    found = differ(mesh) if how == "differ" else lose(mesh, how, Path(folder))
    (Path(folder) / str(rank)).write_text("\n".join(found), encoding="utf-8")
    os._exit(0)  # the others may be gone: no farewell


def run(folder: str, how: str) -> list[int | None]:
    """Let three processes differ, or one of them die or hang."""
    return forked(one_process, SIZE, folder, how)
