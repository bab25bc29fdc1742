"""Where published work cut the CIFAR ResNets, as data.

Source: Wang et al., "Revisiting Locally Supervised Learning" (InfoPro), ICLR 2021, the released
code's table; the cuts into single units are also AugLocal's (ICLR 2024).

A table maps K, the number of blocks, to the label of the last unit of every block but the final
one. Labels read ``stage.index``: stages count from 1, residual blocks within a stage from 0, and
``stem`` is the convolution before the first stage.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TypeAlias

CutTable: TypeAlias = dict[int, tuple[str, ...]]


def every_unit(blocks_per_stage: int) -> tuple[str, ...]:
    """Cuts after every unit of a CIFAR ResNet but the last: as many blocks as units.

    >>> every_unit(2)
    ('stem', '1.0', '1.1', '2.0', '2.1', '3.0')
    """
    units = [f"{stage}.{index}" for stage in (1, 2, 3) for index in range(blocks_per_stage)]
    return ("stem", *units[:-1])


#: Depth to table: blocks of about equally many units.
PUBLISHED: MappingProxyType[int, CutTable] = MappingProxyType(
    {
        32: {
            2: ("2.1",),
            3: ("1.4", "2.4"),
            4: ("1.2", "2.1", "3.0"),
            8: ("1.0", "1.2", "1.4", "2.1", "2.3", "3.0", "3.2"),
            16: every_unit(5),
        },
        110: {
            2: ("2.8",),
            3: ("1.17", "2.17"),
            4: ("1.11", "2.7", "3.3"),
            8: ("1.4", "1.11", "2.0", "2.7", "2.14", "3.3", "3.10"),
            16: (
                *("1.1", "1.4", "1.7", "1.10", "1.13", "1.16"),
                *("2.1", "2.4", "2.7", "2.11", "2.15"),
                *("3.1", "3.5", "3.9", "3.13"),
            ),
            55: every_unit(18),
        },
    }
)

#: Depth to table: InfoPro*'s cuts, blocks of about equal memory, for 32x32 images. (For STL-10's
#: 96x96 images the released table differs at K=3 alone: 1.8, 2.1.)
MEMORY_BALANCED: MappingProxyType[int, CutTable] = MappingProxyType(
    {
        110: {
            2: ("1.14",),
            3: ("1.9", "2.2"),
            4: ("1.6", "1.14", "2.8"),
        },
    }
)
