"""The simulation against closed forms, cases counted by hand, and a slow one that only relaxes."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator

import pytest

from localgrad import LocalgradError
from localgrad.parallel.assignment import even
from localgrad.parallel.builders import gpipe, local, one_f_one_b
from localgrad.parallel.costs import BlockCosts, Costs
from localgrad.parallel.schedule import Action, Schedule
from localgrad.parallel.simulate import Timeline, simulate
from schedules import backlink, decoupling, greedy


def equal(blocks: int, forward: float = 1.0, backward: float = 2.0, **more) -> Costs:
    block = BlockCosts(forward, backward, link=0.5)
    return Costs((block,) * blocks, **more)


# --- closed forms


@pytest.mark.parametrize("build", [gpipe, one_f_one_b])
@pytest.mark.parametrize(("p", "m"), [(1, 4), (2, 2), (4, 8), (8, 32)])
def test_the_bubble_of_a_pipeline(build, p, m):
    """(p - 1) / (m + p - 1): GPipe, section 2.3; the same for 1F1B with a flush."""
    found = simulate(build(p, m, 6), equal(p))
    assert found.step_seconds == pytest.approx(3 * (m + p - 1))
    assert found.idle_shares() == pytest.approx([(p - 1) / (m + p - 1)] * p)


@pytest.mark.parametrize(("p", "m"), [(4, 8), (8, 3), (3, 3)])
def test_what_a_pipeline_keeps_alive(p, m):
    """GPipe keeps m micro-batches on every rank, 1F1B at most p - r on rank r."""
    block = BlockCosts(1.0, 2.0, activations=1000, parameters=7, state=14)
    costs = Costs((block,) * p)
    assert simulate(gpipe(p, m, 2), costs).peak_bytes == (21 + 1000 * m,) * p
    assert simulate(one_f_one_b(p, m, 2), costs).peak_bytes == tuple(
        21 + 1000 * min(m, p - rank) for rank in range(p)
    )


def test_isolated_blocks_take_as_long_as_the_slowest_rank():
    seconds = [2.0, 1.0, 4.0, 3.0]
    costs = Costs(tuple(BlockCosts(s / 4, s / 2, update=s / 4) for s in seconds))
    found = simulate(greedy(4, 12), costs)
    assert found.step_seconds == pytest.approx(4.0)
    assert found.idle_shares() == pytest.approx([0.5, 0.75, 0.0, 0.25])
    assert found.busy_seconds()[1] == pytest.approx(12.0)


def test_equal_isolated_blocks_are_never_idle_but_for_filling():
    ranks, steps = 4, 10
    found = simulate(greedy(ranks, steps), equal(ranks))
    assert found.idle_shares() == pytest.approx([0.0] * ranks)
    assert found.seconds == pytest.approx(3 * steps + ranks - 1)  # a forward from rank to rank
    assert found.idle_shares(filling=True) == pytest.approx([1 - 30 / 33] * ranks)


@pytest.mark.parametrize("latency", [0.0, 0.25])
def test_one_linked_block_a_rank_waits_for_a_hop(latency):
    """Forward, then the next rank's forward and backward, then the link; two messages between."""
    found = simulate(backlink(4, 12, targets=False), equal(4, latency=latency))
    assert found.step_seconds == pytest.approx(1 + (1 + 2) + 0.5 + 2 * latency)


def test_late_links_wait_for_nothing():
    found = simulate(backlink(4, 12, late_links=True, targets=False), equal(4, latency=0.25))
    assert found.step_seconds == pytest.approx(1 + 2 + 0.5)


def test_three_linked_blocks_a_rank_hide_the_hop():
    found = simulate(backlink(4, 16, blocks=12, targets=False), equal(12, latency=0.25))
    assert found.step_seconds == pytest.approx(3 * (1 + 2 + 0.5))


def test_a_crossing_counts_where_there_is_a_link():
    costs = Costs((BlockCosts(1.0, 1.0, crossing=0.5, link=0.25),) * 2)
    assert simulate(backlink(1, 4, blocks=2), costs).step_seconds == pytest.approx(4.75)
    assert simulate(greedy(1, 4, blocks=2), costs).step_seconds == pytest.approx(4.0)


# --- counted by hand


def test_messages_take_time_and_travel_beside_the_work():
    block = BlockCosts(1.0, 2.0, border=100)
    costs = Costs((block, block), bandwidth=50.0, latency=0.5)
    found = simulate(greedy(2, 2, targets=False), costs)
    shown = [(e.rank, e.action.kind, e.action.step, e.start, e.end) for e in found.events]
    assert shown == [
        (0, "forward", 0, 0.0, 1.0),
        (0, "local", 0, 1.0, 3.0),
        (0, "send", 0, 1.0, 3.5),
        (0, "step", 0, 3.0, 3.0),
        (0, "forward", 1, 3.0, 4.0),
        (0, "local", 1, 4.0, 6.0),
        (0, "send", 1, 4.0, 6.5),
        (0, "step", 1, 6.0, 6.0),
        (1, "receive", 0, 0.0, 3.5),
        (1, "forward", 0, 3.5, 4.5),
        (1, "local", 0, 4.5, 6.5),
        (1, "step", 0, 6.5, 6.5),
        (1, "receive", 1, 6.5, 6.5),
        (1, "forward", 1, 6.5, 7.5),
        (1, "local", 1, 7.5, 9.5),
        (1, "step", 1, 9.5, 9.5),
    ]
    assert found.sent_bytes == (200, 0)
    assert found.seconds == 9.5


def test_without_overlap_the_sender_waits():
    block = BlockCosts(1.0, 2.0, border=100)
    slow = Costs((block, block), bandwidth=50.0, latency=0.5, overlap=False)
    found = simulate(greedy(2, 8, targets=False), slow)
    assert found.step_seconds == pytest.approx(3 + 2.5)
    assert found.busy_seconds()[0] == pytest.approx(8 * 3)


def test_a_line_carries_one_message_after_the_other():
    block = BlockCosts(1.0, 0.0, border=100)
    found = simulate(greedy(2, 8, targets=False), Costs((block, block), bandwidth=25.0))
    assert found.step_seconds == pytest.approx(4.0)


def test_borders_in_flight_are_bounded():
    """A rank ten times as fast as the next one is held up, and the queue stays short."""
    fast, slow = BlockCosts(0.1, 0.2, border=100), BlockCosts(1.0, 2.0, activations=5)
    for bound, waiting in ((1, 100), (2, 200), (4, 400)):
        found = simulate(greedy(2, 12, targets=False, in_flight=bound), Costs((fast, slow)))
        assert found.step_seconds == pytest.approx(3.0)
        assert found.peak_bytes[1] == waiting + 5
    free = dataclasses.replace(greedy(2, 12, targets=False), in_flight=None)
    assert simulate(free, Costs((fast, slow))).peak_bytes[1] > 700


def test_targets_and_errors_count_as_sent():
    block = BlockCosts(1.0, 1.0, border=100)
    costs = Costs((block, dataclasses.replace(block, border=30), block), targets=8)
    assert simulate(greedy(3, 5), costs).sent_bytes == (5 * 108, 5 * 38, 0)
    assert simulate(backlink(3, 5), costs).sent_bytes == (5 * 108, 5 * (38 + 100), 5 * 30)


def test_what_waits_for_a_link_stays_alive():
    block = BlockCosts(1.0, 1.0, link=1.0, activations=100, waiting=40, work=3)
    costs = Costs((block, block))
    assert simulate(greedy(2, 4, targets=False), costs).peak_bytes == (103, 103)
    # on the first rank nothing runs while it waits
    assert simulate(backlink(2, 4, targets=False), costs).peak_bytes == (103, 103)
    # late: the next batch does
    late = simulate(backlink(2, 4, late_links=True, targets=False), costs)
    assert late.peak_bytes == (143, 103)
    # in one process the second block runs meanwhile
    assert simulate(backlink(1, 4, blocks=2, targets=False), costs).peak_bytes == (143,)


def postponed(schedule: Schedule) -> Iterator[Action]:
    """One rank's actions, each update just before the block's next forward."""
    (actions,) = schedule.ranks
    due: dict[int, Action] = {}
    for action in actions:
        if action.kind == "forward" and action.block in due:
            yield due.pop(action.block)
        if action.kind == "step":
            due[action.block] = action
        else:
            yield action
    yield from due.values()


def test_a_reduce_runs_beside_the_next_block():
    block = BlockCosts(1.0, 2.0, parameters=100)
    costs = Costs((block, block), bandwidth=50.0, replicas=2)
    schedule = greedy(1, 8, blocks=2, reduce=True)
    assert simulate(schedule, costs).step_seconds == pytest.approx(10.0)  # its update waits for it
    schedule = dataclasses.replace(schedule, ranks=(tuple(postponed(schedule)),))
    assert schedule.problems() == []
    found = simulate(schedule, costs)
    assert found.sent_bytes == (8 * 2 * 100,)
    reduces = [e for e in found.events if e.action.kind == "reduce"]
    assert {e.end - e.start for e in reduces} == {2.0}  # 2 hops of 50 bytes
    assert found.step_seconds == pytest.approx(6.0)
    alone = simulate(schedule, dataclasses.replace(costs, overlap=False))
    assert alone.step_seconds == pytest.approx(10.0)


def test_one_step_has_no_steady_state():
    assert simulate(greedy(2, 1), equal(2)).step_seconds == pytest.approx(4.0)
    assert simulate(greedy(2, 2), equal(2)).step_seconds == pytest.approx(3.5)


# --- a slow one


def relaxed(schedule: Schedule, costs: Costs) -> list[list[float]]:
    """The end of every action: start from nothing, move each up to what it waits for, repeat."""
    ends = [[0.0] * len(actions) for actions in schedule.ranks]
    place = {
        (action.kind, action.message, rank): (rank, i)
        for rank, actions in enumerate(schedule.ranks)
        for i, action in enumerate(actions)
    }
    while True:
        before = [list(row) for row in ends]
        for rank, actions in enumerate(schedule.ranks):
            for i, action in enumerate(actions):
                start = ends[rank][i - 1] if i else 0.0
                if action.kind == "send":
                    ends[rank][i] = start
                elif action.kind == "receive":
                    source = ("send", action.message, action.peer)
                    sent = ends[place[source][0]][place[source][1]]
                    ends[rank][i] = max(start, sent + costs.latency)
                else:
                    linked = action.block in schedule.links
                    ends[rank][i] = start + costs.seconds(action, linked)
        if ends == before:
            return ends


def last_ends(found: Timeline) -> list[float]:
    ranks = range(len(found.schedule))
    return [
        max(e.end for e in found.events if e.rank == r and e.action.kind != "send") for r in ranks
    ]


@pytest.mark.parametrize("seed", range(8))
def test_any_schedule_as_a_slow_simulation_has_it(seed):
    random.seed(seed)
    ranks = random.randint(1, 4)
    blocks = ranks + random.randint(0, 4)
    kinds = [
        gpipe(ranks, 4, 2),
        one_f_one_b(ranks, 4, 2),
        *(
            local(decoupling(blocks, linked), even(blocks, ranks), 4, late_links=late,
                  micro_batches=parts)
            for linked, late, parts in ((False, False, 2), (True, False, 2), (True, True, 1))
        ),
    ]  # fmt: skip
    for schedule in kinds:
        schedule = dataclasses.replace(schedule, in_flight=None)
        count = sum(map(len, schedule.blocks))
        times = [[random.random() for _ in range(5)] for _ in range(count)]
        costs = Costs(tuple(BlockCosts(*row) for row in times), latency=random.random())
        found = simulate(schedule, costs)
        slow = relaxed(schedule, costs)
        assert last_ends(found) == pytest.approx([row[-1] for row in slow])


# --- deadlocks and mistakes


def test_a_deadlock_is_named():
    actions = (
        (Action("receive", 1, what="error", peer=1), Action("send", 0, what="border", peer=1)),
        (Action("receive", 0, what="border", peer=0), Action("send", 1, what="error", peer=0)),
    )
    with pytest.raises(LocalgradError) as error:
        simulate(Schedule("stuck", ((0,), (1,)), actions), equal(2))
    assert str(error.value) == (
        "deadlock: rank 0 waits to receive error of block 1, step 0 from rank 1; "
        "rank 1 waits to receive border of block 0, step 0 from rank 0"
    )


def test_two_receives_in_turned_places():
    schedule = greedy(2, 2, targets=False)
    actions = list(schedule.ranks[1])
    places = [i for i, action in enumerate(actions) if action.kind == "receive"]
    actions[places[0]], actions[places[1]] = actions[places[1]], actions[places[0]]
    turned = dataclasses.replace(schedule, ranks=(schedule.ranks[0], tuple(actions)))
    with pytest.raises(LocalgradError) as error:
        simulate(turned, equal(2))
    assert "rank 1 waits to receive border of block 0, step 1 from rank 0, which has sent" in str(
        error.value
    )
    assert "sent border of block 0, step 0 first" in str(error.value)


def test_a_send_that_nobody_makes_room_for():
    first = greedy(2, 4, targets=False).ranks[0]
    with pytest.raises(LocalgradError) as error:
        simulate(Schedule("full", ((0,), (1,)), (first, ())), equal(2))
    assert str(error.value) == (
        "deadlock: rank 0 waits to send border of block 0, step 2 to rank 1, which has not taken "
        "the 2 before it"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bandwidth": 0}, "bandwidth=0: expected bytes/s above 0"),
        ({"bandwidth": math.nan}, "bandwidth=nan"),
        ({"latency": -1.0}, "latency=-1.0: expected seconds, 0 or more"),
        ({"blocks": (BlockCosts(1, math.inf),)}, "block 0: local=inf: expected 0 or more"),
        ({"blocks": (BlockCosts(1, 1), BlockCosts(1, 1, border=-3))}, "block 1: border=-3"),
    ],
)
def test_costs_that_are_none(options, message):
    with pytest.raises(LocalgradError, match=message):
        Costs(**{"blocks": (BlockCosts(1, 1),), **options})


def test_costs_of_other_blocks():
    with pytest.raises(LocalgradError, match="costs of 3 blocks for a schedule of 2"):
        simulate(greedy(2, 2), equal(3))
