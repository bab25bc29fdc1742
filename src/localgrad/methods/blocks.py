"""Isolated blocks: the frame that most rules fill in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from localgrad.chain import Chain
from localgrad.decoupling import Block, Link, Part


def every_unit(chain: Chain, cuts: Sequence[int] | None) -> tuple[int, ...]:
    """Return the cuts, by default one block a unit."""
    return tuple(range(1, len(chain) + 1)) if cuts is None else tuple(cuts)


def spans(ends: Sequence[int]) -> list[tuple[int, int]]:
    """Return (start, stop) of each block.

    >>> spans((2, 3))
    [(0, 2), (2, 3)]
    """
    return list(zip([0, *ends[:-1]], ends, strict=True))


def local_blocks(
    ends: Sequence[int],
    head: Callable[[int], Part],
    loss: Callable[[int], Part] = lambda k: Part("task"),
    link: Link | None = None,
) -> tuple[Block, ...]:
    """Return blocks of which all but the last have a head; the last ends in the network's tail.

    Args:
        ends: end of each block.
        head, loss: called with the block's index, for all but the last block.
        link: how each block but the first reaches into the one before it.
    """
    last = len(ends) - 1
    return tuple(
        Block(
            start,
            stop,
            head=head(k) if k < last else None,
            loss=loss(k) if k < last else Part("task"),
            link=link if k > 0 else None,
        )
        for k, (start, stop) in enumerate(spans(ends))
    )
