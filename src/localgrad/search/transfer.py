"""A decoupling of one network, carried over to another depth or family.

Each cut goes to the same part of the same stage, or to the same relative depth where the networks
have different numbers of stages; heads are built again, from their kind, for the shapes at the new
place; losses, links, open borders and checkpointing stay with their block.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from torch import Tensor, nn

from localgrad.chain import Chain
from localgrad.decoupling import Block, Decoupling
from localgrad.errors import LocalgradError
from localgrad.learner import LocalLearner
from localgrad.places import Place
from localgrad.search.correspondence import Correspondence
from localgrad.search.spread import spread
from localgrad.search.transfer_check import check_heads, check_parts
from localgrad.search.transfer_heads import HeadMap
from localgrad.search.transfer_report import BlockReport, Report
from localgrad.stages import stages_of


class Transferred(NamedTuple):
    """A decoupling on its new network, and what became of each cut and head."""

    decoupling: Decoupling
    report: Report


def transfer(
    decoupling: Decoupling,
    network: nn.Module | Chain | LocalLearner,
    example_input: Tensor,
) -> Transferred:
    """Carry a decoupling over to another network.

    Args:
        decoupling: of the source network; its ``stages`` let cuts keep their stage.
        network: where to: a model, its chain, or a learner on it. Nothing of it is changed.
        example_input: a batch for it, ``(batch, ...)``.

    Returns:
        ``(decoupling, report)``: the first goes to :func:`localgrad.decouple` in a method's
        place; ``print(report)`` shows what became of each cut and head.

    Raises:
        LocalgradError: the network has fewer units than the decoupling blocks, or a head is
            unknown or cannot be built where its cut goes; the message says what would fit.

    >>> import localgrad, torch
    >>> from localgrad.networks import resnet20, resnet32
    >>> x = torch.rand(2, 3, 32, 32)
    >>> found = localgrad.decouple(resnet20(), "dgl", cuts=["1.1", "2.2"], example_input=x)
    >>> deeper, report = transfer(found.decoupling, resnet32(), x)
    >>> print(report)
    block  last unit                    becomes                      cut      head
    0      1.1 (0.30; stage 1, 3 of 4)  1.2 (0.25; stage 1, 4 of 6)  nearest  dgl: kept
    1      2.2 (0.70; stage 2, 3 of 3)  2.4 (0.69; stage 2, 5 of 5)  kept     dgl: kept
    2      3.2 (1.00; stage 3, 3 of 3)  3.4 (1.00; stage 3, 5 of 5)  end      tail
    >>> learner = localgrad.decouple(resnet32(), deeper, example_input=x)
    """
    if not isinstance(decoupling, Decoupling):
        raise LocalgradError(
            f"transfer takes a Decoupling, not {decoupling!r}: read a file with Decoupling.load"
        )
    check_parts(decoupling)
    chain = _chain_of(network, example_input)
    shapes, out = chain.shapes(example_input)
    stages = stages_of(chain, shapes, example_input.shape[1:])
    units = decoupling.units
    places = Correspondence.of(len(units), decoupling.stages, len(chain), stages)
    ends, cuts = _ends(decoupling, chain, places)
    heads = HeadMap(units, chain.names, places)
    blocks: list[Block] = []
    parts: list[tuple[str, str]] = []
    for k, (block, end) in enumerate(zip(decoupling.blocks, ends, strict=True)):
        head, head_is = None, "tail"
        if block.head is not None:
            head, head_is = heads.carry(block.head, k, block.stop, end)
        start = ends[k - 1] if k else 0
        blocks.append(replace(block, start=start, stop=end, head=head))
        parts.append((cuts[k], head_is))
    found = replace(decoupling, units=chain.names, blocks=tuple(blocks), stages=stages)
    if chain.names != units:
        told = f"transferred from {len(units)} units to {len(chain)}"
        found = replace(found, source="; ".join(filter(None, (decoupling.source, told))))
    rows = [
        BlockReport(
            block=k,
            source=Place.at(decoupling.blocks[k].stop - 1, units, decoupling.stages),
            target=Place.at(blocks[k].stop - 1, chain.names, stages),
            cut=cut,
            head_before=decoupling.blocks[k].head,
            head=blocks[k].head,
            head_is=head_is,
            link=blocks[k].link,
            link_is=_link_is(decoupling, found, k),
        )
        for k, (cut, head_is) in enumerate(parts)
    ]
    check_heads(found, chain, shapes, out, example_input)
    by = "stage" if places.by_stage else "depth"
    return Transferred(found, Report(tuple(rows), by, _notes(decoupling, places, stages)))


def _chain_of(network: nn.Module | Chain | LocalLearner, example: Tensor) -> Chain:
    if isinstance(network, LocalLearner):
        return network.chain
    return network if isinstance(network, Chain) else Chain.of(network, example)


def _ends(
    decoupling: Decoupling, chain: Chain, places: Correspondence
) -> tuple[list[int], list[str]]:
    """Return the end of each block on the target, and what became of each cut."""
    count, target = len(decoupling.units), len(chain)
    inner = [block.stop for block in decoupling.blocks if block.stop < count]
    if len(inner) > target - 1:
        raise LocalgradError(
            f"the decoupling has {len(inner) + 1} blocks, the network {target} units: at most "
            f"K={target} blocks fit; take a decoupling of so many, a deeper network, or finer "
            "units (granularity 'layer')"
        )
    wanted = [places.wanted(stop) for stop in inner]
    found = spread(wanted, 1, target - 1)
    cuts = [_became(want, stop, target) for want, stop in zip(wanted, found, strict=True)]
    last = len(decoupling.blocks) - len(inner)
    return [*found, *[target] * last], [*cuts, *["end"] * last]


def _became(want: Fraction, stop: int, target: int) -> str:
    if stop == want:
        return "kept"
    alone = spread([want], 1, target - 1)[0]
    return "nearest" if abs(stop - want) <= abs(alone - want) else "moved"


def _link_is(before: Decoupling, after: Decoupling, k: int) -> str | None:
    """Return what became of block ``k``'s link; lengths stay, and end with the block at the most.

    A length in layers is as it was: how many a unit has is known once the network is decoupled.
    """
    link = after.blocks[k].link
    if link is None:
        return None
    reached = [len(each.linked_units(k - 1)) for each in (before, after)]
    if link.length_unit == "unit" and reached[1] < link.length == reached[0]:
        return f"clipped to {reached[1]}, the whole block"
    return "kept"


def _notes(
    decoupling: Decoupling, places: Correspondence, stages: tuple[int, ...]
) -> tuple[str, ...]:
    if places.by_stage or len(stages) == len(decoupling.stages):
        return ()
    if not decoupling.stages:
        return ("the decoupling does not say its stages: cuts keep their relative depth",)
    return (
        f"the networks have {len(decoupling.stages)} and {len(stages)} stages: cuts keep their "
        "relative depth",
    )
