"""Two processes that divide the groups between them; each writes what it has found."""

from __future__ import annotations

from pathlib import Path

import torch

from launcher import forked
from localgrad import LocalgradError
from localgrad.parallel.division import at_work
from localgrad.parallel.mesh import Mesh
from parallel_processes import batches, learner


def one_process(rank: int, folder: str) -> None:
    mesh = Mesh.start(2, 1, "cpu", timeout=60)
    one = learner("backlink")
    x, y = batches()[0]
    before = {name: value.clone() for name, value in one.state_dict().items()}
    random = torch.get_rng_state()
    ends = at_work(one, mesh, x, y)
    # all but the first group take nothing: what is first is alone
    tight = at_work(one, mesh, x, y, lambda start, stop: stop if start == 0 else 1, 1)
    try:
        at_work(one, mesh, x, y, lambda start, stop: 2, 1)
    except LocalgradError as error:
        refused = str(error)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_num_threads() == 1
    assert all(p.grad is None for p in one.parameters())
    for name, value in one.state_dict().items():
        assert torch.equal(value, before[name]), name
    lines = [" ".join(map(str, ends)), " ".join(map(str, tight)), refused]
    (Path(folder) / str(rank)).write_text("\n".join(lines), encoding="utf-8")
    mesh.close()


def run(folder: str) -> list[int | None]:
    return forked(one_process, 2, folder)
