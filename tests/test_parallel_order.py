"""What processes do is what the schedule says, action for action."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import launcher
from late_cases import ORDERS, SHORT
from localgrad.parallel.builders import local
from localgrad.parallel.schedule import Schedule
from parallel_processes import learner


@pytest.mark.parametrize(("blocks", "data"), [(2, 1), (4, 1), (2, 2)])
def test_processes_do_what_the_schedule_says(blocks: int, data: int, tmp_path: Path) -> None:
    found = launcher.call("late_cases", "run", "orders", tmp_path, blocks, data)
    assert found == [0] * (blocks * data)
    for name, (rule, late) in ORDERS.items():
        found = Schedule.load(tmp_path / f"{name}.json")  # one that has no problems
        whole = learner(rule)
        groups = len(whole._groups)
        ends = [groups * part // blocks for part in range(blocks + 1)]
        wanted = local(
            whole.decoupling,
            [range(a, b) for a, b in itertools.pairwise(ends)],
            SHORT,
            late_links=late,
            targets=False,
            reduce=data > 1,
        )
        for rank, (did, should) in enumerate(zip(found.ranks, wanted.ranks, strict=True)):
            assert list(map(str, did)) == list(map(str, should)), (name, rank)
        assert (found.blocks, found.ranks) == (wanted.blocks, wanted.ranks)
        assert (found.links, found.late) == (wanted.links, wanted.late)
