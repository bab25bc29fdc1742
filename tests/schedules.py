"""Decouplings of a given number of blocks, and their schedules, for tests that need no network."""

from __future__ import annotations

from localgrad import Block, Decoupling, Link, Part
from localgrad.parallel.assignment import even
from localgrad.parallel.builders import local
from localgrad.parallel.schedule import Schedule


def decoupling(blocks: int, linked: bool = False) -> Decoupling:
    return Decoupling(
        "backlink" if linked else "greedy",
        tuple(f"u{k}" for k in range(blocks)),
        tuple(
            Block(
                k,
                k + 1,
                head=Part("pool_linear") if k < blocks - 1 else None,
                link=Link(1) if linked and k else None,
            )
            for k in range(blocks)
        ),
    )


def greedy(ranks: int, steps: int, blocks: int | None = None, **options) -> Schedule:
    count = blocks or ranks
    return local(decoupling(count), even(count, ranks), steps, **options)


def backlink(ranks: int, steps: int, blocks: int | None = None, **options) -> Schedule:
    count = blocks or ranks
    return local(decoupling(count, linked=True), even(count, ranks), steps, **options)
