"""What a schedule takes, played through without a device.

Each rank takes its actions in order, one at a time. A message starts when it is sent and the line
between the two ranks is free, each direction for itself; a receive waits for it. A reduce runs
beside what follows, until the block's update. Ranks meet at messages only, so the order in which
they are played changes nothing, and where no rank can go on they wait for each other forever.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass, field

from localgrad.errors import LocalgradError
from localgrad.parallel.costs import Costs
from localgrad.parallel.schedule import Action, Schedule

COMPUTE = ("forward", "local", "backward", "link", "step")


@dataclass(frozen=True)
class Event:
    """One action, in seconds from the start.

    A send's time is that of the message, a reduce's that of its messages; a receive's the wait.
    """

    rank: int
    action: Action
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """What happened when.

    Args:
        schedule: that was simulated.
        events: rank by rank, by their start.
        peak_bytes: of each rank: parameters, their state, activations, messages.
        sent_bytes: of each rank, over all steps.
    """

    schedule: Schedule
    events: tuple[Event, ...]
    peak_bytes: tuple[int, ...]
    sent_bytes: tuple[int, ...]

    @property
    def seconds(self) -> float:
        """All steps, filling and draining included."""
        return max((event.end for event in self.events), default=0.0)

    @property
    def step_seconds(self) -> float:
        """A step in the steady state, of the rank that takes longest.

        It is the slope of a line through the moments at which the later steps' updates are done;
        without the last step, after which nothing comes that has to be waited for. (A rank behind
        a slower one first works off what it is behind, at its own pace.) Of fewer than four steps
        it is the mean, filling included.
        """
        steps = self.schedule.steps
        if steps < 4:
            return self.seconds / max(1, steps)
        ends = [[0.0] * steps for _ in self.schedule.ranks]
        for event in self.events:
            if event.action.kind == "step":
                done = ends[event.rank]
                done[event.action.step] = max(done[event.action.step], event.end)
        later = range(steps // 2 - 1, steps - 1)
        return max(
            statistics.linear_regression(later, [done[step] for step in later]).slope
            for done in ends
        )

    def busy_seconds(self) -> list[float]:
        """Return how long each rank computes, over all steps."""
        busy = [0.0] * len(self.schedule)
        for event in self.events:
            if event.action.kind in COMPUTE:
                busy[event.rank] += event.end - event.start
        return busy

    def idle_shares(self, filling: bool = False) -> list[float]:
        """Return for each rank the share of time in which it does not compute.

        Args:
            filling: over all steps, from the first action to the last; else in the steady state.
        """
        steps = max(1, self.schedule.steps)
        whole = self.seconds if filling else self.step_seconds * steps
        return [max(0.0, 1 - busy / whole) if whole else 0.0 for busy in self.busy_seconds()]


def simulate(schedule: Schedule, costs: Costs) -> Timeline:
    """Play a schedule through.

    Args:
        schedule: without other :meth:`Schedule.problems` than a deadlock.
        costs: of its blocks, on a micro-batch.

    Raises:
        LocalgradError: the costs are those of another number of blocks, or ranks wait for each
            other forever: the message says which waits for what.
    """
    count = sum(len(blocks) for blocks in schedule.blocks)
    if len(costs.blocks) != count:
        raise LocalgradError(f"costs of {len(costs.blocks)} blocks for a schedule of {count}")
    run = _Run(schedule, costs)
    while run.advance():
        pass
    stuck = run.waiting()
    if stuck:
        raise LocalgradError(f"deadlock: {'; '.join(stuck)}")
    ordered = sorted(run.events, key=lambda event: (event.rank, event.start, event.end))
    peaks = tuple(memory.peak() for memory in run.memory)
    return Timeline(schedule, tuple(ordered), peaks, tuple(run.sent))


@dataclass
class _Memory:
    """Bytes that come and go on one rank."""

    fixed: int
    changes: list[tuple[float, int]] = field(default_factory=list)

    def add(self, start: float, end: float, size: int) -> None:
        self.changes += [(start, size), (end, -size)] if size and end > start else []

    def peak(self) -> int:
        most = now = self.fixed
        for _, size in sorted(self.changes):  # at one moment, first what goes
            now += size
            most = max(most, now)
        return most


Channel = tuple[int, int, str | None]


class _Run:
    """The state of every rank."""

    def __init__(self, schedule: Schedule, costs: Costs) -> None:
        self.schedule, self.costs = schedule, costs
        ranks = len(schedule)
        self.at = [0] * ranks
        self.now = [0.0] * ranks
        self.sent = [0] * ranks
        self.events: list[Event] = []
        self.memory = [
            _Memory(sum(costs.blocks[k].parameters + costs.blocks[k].state for k in blocks))
            for blocks in schedule.blocks
        ]
        self._under_way: dict[Channel, list[tuple[Action, float]]] = defaultdict(list)
        self._taken: dict[Channel, list[float]] = defaultdict(list)
        self._line: dict[tuple[int, int], float] = defaultdict(float)
        self._reduced: dict[tuple[int, int], float] = {}
        self._reducing = [0.0] * ranks
        self._forward: dict[tuple[int, int, int], float] = {}  # when the activations came
        self._linked = set(schedule.links)

    def advance(self) -> bool:
        """Let every rank go as far as it can; return whether one of them went."""
        before = sum(self.at)
        for rank, actions in enumerate(self.schedule.ranks):
            while self.at[rank] < len(actions) and self._take(rank, actions[self.at[rank]]):
                self.at[rank] += 1
        return sum(self.at) > before

    def waiting(self) -> list[str]:
        """Return, in words, what each rank waits for that has not come to its end."""
        found = []
        for rank, actions in enumerate(self.schedule.ranks):
            if self.at[rank] == len(actions):
                continue
            action = actions[self.at[rank]]
            text = f"rank {rank} waits to {action}"
            if action.kind == "send":
                text += f", which has not taken the {self.schedule.in_flight} before it"
            else:
                ahead = self._next(action, rank)
                text += f", which has sent {_sent(ahead)} first" if ahead else ""
            found.append(text)
        return found

    def _take(self, rank: int, action: Action) -> bool:
        if action.kind == "send":
            return self._send(rank, action)
        if action.kind == "receive":
            return self._receive(rank, action)
        start = self.now[rank]
        if action.kind == "reduce":
            start = max(start, self._reducing[rank])
            self._reducing[rank] = start + self.costs.seconds(action, False)
            self._reduced[action.block, action.step] = self._reducing[rank]
            self.sent[rank] += self.costs.bytes(action)
            self.events.append(Event(rank, action, start, self._reducing[rank]))
            if not self.costs.overlap:
                self.now[rank] = self._reducing[rank]
            return True
        if action.kind == "step":
            start = max(start, self._reduced.get((action.block, action.step), 0.0))
        end = start + self.costs.seconds(action, action.block in self._linked)
        self.now[rank] = end
        self.events.append(Event(rank, action, start, end))
        self._remember(rank, action, start, end)
        return True

    def _remember(self, rank: int, action: Action, start: float, end: float) -> None:
        """Count the bytes that an action makes or lets go."""
        block, memory = self.costs.blocks[action.block], self.memory[rank]
        which = action.block, action.step, action.micro_batch
        if action.kind in ("forward", "local", "backward"):
            memory.add(start, end, block.work)
        if action.kind == "forward":
            self._forward[which] = start
        if action.kind in ("local", "backward"):
            waits = block.waiting if action.block in self._linked else 0
            memory.add(self._forward.get(which, start), end, block.activations - waits)
        if action.kind == "link":
            memory.add(self._forward.pop(which, start), end, block.waiting)

    def _send(self, rank: int, action: Action) -> bool:
        assert action.peer is not None
        channel = (rank, action.peer, action.what)
        start = max(self.now[rank], self._line[rank, action.peer])
        bound, before = self.schedule.in_flight, len(self._under_way[channel])
        if bound is not None and before >= bound:
            if len(self._taken[channel]) <= before - bound:
                return False
            taken = self._taken[channel][before - bound]
            self.now[rank] = max(self.now[rank], taken)
            start = max(start, taken)
        size = self.costs.bytes(action)
        gone = start + size / self.costs.bandwidth
        arrival = gone + self.costs.latency
        self._line[rank, action.peer] = gone
        self._under_way[channel].append((action, arrival))
        self.sent[rank] += size
        self.events.append(Event(rank, action, start, arrival))
        self.memory[rank].add(self.now[rank], gone, size)
        if not self.costs.overlap:
            self.now[rank] = arrival
        return True

    def _next(self, action: Action, rank: int) -> Action | None:
        """Return what comes next from where the action expects something."""
        assert action.peer is not None
        channel = (action.peer, rank, action.what)
        sent, taken = self._under_way[channel], len(self._taken[channel])
        return sent[taken][0] if taken < len(sent) else None

    def _receive(self, rank: int, action: Action) -> bool:
        coming = self._next(action, rank)
        if coming is None or coming.message != action.message:
            return False
        assert action.peer is not None
        channel = (action.peer, rank, action.what)
        _, arrival = self._under_way[channel][len(self._taken[channel])]
        start = self.now[rank]
        self.now[rank] = max(start, arrival)
        self._taken[channel].append(self.now[rank])
        self.events.append(Event(rank, action, start, self.now[rank]))
        self.memory[rank].add(arrival, self.now[rank], self.costs.bytes(action))
        return True


def _sent(action: Action) -> str:
    return f"{action.what} of block {action.block}, step {action.step}"
