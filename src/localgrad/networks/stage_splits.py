"""Where published work cut the ResNets with four stages and the VGGs, as data.

A split lists the units of each block. Residual blocks are counted alone: the stem goes with the
first block. Sources: Cheng et al. (BWBPF, ICASSP 2024), the released code
(github.com/Belis0811/BWBPF, ``distributed/ResNet_{4,8,12,16}out.py`` and ``VGG.py``).

What that code holds, and what is ours:

* 4 blocks: the four stages. Published for ResNet-50, 101 and 152.
* 8 blocks: the third stage falls into five. Published for ResNet-101 and 152.
* 12 blocks: the released tables hold 19 and 30 residual blocks in the third stage, not the 23 and
  36 of ResNet-101 and 152: they build shorter networks. They stand here for the networks that they
  do build, ``resnet([3, 4, 19, 3])`` and ``resnet([3, 8, 30, 3])``.
* 16 blocks: the released class has thirteen blocks in the third stage, but its tables still list
  twelve entries, so that it cannot be built.

For the splits of 8, 12 and 16 blocks that are not published, the third stage is cut as evenly as
its residual blocks allow, the larger blocks first.
"""

from __future__ import annotations

from types import MappingProxyType

Split = tuple[int, ...]

#: Residual blocks in each stage to number of blocks to split, as released.
PUBLISHED_SPLITS: MappingProxyType[tuple[int, ...], dict[int, Split]] = MappingProxyType(
    {
        (3, 4, 6, 3): {4: (3, 4, 6, 3)},
        (3, 4, 23, 3): {4: (3, 4, 23, 3), 8: (3, 4, 5, 4, 5, 4, 5, 3)},
        (3, 8, 36, 3): {4: (3, 8, 36, 3), 8: (3, 8, 7, 7, 7, 7, 8, 3)},
        (3, 4, 19, 3): {12: (3, 4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 3)},
        (3, 8, 30, 3): {12: (3, 8, 5, 4, 3, 3, 3, 3, 3, 3, 3, 3)},
    }
)
_COUNTS = (8, 12, 16)


def even(total: int, parts: int) -> Split:
    """``total`` in ``parts`` that differ by one at the most, the larger first.

    >>> even(23, 9)
    (3, 3, 3, 3, 3, 2, 2, 2, 2)
    """
    size, rest = divmod(total, parts)
    return (size + 1,) * rest + (size,) * (parts - rest)


def stage_splits(stages: tuple[int, ...]) -> dict[int, Split]:
    """The splits of a network with ``stages`` residual blocks in each stage, by number of blocks.

    Published ones first; then one block a stage, the third of four stages cut evenly, and one
    residual block each.

    >>> stage_splits((3, 4, 6, 3))[8]
    (3, 4, 2, 1, 1, 1, 1, 3)
    """
    found = dict(PUBLISHED_SPLITS.get(stages, {}))
    found.setdefault(len(stages), stages)
    if len(stages) == 4:
        for count in _COUNTS:
            if count - 3 <= stages[2]:
                split = (*stages[:2], *even(stages[2], count - 3), stages[3])
                found.setdefault(count, split)
    found.setdefault(sum(stages), (1,) * sum(stages))
    return dict(sorted(found.items()))


def stage_cuts(stages: tuple[int, ...]) -> dict[int, tuple[str, ...]]:
    """:func:`stage_splits` as the last unit of every block but the final one.

    >>> stage_cuts((2, 2, 2, 2))
    {4: ('1.1', '2.1', '3.1'), 8: ('1.0', '1.1', '2.0', '2.1', '3.0', '3.1', '4.0')}
    """
    labels = [f"{s}.{i}" for s, count in enumerate(stages, start=1) for i in range(count)]
    cuts = {}
    for count, split in stage_splits(stages).items():
        ends = [sum(split[: k + 1]) - 1 for k in range(count - 1)]
        cuts[count] = tuple(labels[end] for end in ends)
    return cuts
