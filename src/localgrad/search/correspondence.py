"""Which unit of one network corresponds to a unit of another: by stage, or by relative depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate


@dataclass(frozen=True)
class Correspondence:
    """From places in a source network to positions in a target network.

    Args:
        source, target: number of units in each stage; one stage each where stages are not known
            or do not correspond.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]

    @classmethod
    def of(
        cls,
        units: int,
        stages: Sequence[int],
        target_units: int,
        target_stages: Sequence[int],
    ) -> Correspondence:
        """Match two networks.

        Stages correspond where both networks have equally many. A first stage of a single unit,
        as is the stem of a ResNet for large images, counts to the second one where that makes the
        numbers equal. Else relative depth has to do.

        >>> Correspondence.of(10, (4, 3, 3), 16, (6, 5, 5)).by_stage
        True
        >>> Correspondence.of(9, (3, 2, 2, 2), 9, (1, 2, 2, 2, 2)).target
        (3, 2, 2, 2)
        >>> Correspondence.of(10, (4, 3, 3), 8, (1, 1, 2, 2, 2))
        Correspondence(source=(10,), target=(8,))
        """
        for mine in (tuple(stages), _with_stem(stages)):
            for theirs in (tuple(target_stages), _with_stem(target_stages)):
                if len(mine) == len(theirs) > 0:
                    return cls(mine, theirs)
        return cls((units,), (target_units,))

    @property
    def by_stage(self) -> bool:
        """Whether stages correspond; a network of one stage has none to speak of."""
        return len(self.source) > 1

    def wanted(self, end: int) -> Fraction:
        """Return where the border after ``end`` source units belongs, in target units.

        It stands at the same part of the same stage, never before the stage's first unit.

        >>> Correspondence((4, 3, 3), (6, 5, 5)).wanted(5)
        Fraction(23, 3)
        """
        stops = [0, *accumulate(self.source)]
        stage = next(s for s in range(len(self.source)) if end <= stops[s + 1])
        part = Fraction(end - stops[stage], self.source[stage])
        inside = max(part * self.target[stage], Fraction(1))
        return sum(self.target[:stage]) + inside


def _with_stem(stages: Sequence[int]) -> tuple[int, ...]:
    if len(stages) > 2 and stages[0] == 1:
        return (1 + stages[1], *stages[2:])
    return tuple(stages)
