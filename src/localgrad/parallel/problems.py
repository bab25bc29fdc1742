"""What is wrong with a schedule, in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from localgrad.errors import LocalgradError
from localgrad.parallel.costs import Costs
from localgrad.parallel.schedule import CARRIED, KINDS, Action, Schedule
from localgrad.parallel.simulate import simulate


def problems(schedule: Schedule) -> list[str]:
    """Return everything that is wrong; empty where every rank can run to its end.

    Later checks need what earlier ones look at: the first sort of mistake is returned alone.
    """
    for look in (_blocks, _actions, _order, _messages, _deadlock):
        found = list(dict.fromkeys(look(schedule)))
        if found:
            return found
    return []


def _blocks(schedule: Schedule) -> Iterator[str]:
    if not schedule.ranks:
        yield "it has no rank"
    if len(schedule.blocks) != len(schedule.ranks):
        yield f"it has {len(schedule.ranks)} ranks and the blocks of {len(schedule.blocks)}"
    for rank, own in enumerate(schedule.blocks):
        if not own:
            yield f"rank {rank} has no block"
    listed = [block for own in schedule.blocks for block in own]
    for block in sorted({block for block in listed if listed.count(block) > 1}):
        ranks = [str(rank) for rank, own in enumerate(schedule.blocks) if block in own]
        yield f"block {block} is on ranks {' and '.join(ranks)}: it belongs to one, once"
    if sorted(set(listed)) != list(range(len(set(listed)))) or listed != sorted(listed):
        yield f"the ranks' blocks are {listed}: expected 0, 1, .. in order"
    for block in schedule.links:
        if block not in range(len(listed) - 1):
            yield f"block {block} has a link, and no block after it"
    for block in schedule.late:
        if block not in schedule.links:
            yield f"block {block} has a late link, and no link"
    if schedule.in_flight is not None and schedule.in_flight < 1:
        yield f"in_flight is {schedule.in_flight}: expected a whole number above 0"


def _actions(schedule: Schedule) -> Iterator[str]:
    count = sum(len(own) for own in schedule.blocks)
    steps, parts = schedule.steps, schedule.micro_batches
    every = sum(map(len, schedule.ranks))
    if steps * parts > every:  # a number that would take long to look through
        yield f"it has {steps} steps of {parts} micro-batches, and {every} actions for them"
    for rank, actions in enumerate(schedule.ranks):
        for place, action in enumerate(actions):
            where = f"rank {rank}, action {place}"
            moves = action.kind in ("send", "receive")
            if action.kind not in KINDS:
                yield f"{where}: kind {action.kind!r} must be one of {', '.join(KINDS)}"
            elif min(action.block, action.step, action.micro_batch) < 0 or action.block >= count:
                yield f"{where}: {action}: there is no such block, step or micro-batch"
            elif not moves and action.block not in schedule.blocks[rank]:
                yield f"{where}: {action}: the block is on rank {schedule.rank_of(action.block)}"
            elif not moves and (action.what is not None or action.peer is not None):
                yield f"{where}: a {action.kind} has no what and no peer"
            elif moves and action.what not in CARRIED:
                yield f"{where}: what {action.what!r} must be one of {', '.join(CARRIED)}"
            elif moves and (
                action.peer is None
                or action.peer == rank
                or action.peer not in range(len(schedule))
            ):
                yield f"{where}: peer {action.peer!r} must be another rank"
            elif moves and action.what == "error" and action.block == 0:
                yield f"{where}: {action}: there is no block before it"


class _Seen:
    """What has been done on one rank so far."""

    def __init__(self, schedule: Schedule, rank: int) -> None:
        self.schedule, self.rank, self.own = schedule, rank, schedule.blocks[rank]
        self.done: set[tuple[str, str | None, int, int, int]] = set()

    def lacks(self, action: Action) -> Iterator[str]:
        """Yield what should have come before an action, in words, and note the action."""
        key = (action.kind, *action.message)
        if key in self.done:
            yield "a second time"
        for kind, what, block, step, part in self._needs(action):
            if (kind, what, block, step, part) not in self.done:
                after = f" {what}" if what else ""
                text = f"before its {kind}{after} of block {block}, step {step}"
                yield text + (f", micro-batch {part}" if part else "")
        self.done.add(key)

    def _needs(self, action: Action) -> Iterator[tuple[str, str | None, int, int, int]]:
        block, at = action.block, (action.step, action.micro_batch)
        last = self.schedule.micro_batches - 1
        late = block in self.schedule.late
        if action.kind == "forward":
            if block > 0:
                yield self._from(block - 1, "forward", "border", at)
            if action.step > 0:
                yield "step", None, block, action.step - 1, 0
        elif action.kind == "local":
            yield "forward", None, block, *at
        elif action.kind == "backward":
            yield "forward", None, block, *at
            if block + 1 < sum(len(own) for own in self.schedule.blocks):
                yield self._from(block + 1, "backward", "error", at)
        elif action.kind == "link":
            yield "local", None, block, *at
            yield self._from(block + 1, "local", "error", at)
        elif action.kind in ("reduce", "step"):
            kind = "backward" if ("backward", None, block, *at) in self.done else "local"
            for part in range(last + 1):
                yield kind, None, block, action.step, part
                if block in self.schedule.links and not (late and action.step == 0):
                    yield "link", None, block, action.step - late, part
        elif action.kind == "send" and action.what == "border":
            yield "forward", None, block, *at
        elif action.kind == "send" and action.what == "error":
            kind = "backward" if ("backward", None, block, *at) in self.done else "local"
            yield kind, None, block, *at
        elif action.kind == "send" and action.what == "targets" and self.rank > 0:
            yield "receive", "targets", self.own[0] - 1, *at

    def _from(
        self, block: int, kind: str, what: str, at: tuple[int, int]
    ) -> tuple[str, str | None, int, int, int]:
        """Return what must have been done for something of another block to be here."""
        if block in self.own:
            return kind, None, block, *at
        return "receive", what, block, *at


def _order(schedule: Schedule) -> Iterator[str]:
    parts = schedule.micro_batches
    for rank, actions in enumerate(schedule.ranks):
        seen = _Seen(schedule, rank)
        for action in actions:
            for text in seen.lacks(action):
                yield f"rank {rank}: {action} comes {text}"
        ways = {action.kind for action in actions} & {"local", "backward"}
        if len(ways) > 1:
            yield f"rank {rank}: blocks have local and BP's backward: expected one of them"
        for block in schedule.blocks[rank]:
            for step in range(schedule.steps):
                for part in range(parts):
                    for kind in ("forward", *(ways or ("local",))):
                        if (kind, None, block, step, part) not in seen.done:
                            yield f"rank {rank}: no {Action(kind, block, step, part)}"
                if ("step", None, block, step, 0) not in seen.done:
                    yield f"rank {rank}: no {Action('step', block, step)}"


def _messages(schedule: Schedule) -> Iterator[str]:
    """Every send has its receive, in the same order among messages of one sort."""
    sent: dict[tuple[int, int, str | None], list[Action]] = defaultdict(list)
    taken: dict[tuple[int, int, str | None], list[Action]] = defaultdict(list)
    for rank, actions in enumerate(schedule.ranks):
        for action in actions:
            if action.peer is not None and action.kind == "send":
                sent[rank, action.peer, action.what].append(action)
            elif action.peer is not None and action.kind == "receive":
                taken[action.peer, rank, action.what].append(action)
    for channel in sorted({*sent, *taken}, key=str):
        source, target, _ = channel
        sends, receives = sent[channel], taken[channel]
        there = {action.message for action in receives}
        here = {action.message for action in sends}
        lost = [a for a in sends if a.message not in there]
        awaited = [a for a in receives if a.message not in here]
        yield from (f"rank {source}: {a} is never received" for a in lost)
        yield from (f"rank {target}: {a} is never sent" for a in awaited)
        if lost or awaited:
            continue
        for send, receive in zip(sends, receives, strict=True):
            if send.message != receive.message:
                yield f"rank {target} is to {receive}, when rank {source} sends {_of(send)}"
                break


def _of(action: Action) -> str:
    return f"that of block {action.block}, step {action.step}, micro-batch {action.micro_batch}"


def _deadlock(schedule: Schedule) -> Iterator[str]:
    count = sum(len(own) for own in schedule.blocks)
    try:
        simulate(schedule, Costs.alike(count))
    except LocalgradError as error:
        yield str(error)
