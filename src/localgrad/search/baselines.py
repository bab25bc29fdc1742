"""Decouplings that a search begins with: what people cut without one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from localgrad.balance import Balance
from localgrad.chain import Chain
from localgrad.decoupling import Decoupling
from localgrad.methods.blocks import every_unit
from localgrad.search.space import Space, Values, stage_ends


@dataclass(frozen=True)
class Baseline:
    """A decoupling with a name.

    Args:
        name: how its cuts were made, and its number of blocks.
        decoupling: all of its blocks have the space's first head and first length of link.
        values: what has to be drawn for it.
    """

    name: str
    decoupling: Decoupling
    values: Values


def baselines(
    space: Space, chain: Chain, example: Tensor, loss: Callable[[Any, Any], Any]
) -> list[Baseline]:
    """Return published, stage, uniform and memory-balanced cuts that lie in the space.

    Published are the network's own tables; stages end where the shape changes; uniform blocks have
    equal numbers of units; memory-balanced ones the smallest peak. The last two come at the fewest
    and the most blocks, and at one number between.
    """
    counts = sorted({space.fewest, (space.fewest + space.most) // 2, space.most})
    head, link = space.heads[0], space.links[0]
    units = len(chain)
    found: dict[tuple[int, ...], str] = {}

    def add(name: str, ends: tuple[int, ...]) -> None:
        if space.allows(ends):
            found.setdefault(ends, f"{name} K={len(ends) + 1}")

    def rule(chain: Chain, cuts: tuple[int, ...] | None) -> Decoupling:
        return space.uniform(every_unit(chain, cuts)[:-1], head, link)

    add("stages", stage_ends(chain, example))
    for count in counts:
        if count in chain.published_cuts:
            add("published", (chain.cuts(count) or ())[:-1])
    for count in counts:
        add("uniform", tuple(units * (k + 1) // count for k in range(count - 1)))
    balance = Balance(chain, example, loss)
    for count in counts:
        if count > 1:
            add("memory", balance.memory(rule, count)[:-1])
    made = []
    for ends, name in found.items():
        parts, links = [head] * len(ends), [link] * len(ends)
        made.append(
            Baseline(name, space.decoupling(ends, parts, links), space.values(ends, parts, links))
        )
    return made
