"""Which groups go to which process: by time at work, within the memory that each has."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

import launcher
from localgrad import LocalgradError
from localgrad.experiment.config import build_config
from localgrad.learner import LocalLearner
from localgrad.memory import measure_memory
from localgrad.parallel.assignment import balanced, by_time
from localgrad.parallel.division import settled
from localgrad.parallel.part_memory import part_memory
from localgrad.partition import smallest_maximum
from parallel_processes import batches, learner

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def spans(ends: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip((0, *ends), ends, strict=False))


# --- by time


def test_planning_and_processes_divide_alike() -> None:
    seconds = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    for parts in range(1, 9):
        ends = by_time(seconds, parts)
        assert [tuple(range(a, b)) for a, b in spans(ends)] == list(balanced(seconds, parts))
        assert ends == smallest_maximum(8, parts, lambda a, b: sum(seconds[a:b]))


def test_the_fastest_division_that_fits() -> None:
    """Against all divisions there are; the memory of a part is no sum."""
    seconds = [3.0, 1.0, 4.0, 1.0, 5.0, 2.0]
    sizes = [9, 2, 2, 2, 1, 4]

    def memory(start: int, stop: int) -> int:
        return sum(sizes[start:stop]) + max(sizes[start:stop])

    every = [(*inside, 6) for inside in itertools.combinations(range(1, 6), 2)]
    for limit in range(18, 30):
        allowed = [e for e in every if max(memory(a, b) for a, b in spans(e)) <= limit]
        best = min(max(sum(seconds[a:b]) for a, b in spans(e)) for e in allowed)
        found = by_time(seconds, 3, memory, limit)
        assert found in allowed
        assert max(sum(seconds[a:b]) for a, b in spans(found)) == best
    with pytest.raises(LocalgradError) as error:
        by_time(seconds, 3, memory, 17, "groups of blocks")
    assert str(error.value).startswith(
        "6 groups of blocks do not fit on 3 ranks of 17 bytes: the best division needs 18 bytes"
    )


# --- at work, by a clock of our own


def at_work(alone: Sequence[float], factors: Sequence[float], asked: list[tuple[int, ...]]):  # type: ignore[no-untyped-def]
    """Parts take so many times longer beside the others."""

    def timed(ends: tuple[int, ...]) -> list[float]:
        asked.append(ends)
        return [f * sum(alone[a:b]) for f, (a, b) in zip(factors, spans(ends), strict=True)]

    return timed


def test_parts_that_are_slower_together_get_less() -> None:
    alone = [1.0] * 12
    asked: list[tuple[int, ...]] = []
    assert settled(alone, 2, at_work(alone, (1.0, 2.0), asked)) == (8, 12)
    assert asked[0] == (6, 12)


def test_what_is_as_measured_alone_stays() -> None:
    alone = [3.0, 1.0, 1.0, 1.0]
    asked: list[tuple[int, ...]] = []
    assert settled(alone, 2, at_work(alone, (1.3, 1.3), asked)) == (1, 4)
    assert asked == [(1, 4)]


def test_of_all_that_was_tried_the_fastest_is_taken() -> None:
    """Times that contradict each other bring the division back and forth."""
    found = {(2, 4): [4.0, 1.0], (1, 4): [1.0, 9.0], (3, 4): [8.0, 2.0]}
    asked: list[tuple[int, ...]] = []

    def timed(ends: tuple[int, ...]) -> list[float]:
        asked.append(ends)
        return found[ends]

    assert settled([1.0] * 4, 2, timed) == (2, 4)
    assert 1 < len(asked) <= 3


def test_no_division_at_work_is_beyond_the_memory() -> None:
    alone = [1.0] * 12
    asked: list[tuple[int, ...]] = []
    timed = at_work(alone, (1.0, 5.0), asked)
    assert settled(alone, 2, timed, lambda a, b: b - a, 7) == (7, 12)
    assert asked == [(6, 12), (7, 12)]


# --- memory of a part


@pytest.mark.parametrize("rule", ["greedy", "backlink", "backlink_whole_block"])
def test_the_memory_of_a_part_is_what_a_step_takes(rule: str) -> None:
    """Counted on a real step of all groups: a part of all has no messages."""
    one = learner(rule)
    x, y = batches()[0]
    before = {name: value.clone() for name, value in one.state_dict().items()}
    predicted = part_memory(one, x, y, SGD)
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())
    assert all(p.grad is None for p in one.parameters())
    real = counted(one, x, y)
    assert real <= predicted(0, 6) <= 1.5 * real + 2 * x.nbytes
    for start, stop in itertools.combinations(range(7), 2):
        whole = predicted(start, stop)
        assert whole >= predicted.fixed[start] + predicted.peaks[start]
        assert stop == 6 or predicted(start, stop + 1) > sum(predicted.fixed[start:stop])


def counted(one: LocalLearner, x: torch.Tensor, y: torch.Tensor) -> int:
    optimizer = SGD(one.parameters())
    one.step(x, y)
    optimizer.step()

    def step() -> None:
        optimizer.zero_grad()
        one.step(x, y, update=optimizer)

    found = measure_memory(step, one, optimizer)
    buffers = sum(buffer.nbytes for buffer in one.buffers())
    return found.parameters + found.gradients + found.optimizer + found.activations + buffers


@pytest.mark.parametrize("given", ["much", "-1", 0, "3 iB"])
def test_a_memory_that_is_none(given: str | int) -> None:
    with pytest.raises(LocalgradError, match=r"parallel.memory: memory .*(size|at least one byte)"):
        build_config({"parallel": {"memory": given}})
    assert build_config({"parallel": {"memory": "2GiB"}}).parallel.memory == "2GiB"


# --- in processes


def test_processes_agree_and_stay_as_they_were(tmp_path: Path) -> None:
    assert launcher.call("parallel_division", "run", tmp_path) == [0, 0]
    first, *others = [path.read_text(encoding="utf-8") for path in sorted(tmp_path.iterdir())]
    assert others == [first]
    ends, tight, refused = first.splitlines()
    assert ends.endswith(" 6")
    assert tight == "1 6"
    assert refused.startswith("6 groups of blocks do not fit on 2 ranks of 1 bytes: the best")
