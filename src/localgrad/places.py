"""Where a unit is in its network, said so that it holds for another network too.

A stage is a run of units that work at one resolution (:mod:`localgrad.stages`). Numbers of a unit
within a stage, and of stages, count from 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from localgrad import plain_data
from localgrad.errors import LocalgradError


@dataclass(frozen=True)
class Place:
    """Where a unit is.

    Args:
        unit: its label.
        depth: relative depth: the part of the network's units up to and with this one, 0..1.
        stage: number of its stage; None where the stages are not known.
        number: its number in the stage.
        of: number of units in the stage.
    """

    unit: str
    depth: float
    stage: int | None = None
    number: int | None = None
    of: int | None = None

    @classmethod
    def at(cls, index: int, units: Sequence[str], stages: Sequence[int] = ()) -> Place:
        """Return the place of unit ``index``.

        >>> Place.at(2, ("stem", "1.0", "2.0", "2.1"), (2, 2))
        Place(unit='2.0', depth=0.75, stage=2, number=1, of=2)

        Args:
            index: of the unit.
            units: labels in order.
            stages: number of units in each stage, or nothing.
        """
        depth = round((index + 1) / len(units), 4)
        for stage, end in enumerate(accumulate(stages), start=1):
            if index < end:
                of = stages[stage - 1]
                return cls(units[index], depth, stage, index - (end - of) + 1, of)
        return cls(units[index], depth)

    def __str__(self) -> str:
        if self.stage is None:
            return f"{self.unit} ({self.depth:.2f})"
        return f"{self.unit} ({self.depth:.2f}; stage {self.stage}, {self.number} of {self.of})"


def problems(stages: Sequence[int], units: Sequence[str]) -> list[str]:
    """Return what is wrong with the labels and stages of a network's units, in words."""
    found = []
    twice = sorted({unit for unit in units if units.count(unit) > 1})
    if twice:
        found.append(f"two units are called {twice[0]!r}")
    if stages and (min(stages) < 1 or sum(stages) != len(units)):
        found.append(
            f"stages {list(stages)} must be whole numbers >= 1 that add up to {len(units)} units"
        )
    return found


def check_written(written: Any, places: Sequence[Place]) -> None:
    """Refuse places in a file that contradict its units and blocks: one of both is wrong.

    Args:
        written: what the file has under ``cuts``.
        places: of the cuts that its blocks make.

    Raises:
        LocalgradError: names the cut, and both values.
    """
    where = "the decoupling: cuts"
    if not isinstance(written, list):
        raise LocalgradError(f"{where} is {written!r}: expected a list")
    found = [plain_data.read(Place, cut, f"{where} {k}") for k, cut in enumerate(written)]
    for k, cut in enumerate(found):
        if not 0 < cut.depth <= 1:
            raise LocalgradError(f"{where} {k}: depth {cut.depth} must be above 0 and at most 1")
    remedy = "edit both, or leave out cuts, which follows from blocks"
    if len(found) != len(places):
        raise LocalgradError(f"{where} has {len(found)}, blocks make {len(places)}: {remedy}")
    for k, (cut, place) in enumerate(zip(found, places, strict=True)):
        for field in dataclasses.fields(Place):
            given, follows = getattr(cut, field.name), getattr(place, field.name)
            close = field.name == "depth" and abs(given - follows) < 1e-3
            if given != follows and not close:
                raise LocalgradError(
                    f"{where} {k}: {field.name} is {given!r}, but block {k} ends at unit "
                    f"{place.unit!r}, where it is {follows!r}: {remedy}"
                )
