"""Schedules as data: built, validated, printed, saved and loaded."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest

from localgrad import Block, Decoupling, Link, LocalgradError, Part
from localgrad.parallel.assignment import balanced, even
from localgrad.parallel.builders import gpipe, linked_blocks, local, one_f_one_b, runs_of
from localgrad.parallel.schedule import Action, Schedule
from schedules import backlink, decoupling, greedy

ALL = [
    local(
        decoupling(blocks, linked),
        even(blocks, ranks),
        steps,
        late_links=late,
        micro_batches=parts,
        reduce=reduce,
        targets=targets,
    )
    for (ranks, blocks), linked, late, parts, reduce, targets, steps in itertools.product(
        [(1, 1), (1, 3), (2, 2), (3, 7)],
        [False, True],
        [False, True],
        [1, 3],
        [False, True],
        [False, True],
        [1, 4],
    )
] + [
    build(ranks, parts, steps)
    for build in (gpipe, one_f_one_b)
    for ranks, parts, steps in itertools.product((1, 2, 5), (1, 3, 8), (1, 3))
]


def compute(schedule: Schedule, rank: int) -> list[str]:
    letters = {"forward": "F", "local": "B", "link": "W", "step": "S", "reduce": "R"}
    return [
        f"{a.block}{letters[a.kind]}{a.step}" for a in schedule.ranks[rank] if a.kind in letters
    ]


def changed(schedule: Schedule, rank: int, actions: list[Action]) -> Schedule:
    ranks = list(schedule.ranks)
    ranks[rank] = tuple(actions)
    return dataclasses.replace(schedule, ranks=tuple(ranks))


# --- what the rules say


def test_every_built_schedule_is_sound():
    for schedule in ALL:
        assert schedule.problems() == [], str(schedule)


def test_isolated_blocks_update_at_once():
    assert " ".join(compute(greedy(2, 2, blocks=4), 1)) == (
        "2F0 2B0 2S0 3F0 3B0 3S0 2F1 2B1 2S1 3F1 3B1 3S1"
    )
    first = greedy(2, 1).ranks[0]
    assert [a.kind for a in first] == ["forward", "send", "send", "local", "step"]
    assert [a.what for a in first if a.kind == "send"] == ["border", "targets"]


def test_isolated_blocks_wait_for_nothing_from_downstream():
    for schedule in (greedy(4, 3), greedy(3, 2, blocks=7, micro_batches=2)):
        for rank, actions in enumerate(schedule.ranks):
            assert all(a.peer == rank - 1 for a in actions if a.kind == "receive")


def test_a_link_gates_its_blocks_update_and_nothing_else():
    rank = compute(backlink(2, 3, blocks=6), 0)
    assert " ".join(rank) == (
        "0F0 0B0 1F0 1B0 0W0 0S0 2F0 2B0 1W0 1S0 "
        "0F1 0B1 1F1 1B1 0W1 0S1 2W0 2S0 2F1 2B1 1W1 1S1 "
        "0F2 0B2 1F2 1B2 0W2 0S2 2W1 2S1 2F2 2B2 1W2 1S2 2W2 2S2"
    )


def test_the_error_leaves_as_soon_as_it_is_there():
    actions = backlink(2, 1, blocks=4).ranks[1]
    place = next(i for i, a in enumerate(actions) if a.kind == "send")
    assert str(actions[place]) == "send error of block 2, step 0 to rank 0"
    assert str(actions[place - 1]) == "local of block 2, step 0"


def test_late_links_go_into_the_next_update():
    late = backlink(2, 3, late_links=True)
    assert late.late == (0,)
    assert " ".join(compute(late, 0)) == "0F0 0B0 0S0 0F1 0B1 0W0 0S1 0F2 0B2 0W1 0S2 0W2"
    assert backlink(2, 3, blocks=4, late_links=True).late == (1,)  # within a rank nothing is late


def test_late_links_may_be_named_whatever_the_ranks_are():
    one = local(decoupling(4, linked=True), [range(4)], 3, late_links=[1])
    assert one.late == (1,)
    assert one.problems() == []
    got = [text for text in compute(one, 0) if text[0] == "1"]
    assert " ".join(got) == "1F0 1B0 1S0 1F1 1B1 1W0 1S1 1F2 1B2 1W1 1S2 1W2"
    with pytest.raises(LocalgradError, match=r"late_links=\[3\]: the links are at \[0, 1, 2\]"):
        local(decoupling(4, linked=True), [range(4)], 3, late_links=[3])


def test_replicas_share_gradients_once_before_the_update():
    assert " ".join(compute(greedy(1, 2, blocks=2, reduce=True), 0)) == (
        "0F0 0B0 0R0 0S0 1F0 1B0 1R0 1S0 0F1 0B1 0R1 0S1 1F1 1B1 1R1 1S1"
    )


def test_micro_batches_add_up_before_the_update():
    rank = greedy(1, 1, blocks=2, micro_batches=2).ranks[0]
    shown = [(a.kind, a.block, a.micro_batch) for a in rank]
    assert shown == [
        ("forward", 0, 0), ("local", 0, 0), ("forward", 1, 0), ("local", 1, 0),
        ("forward", 0, 1), ("local", 0, 1), ("step", 0, 0),
        ("forward", 1, 1), ("local", 1, 1), ("step", 1, 0),
    ]  # fmt: skip


def test_open_borders_are_one_block_of_the_schedule():
    head = Part("pool_linear")
    blocks = (
        Block(0, 1, head),
        Block(1, 2, head, open=True),
        Block(2, 3, head, link=Link(1)),
        Block(3, 4, open=True),
    )
    found = Decoupling("mixed", ("a", "b", "c", "d"), blocks)
    assert runs_of(found) == [range(2), range(2, 4)]
    assert linked_blocks(found) == (0,)
    assert local(found, [[0], [1]], 2).links == (0,)
    assert linked_blocks(decoupling(3)) == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"assignment": [[0], [1], [2], [3]]}, "4 ranks for 3 blocks: take fewer ranks, or more"),
        ({"assignment": []}, "ranks=0: expected a whole number above 0"),
        ({"assignment": [[0], [2, 1]]}, "blocks [[0], [2, 1]], expected 0 to 2 in order"),
        ({"assignment": [[0, 1, 2], []]}, "expected 0 to 2 in order, at least one on each rank"),
        ({"assignment": [[0, 1]]}, "greedy: the ranks have blocks [[0, 1]]"),
        ({"steps": 0}, "steps=0: expected a whole number above 0"),
        ({"micro_batches": 1.5}, "micro_batches=1.5: expected a whole number above 0"),
        ({"in_flight": True}, "in_flight=True: expected a whole number above 0"),
    ],
)
def test_what_cannot_be_built(options, message):
    with pytest.raises(LocalgradError) as error:
        local(decoupling(3), **{"assignment": [[0], [1, 2]], "steps": 2, **options})
    assert message in str(error.value)


# --- blocks to ranks


def test_the_slowest_rank_is_as_fast_as_can_be():
    seconds = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    for ranks in range(1, 9):
        found = balanced(seconds, ranks)
        most = max(sum(seconds[k] for k in own) for own in found)
        every = itertools.combinations(range(1, 8), ranks - 1)
        cuts = [(0, *inside, 8) for inside in every]
        assert most == min(
            max(sum(seconds[a:b]) for a, b in itertools.pairwise(cut)) for cut in cuts
        )


def test_memory_that_a_rank_has_not():
    assert balanced([1, 1, 1, 1], 2, bytes=[6, 1, 1, 1], limit=7) == ((0, 1), (2, 3))
    assert balanced([1, 1, 1, 1], 2, bytes=[6, 2, 1, 1], limit=7) == ((0,), (1, 2, 3))
    with pytest.raises(LocalgradError, match="4 blocks do not fit on 2 ranks of 5 bytes"):
        balanced([1, 1, 1, 1], 2, bytes=[6, 2, 1, 1], limit=5)


# --- the grid


def test_a_grid_fits_the_page():
    text = str(backlink(4, 3))
    assert text.splitlines() == [
        "backlink: 4 ranks, 3 steps",
        "  rank 0  F0 B0    W0 F1 B1    W1 F2 B2    W2",
        "  rank 1     F0 B0    W0 F1 B1    W1 F2 B2    W2",
        "  rank 2        F0 B0    W0 F1 B1    W1 F2 B2    W2",
        "  rank 3           F0 B0       F1 B1       F2 B2",
    ]


def test_a_long_grid_goes_on_below():
    schedule = one_f_one_b(4, 8, steps=3)
    lines = schedule.grid(60).splitlines()
    assert max(map(len, lines)) <= 60
    rows = [line for line in lines if line.startswith("  rank 2")]
    cells = " ".join(line[10:] for line in rows).split()
    assert len(cells) == 2 * 8 * 3
    assert cells[:4] == ["F0.0", "F0.1", "B0.0", "F0.2"]


# --- files


def test_saved_and_loaded(tmp_path):
    for number, schedule in enumerate(ALL[::7]):
        path = tmp_path / f"{number}.json"
        schedule.save(path)
        assert Schedule.load(path) == schedule


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(format=2), "schedule format 2: expected 1"),
        (lambda d: d.pop("blocks"), "the schedule has no key 'blocks'"),
        (lambda d: d.update(devices=3), "the schedule has an unknown key 'devices'"),
        (lambda d: d.update(in_flight="two"), "in_flight is 'two': expected a whole number"),
        (lambda d: d.update(in_flight=0), "in_flight is 0: expected a whole number above 0"),
        (lambda d: d.update(ranks=[]), "it has no rank"),
        (lambda d: d.update(blocks=[[0], [1], []]), "it has 2 ranks and the blocks of 3"),
        (lambda d: d.update(blocks=[[0, 1], [1]]), "block 1 is on ranks 0 and 1"),
        (lambda d: d.update(blocks=[[0], []]), "rank 1 has no block"),
        (lambda d: d.update(blocks=[[0], [3]]), "the ranks' blocks are [0, 3]: expected 0, 1, .."),
        (lambda d: d.update(links=[1]), "block 1 has a link, and no block after it"),
        (lambda d: d.update(links=[], late=[0]), "block 0 has a late link, and no link"),
        (
            lambda d: d["ranks"][0][0].update(kind="rest"),
            "rank 0, action 0: kind 'rest' must be one of forward, local,",
        ),
        (
            lambda d: d["ranks"][0][0].update(block="first"),
            "the schedule: ranks 0 0: block is 'first': expected a whole number",
        ),
        (lambda d: d["ranks"][0][0].update(block=7), "action 0: forward of block 7, step 0: there"),
        (
            lambda d: d["ranks"][0][0].update(step=10**12),
            "it has 1000000000001 steps of 1 micro-batches, and 26 actions for them",
        ),
        (lambda d: d["ranks"][0][0].update(micro_batch=-1), "there is no such block, step or"),
        (lambda d: d["ranks"][0][0].update(block=1), "step 0: the block is on rank 1"),
        (lambda d: d["ranks"][0][0].update(peer=1), "a forward has no what and no peer"),
        (lambda d: d["ranks"][0][1].update(peer=0), "peer 0 must be another rank"),
        (lambda d: d["ranks"][0][1].update(peer=None), "peer None must be another rank"),
        (lambda d: d["ranks"][0][1].update(what="mail"), "what 'mail' must be one of border"),
        (lambda d: d["ranks"][0].pop(0), "rank 0: no forward of block 0, step 0"),
        (lambda d: d["ranks"][0].pop(), "rank 0: no step of block 0, step 1"),
        (
            lambda d: d["ranks"][0].append(d["ranks"][0][0]),
            "rank 0: forward of block 0, step 0 comes a second time",
        ),
    ],
)
def test_a_file_edited_into_nonsense(edit, message, tmp_path):
    path = tmp_path / "schedule.json"
    data = backlink(2, 2).to_dict()
    edit(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(LocalgradError) as error:
        Schedule.load(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{", "[1, 2]", "x"])
def test_a_file_that_is_no_schedule(text, tmp_path):
    path = tmp_path / "schedule.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LocalgradError, match="is not a schedule file"):
        Schedule.load(path)
    with pytest.raises(LocalgradError, match=r"cannot read .*: No such file"):
        Schedule.load(tmp_path / "none.json")


# --- what is out of order


def swapped(schedule: Schedule, rank: int, one: str, other: str) -> Schedule:
    """The schedule with two actions of a rank, named by how they are printed, in turned places."""
    actions = list(schedule.ranks[rank])
    shown = [str(action) for action in actions]
    i, j = shown.index(one), shown.index(other)
    actions[i], actions[j] = actions[j], actions[i]
    return changed(schedule, rank, actions)


@pytest.mark.parametrize(
    ("one", "other", "problem"),
    [
        (
            "step of block 0, step 0",
            "forward of block 0, step 1",
            "forward of block 0, step 1 comes before its step of block 0, step 0",
        ),
        (
            "link of block 0, step 0",
            "step of block 0, step 0",
            "step of block 0, step 0 comes before its link of block 0, step 0",
        ),
        (
            "link of block 0, step 0",
            "receive error of block 1, step 0 from rank 1",
            "link of block 0, step 0 comes before its receive error of block 1, step 0",
        ),
        (
            "forward of block 0, step 0",
            "send border of block 0, step 0 to rank 1",
            "send border of block 0, step 0 to rank 1 comes before its forward of block 0, step 0",
        ),
    ],
)
def test_an_action_before_what_it_needs(one, other, problem):
    found = swapped(backlink(2, 2), 0, one, other).problems()
    assert f"rank 0: {problem}" in found


def test_bps_backward_needs_the_error():
    found = swapped(
        gpipe(2, 2),
        0,
        "backward of block 0, step 0",
        "receive error of block 1, step 0 from rank 1",
    ).problems()
    assert "comes before its receive error of block 1, step 0" in found[0]


def test_a_send_that_nobody_receives_and_the_reverse():
    schedule = greedy(2, 1, targets=False)
    lost = changed(schedule, 0, [a for a in schedule.ranks[0] if a.kind != "send"])
    assert lost.problems() == [
        "rank 1: receive border of block 0, step 0 from rank 0 is never sent"
    ]
    extra = Action("send", 1, what="error", peer=0)
    found = changed(schedule, 1, [*schedule.ranks[1], extra])
    assert found.problems() == ["rank 1: send error of block 1, step 0 to rank 0 is never received"]


def test_targets_that_a_rank_does_not_have():
    schedule = greedy(3, 1)
    found = [a for a in schedule.ranks[1] if not (a.kind == "receive" and a.what == "targets")]
    assert (
        "comes before its receive targets of block 0, step 0"
        in (changed(schedule, 1, found).problems()[0])
    )


def test_receives_in_another_order_than_the_sends():
    schedule = gpipe(2, 2)
    actions = list(schedule.ranks[1])
    actions[0:4] = [actions[2], actions[0], actions[1], actions[3]]
    (problem,) = changed(schedule, 1, actions).problems()
    assert problem == (
        "rank 1 is to receive border of block 0, step 0, micro-batch 1 from rank 0, when rank 0 "
        "sends that of block 0, step 0, micro-batch 0"
    )


def test_a_deadlock_is_a_problem():
    schedule = backlink(2, 2, targets=False)
    actions = list(schedule.ranks[0])
    sends = [a for a in actions if a.kind == "send" and a.step == 0]
    rest = [a for a in actions if a not in sends]
    place = next(i for i, a in enumerate(rest) if a.kind == "receive")
    (problem,) = changed(schedule, 0, [*rest[: place + 1], *sends, *rest[place + 1 :]]).problems()
    assert problem == (
        "deadlock: rank 0 waits to receive error of block 1, step 0 from rank 1; "
        "rank 1 waits to receive border of block 0, step 0 from rank 0"
    )
