"""What a search may choose: numbers of blocks, cuts, a head for each block, links."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

from torch import Tensor

from localgrad.chain import Chain
from localgrad.decoupling import Block, Decoupling, Link, Part
from localgrad.errors import LocalgradError
from localgrad.experiment.options.search import SearchConfig
from localgrad.heads import HEADS
from localgrad.methods import AugLocal
from localgrad.methods.blocks import spans
from localgrad.stages import stages_of

METHOD = "found"  # what a decoupling that was searched for calls its rule
_WITH_LOSS = ("predsim", "infopro")
Values = dict[str, Any]


class Chooser(Protocol):
    """What draws values: an ``optuna.Trial``."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Return a whole number."""

    def suggest_float(self, name: str, low: float, high: float) -> float:
        """Return a number."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices."""


@dataclass(frozen=True)
class Space:
    """The decouplings of one chain that may be tried.

    A drawing has a number for every place where a cut may be; K blocks are cut at the K - 1 places
    of the highest numbers. So every drawing is a legal decoupling, and every set of cuts is as
    likely as every other of the same K.

    Args:
        units: labels of the chain.
        ends: where a block but the last may end (exclusive unit indices).
        fewest, most: blocks.
        heads: what a block but the last may have; ``auglocal`` with its ``depth``.
        links: lengths in units; 0: isolated.
        stages: number of units in each stage.
    """

    units: tuple[str, ...]
    ends: tuple[int, ...]
    fewest: int
    most: int
    heads: tuple[Part, ...]
    links: tuple[int, ...]
    stages: tuple[int, ...] = ()

    @classmethod
    def of(cls, chain: Chain, example: Tensor, config: SearchConfig) -> Space:
        """Return what the options allow on a chain.

        Raises:
            LocalgradError: an unknown head, more blocks than units, or nothing to choose from.
        """
        fewest, most = config.blocks[0], config.blocks[-1]
        units = len(chain)
        if most > units:
            raise LocalgradError(
                f"search.blocks: {most} blocks are more than the network's {units} units: give at "
                f"most {units}"
            )
        ends = tuple(range(1, units)) if config.cuts == "any" else stage_ends(chain, example)
        if fewest > len(ends) + 1:
            raise LocalgradError(
                f"the search space is empty: {fewest} blocks need {fewest - 1} cuts, and the "
                f"network has {len(ends) + 1} stages: lower search.blocks or "
                "set --search.cuts any"
            )
        heads = tuple(_head(choice.name, choice.options) for choice in config.heads)
        most = min(most, len(ends) + 1)
        links, stages = tuple(config.links), _stages(chain, example)
        return cls(chain.names, ends, fewest, most, heads, links, stages)

    def __len__(self) -> int:
        """How many decouplings there are."""
        each = len(self.heads) * len(self.links)
        return sum(
            math.comb(len(self.ends), k - 1) * each ** (k - 1)
            for k in range(self.fewest, self.most + 1)
        )

    def draw(self, chooser: Chooser) -> Decoupling:
        """Draw a decoupling."""
        blocks = chooser.suggest_int("blocks", self.fewest, self.most)
        wishes = {end: chooser.suggest_float(f"cut {end}", 0.0, 1.0) for end in self.ends}
        ends = sorted(sorted(self.ends, key=lambda end: -wishes[end])[: blocks - 1])
        names = [str(head) for head in self.heads]
        heads, links = [], []
        for k in range(blocks - 1):
            heads.append(names.index(chooser.suggest_categorical(f"head {k}", names)))
            links.append(chooser.suggest_categorical(f"link {k}", list(self.links)))
        return self.decoupling(ends, [self.heads[index] for index in heads], links)

    def values(self, ends: Sequence[int], heads: Sequence[Part], links: Sequence[int]) -> Values:
        """Return what has to be drawn for a decoupling; arguments as of :meth:`decoupling`."""
        return {
            "blocks": len(ends) + 1,
            **{f"cut {end}": 1.0 if end in ends else 0.0 for end in self.ends},
            **{f"head {k}": str(head) for k, head in enumerate(heads)},
            **{f"link {k}": link for k, link in enumerate(links)},
        }

    def decoupling(
        self, ends: Sequence[int], heads: Sequence[Part], links: Sequence[int]
    ) -> Decoupling:
        """Return the decoupling with these choices for all blocks but the last.

        Args:
            ends: of each block but the last.
            heads: of each block but the last, out of the space's.
            links: how far the next block's error reaches into each block but the last.
        """
        pairs = spans((*ends, len(self.units)))
        blocks = []
        for k, (start, stop) in enumerate(pairs):
            length = links[k - 1] if k else 0
            head = self._placed(heads[k], stop) if k < len(ends) else None
            link = Link(length) if length else None
            blocks.append(Block(start, stop, head=head, link=link))
        return Decoupling(METHOD, self.units, tuple(blocks), stages=self.stages)

    def uniform(self, ends: Sequence[int], head: Part, link: int) -> Decoupling:
        """Return blocks that all have one head and one length of link."""
        count = len(ends)
        return self.decoupling(ends, [head] * count, [link] * count)

    def allows(self, ends: Sequence[int]) -> bool:
        """Whether a set of cuts is in the space."""
        return self.fewest <= len(ends) + 1 <= self.most and set(ends) <= set(self.ends)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "units": list(self.units),
            "cuts after": [self.units[end - 1] for end in self.ends],
            "blocks": [self.fewest, self.most],
            "heads": [str(head) for head in self.heads],
            "links": list(self.links),
        }

    def _placed(self, head: Part, stop: int) -> Part:
        """Name the units that a head copies."""
        if head.name != "auglocal":
            return head
        depth = head.options["depth"]
        picks = AugLocal(depth).picks(stop - 1, len(self.units), depth)
        return Part("auglocal", {"units": [self.units[pick] for pick in picks]})


def stage_ends(chain: Chain, example: Tensor) -> tuple[int, ...]:
    """Return where a stage ends and another follows (exclusive unit indices)."""
    return tuple(accumulate(_stages(chain, example)))[:-1]


def _stages(chain: Chain, example: Tensor) -> tuple[int, ...]:
    return stages_of(chain, chain.shapes(example)[0], example.shape[1:])


def _head(name: str, options: Mapping[str, Any]) -> Part:
    if name in _WITH_LOSS:
        raise LocalgradError(
            f"search.heads: {name!r} belongs to a loss of its own, and a search is over heads that "
            f"give class scores: leave it out"
        )
    if name == "auglocal":
        unknown = sorted(set(options) - {"depth"})
        if unknown:
            raise LocalgradError(
                f"search.heads: auglocal has no option {unknown[0]!r} here; its option: depth"
            )
        return Part(name, {"depth": AugLocal(**{"depth": 2, **options}).depth})
    if name not in HEADS and ":" not in name:
        known = [head for head in HEADS if head not in _WITH_LOSS]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
        raise LocalgradError(f"search.heads: unknown head {name!r}; {hint}")
    return Part(name, dict(options))
