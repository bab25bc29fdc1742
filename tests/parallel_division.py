"""Two processes that divide the groups between them; each writes what it has found.

Usage: parallel_division.py FOLDER
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

import torch

from localgrad import LocalgradError
from localgrad.parallel.division import at_work
from localgrad.parallel.mesh import Mesh
from parallel_processes import batches, free_port, learner


def one_process(rank: int, port: int, folder: Path) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    torch.set_num_threads(1)
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
    (folder / str(rank)).write_text("\n".join(lines), encoding="utf-8")
    mesh.close()


if __name__ == "__main__":
    port = free_port()
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=one_process, args=(rank, port, Path(sys.argv[1])))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in processes))
