"""Heads on their way to another network: of a kind, and of copies of the network's own units."""

from __future__ import annotations

from dataclasses import dataclass, replace

from localgrad.decoupling import Part
from localgrad.errors import LocalgradError
from localgrad.methods import AugLocal
from localgrad.search.correspondence import Correspondence
from localgrad.search.spread import spread


@dataclass(frozen=True)
class HeadMap:
    """How heads are carried over.

    Args:
        source, target: labels of both networks' units.
        places: which places correspond.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    places: Correspondence

    def carry(self, head: Part, block: int, end: int, new_end: int) -> tuple[Part, str]:
        """Return the head for the target, and what became of it, as in a report.

        Most heads are their kind and options. A head whose option ``units`` names units copies
        them (AugLocal's): where they are those that the rule picks for its depth, the rule picks
        again; else each goes where it belongs by its place, all of them behind the new border.

        Args:
            head: of the source.
            block: its number.
            end, new_end: border after the block, in units of the source and of the target.

        Raises:
            LocalgradError: it names a unit that the source does not have.
        """
        named = head.options.get("units")
        if not isinstance(named, list) or not named:
            return head, "kept"
        for name in named:
            if name not in self.source:
                raise LocalgradError(
                    f"block {block}: its head {head.name!r} names unit {name!r}, which is none of "
                    f"the decoupling's {len(self.source)} units"
                )
        indices = [self.source.index(name) for name in named]
        chosen, how = self._units(head.name, indices, end, new_end)
        units = [self.target[i] for i in chosen]
        if units == named:
            how = "kept"
        elif len(units) < len(named):
            how = "clipped"
        return replace(head, options={**head.options, "units": units}), how

    def _units(self, kind: str, named: list[int], end: int, new_end: int) -> tuple[list[int], str]:
        count = len(self.target)
        rule, depth = AugLocal(), len(named)
        if kind == "auglocal" and named == rule.picks(end - 1, len(self.source), depth):
            return rule.picks(new_end - 1, count, depth), "redone"
        borders = [self.places.wanted(index + 1) for index in named]
        rising = sorted(borders)[: count - new_end]
        return [stop - 1 for stop in spread(rising, new_end + 1, count)], "mapped"
