"""Schedules by rule: local learning without bubbles, links with or without a wait, GPipe, 1F1B.

**Local learning.** Rank r works on batch t while rank r + 1 works on batch t - 1. Each block runs
forward, its own backward and its update, then the next block of the rank; the border leaves as soon
as it is there. No action waits for anything from downstream, so that in the steady state a step
takes as long as the slowest rank.

**Links.** The update of block k for batch t needs the error of block k + 1 for batch t, and the
forward of block k for batch t + 1 needs that update: parameters are then those of one process, bit
for bit. Inside a rank that is no wait. At a rank's last block it is one of a hop: border down, the
next rank's first block forward and backward, error up. The rank fills it with batch t + 1 of its
other blocks, whose updates are done, and takes the error just before the last block's next forward.
With three or more equal blocks a rank nothing waits; with one, each rank waits for the hop.

**Late links** take the error of batch t after the backward of batch t + 1 instead, on the
activations that it belongs to, and into the update of batch t + 1. What is late at the end of the
schedule is taken too: its gradients stay for the first update of what follows.

**BP** in a pipeline: GPipe (Huang et al., NeurIPS 2019, arXiv 1811.06965) runs all micro-batches
forward, then all backward; 1F1B (PipeDream, Narayanan et al., SOSP 2019, arXiv 1806.03377; with a
flush: arXiv 2104.04473, section 2.2.1) takes turns, so that rank r of p holds at most p - r.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from localgrad.decoupling import Decoupling
from localgrad.errors import LocalgradError
from localgrad.parallel.assignment import checked
from localgrad.parallel.schedule import Action, Schedule


def runs_of(decoupling: Decoupling) -> list[range]:
    """Return the blocks of each run with open borders, which one backward pass covers.

    A schedule counts these as its blocks; most rules have no open border.
    """
    starts = [k for k, block in enumerate(decoupling.blocks) if not block.open]
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(decoupling)], strict=True)]


def linked_blocks(decoupling: Decoupling) -> tuple[int, ...]:
    """Return the blocks of a schedule whose last units get the error of the block after."""
    firsts = [decoupling.blocks[run.start] for run in runs_of(decoupling)]
    links = [block.link for block in firsts]
    return tuple(k - 1 for k, link in enumerate(links) if link is not None and link.length > 0)


def late_blocks(
    links: Collection[int], lasts: Collection[int], late_links: bool | Collection[int]
) -> tuple[int, ...]:
    """Return the blocks whose link comes one step late.

    Args:
        links: blocks with a link.
        lasts: the last block of each rank.
        late_links: True: links that cross from rank to rank; or the blocks.

    Raises:
        LocalgradError: a block that is named has no link.
    """
    if isinstance(late_links, bool):
        return tuple(k for k in links if late_links and k in lasts)
    late = tuple(sorted(late_links))
    if not set(late) <= set(links):
        raise LocalgradError(f"late_links={list(late)}: the links are at {list(links)}")
    return late


def local(
    decoupling: Decoupling,
    assignment: Sequence[Sequence[int]],
    steps: int,
    *,
    micro_batches: int = 1,
    late_links: bool | Collection[int] = False,
    targets: bool = True,
    reduce: bool = False,
    in_flight: int = 2,
) -> Schedule:
    """Return the schedule of local learning.

    Args:
        decoupling: what is trained by what.
        assignment: for each rank, its blocks (see :func:`runs_of`).
        steps: number of training steps.
        micro_batches: parts of each batch, whose gradients add up before the update.
        late_links: True: links that cross from rank to rank arrive one step late; or the blocks
            whose link does, wherever the ranks end.
        targets: send the targets along; False: each rank reads its own.
        reduce: each block has replicas, which share their gradients once a step.
        in_flight: borders that may have been sent to a rank that it has not yet taken.

    Raises:
        LocalgradError: the assignment does not give every block to one rank in order, or a number
            is out of place.

    >>> from localgrad import Block, Link, Part
    >>> head = Part("pool_linear")
    >>> blocks = (Block(0, 1, head), Block(1, 2, head), Block(2, 3))
    >>> print(local(Decoupling("greedy", ("a", "b", "c"), blocks), [[0], [1], [2]], steps=4))
    greedy: 3 ranks, 4 steps
      rank 0  F0 B0 F1 B1 F2 B2 F3 B3
      rank 1     F0 B0 F1 B1 F2 B2 F3 B3
      rank 2        F0 B0 F1 B1 F2 B2 F3 B3
    >>> blocks = (Block(0, 1, head), Block(1, 2, head, link=Link(1)), Block(2, 3, link=Link(1)))
    >>> linked = Decoupling("backlink", ("a", "b", "c"), blocks)
    >>> print(local(linked, [[0], [1], [2]], steps=3))
    backlink: 3 ranks, 3 steps
      rank 0  F0 B0    W0 F1 B1    W1 F2 B2    W2
      rank 1     F0 B0    W0 F1 B1    W1 F2 B2    W2
      rank 2        F0 B0       F1 B1       F2 B2
    >>> print(local(linked, [[0], [1], [2]], steps=3, late_links=True))
    backlink, late links: 3 ranks, 3 steps
      rank 0  F0 B0 F1 B1 W0 F2 B2 W1 W2
      rank 1     F0 B0 F1 B1 W0 F2 B2 W1 W2
      rank 2        F0 B0 F1 B1    F2 B2
    """
    own = checked(assignment, len(runs_of(decoupling)), decoupling.method)
    _at_least_one(steps=steps, micro_batches=micro_batches, in_flight=in_flight)
    links = linked_blocks(decoupling)
    late = late_blocks(links, [blocks[-1] for blocks in own], late_links)
    plan = _Local(own, links, late, steps, micro_batches, targets, reduce)
    name = f"{decoupling.method}, late links" if late else decoupling.method
    ranks = tuple(tuple(plan.rank(rank)) for rank in range(len(own)))
    return Schedule(name, own, ranks, links, late, in_flight)


class _Local:
    """The actions of each rank in local learning. ``i`` counts parts of batches over all steps."""

    def __init__(
        self,
        own: tuple[tuple[int, ...], ...],
        links: tuple[int, ...],
        late: tuple[int, ...],
        steps: int,
        parts: int,
        targets: bool,
        reduce: bool,
    ) -> None:
        self.own, self.links, self.late = own, links, late
        self.total, self.parts, self.reduce = steps * parts, parts, reduce
        self.carried = ("border", "targets") if targets else ("border",)

    def rank(self, rank: int) -> Iterator[Action]:
        """Yield the actions of one rank."""
        own = self.own[rank]
        for i in range(self.total):
            at = divmod(i, self.parts)
            for block in own:
                if i and at[1] == 0:
                    yield from self._due(rank, block, i)
                if block == own[0] and rank > 0:
                    for what in self.carried:
                        yield Action("receive", block - 1, *at, what, rank - 1)
                yield Action("forward", block, *at)
                if block == own[-1] and rank + 1 < len(self.own):
                    for what in self.carried:
                        yield Action("send", block, *at, what, rank + 1)
                yield Action("local", block, *at)
                if block - 1 in self.links and block == own[0]:
                    yield Action("send", block, *at, "error", rank - 1)
                yield from self._after(rank, block, i)
                if block - 1 in self.links and block != own[0] and block - 1 not in self.late:
                    yield from self._link(rank, block - 1, i)
                    yield from self._update(block - 1, i)
        for block in own:
            yield from self._due(rank, block, self.total)
            if block in self.late:
                for i in range(self.total - self.parts, self.total):
                    yield from self._link(rank, block, i)

    def _crosses(self, rank: int, block: int) -> bool:
        """Whether the block gets its link from another rank, in time."""
        linked = block in self.links and block not in self.late
        return linked and block == self.own[rank][-1]

    def _after(self, rank: int, block: int, i: int) -> Iterator[Action]:
        """After a block's backward: its update, or part of what waited."""
        if self._crosses(rank, block):
            if i % self.parts:  # the next part of the same batch: no update in between
                yield from self._link(rank, block, i - 1)
        elif block in self.late:
            if i >= self.parts:
                yield from self._link(rank, block, i - self.parts)
            yield from self._update(block, i)
        elif block not in self.links:
            yield from self._update(block, i)

    def _due(self, rank: int, block: int, i: int) -> Iterator[Action]:
        """Before part ``i`` begins a step: what the update of the step before still waits for."""
        if self._crosses(rank, block):
            yield from self._link(rank, block, i - 1)
            yield from self._update(block, i - 1)

    def _link(self, rank: int, block: int, i: int) -> Iterator[Action]:
        at = divmod(i, self.parts)
        if block == self.own[rank][-1]:
            yield Action("receive", block + 1, *at, "error", rank + 1)
        yield Action("link", block, *at)

    def _update(self, block: int, i: int) -> Iterator[Action]:
        step, part = divmod(i, self.parts)
        if part == self.parts - 1:
            if self.reduce:
                yield Action("reduce", block, step)
            yield Action("step", block, step)


def gpipe(ranks: int, micro_batches: int, steps: int = 1) -> Schedule:
    """Return GPipe: one block of BP a rank; all micro-batches forward, then all backward.

    The targets are read by the last rank.

    >>> print(gpipe(2, 3))
    GPipe: 2 ranks, 1 step, 3 micro-batches
      rank 0  F0.0 F0.1 F0.2           B0.0 B0.1 B0.2
      rank 1       F0.0 F0.1 F0.2 B0.0 B0.1 B0.2
    """
    return _pipeline("GPipe", ranks, micro_batches, steps, lambda rank: micro_batches)


def one_f_one_b(ranks: int, micro_batches: int, steps: int = 1) -> Schedule:
    """Return 1F1B: one block of BP a rank; forward and backward in turn, at most p - r at once.

    >>> print(one_f_one_b(3, 4))
    1F1B: 3 ranks, 1 step, 4 micro-batches
      rank 0  F0.0 F0.1 F0.2           B0.0 F0.3 B0.1      B0.2      B0.3
      rank 1       F0.0 F0.1      B0.0 F0.2 B0.1 F0.3 B0.2      B0.3
      rank 2            F0.0 B0.0 F0.1 B0.1 F0.2 B0.2 F0.3 B0.3
    """
    return _pipeline(
        "1F1B", ranks, micro_batches, steps, lambda rank: min(micro_batches, ranks - rank)
    )


def _pipeline(
    name: str, ranks: int, parts: int, steps: int, held: Callable[[int], int]
) -> Schedule:
    """Return a pipeline of BP in which a rank holds ``held(rank)`` micro-batches at most."""
    _at_least_one(ranks=ranks, micro_batches=parts, steps=steps)
    lists = []
    for rank in range(ranks):
        actions: list[Action] = []
        for step in range(steps):
            ahead = held(rank)
            for i in range(parts + ahead):
                if i >= ahead:
                    actions += _backward(rank, ranks, step, i - ahead)
                if i < parts:
                    actions += _forward(rank, ranks, step, i)
            actions.append(Action("step", rank, step))
        lists.append(tuple(actions))
    return Schedule(name, tuple((rank,) for rank in range(ranks)), tuple(lists))


def _forward(rank: int, ranks: int, step: int, part: int) -> Iterator[Action]:
    if rank > 0:
        yield Action("receive", rank - 1, step, part, "border", rank - 1)
    yield Action("forward", rank, step, part)
    if rank + 1 < ranks:
        yield Action("send", rank, step, part, "border", rank + 1)


def _backward(rank: int, ranks: int, step: int, part: int) -> Iterator[Action]:
    if rank + 1 < ranks:
        yield Action("receive", rank + 1, step, part, "error", rank + 1)
    yield Action("backward", rank, step, part)
    if rank > 0:
        yield Action("send", rank, step, part, "error", rank - 1)


def _at_least_one(**numbers: int) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise LocalgradError(f"{name}={number!r}: expected a whole number above 0")
