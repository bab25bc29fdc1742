"""What of a learner one process holds: some groups of blocks, their heads and their weights.

The rest stays in place as an empty shell: each of its parameters keeps shape and name, and a single
number of memory, which is no number, so that whoever reads it sees that at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from localgrad.errors import LocalgradError
from localgrad.learner import LocalLearner
from localgrad.segments import Group, norms_in_common


@dataclass(eq=False)
class Share:
    """The groups of one part, and the names of what belongs to each part.

    Args:
        groups: of this part.
        everything: the groups of all parts.
        ends: end (exclusive index of a group) of each part.
        owner: part that holds each tensor of the learner's state, by its name.
        names: of this part's parameters, in the learner's order.
        order: names of all parameters, in the learner's order.
    """

    groups: list[Group]
    everything: list[Group]
    ends: tuple[int, ...]
    owner: dict[str, int]
    names: dict[nn.Parameter, str] = field(default_factory=dict)
    order: tuple[str, ...] = ()


def even(groups: int, parts: int) -> tuple[int, ...]:
    """Return the end of each part: runs of groups that differ by one at most.

    >>> even(7, 2)
    (3, 7)
    """
    return tuple(groups * (part + 1) // parts for part in range(parts))


def take(learner: LocalLearner, parts: int, part: int, ends: Sequence[int] | None) -> Share:
    """Find this part's share, and let the memory of the rest go.

    Args:
        learner: built alike in every process; it cannot step afterwards.
        parts: number of parts.
        part: this one.
        ends: end (exclusive index of a group) of each part; default: equal numbers of groups.

    Raises:
        LocalgradError: there are more parts than groups, the ends are none, or parts would share a
            parameter or a norm's statistics.
    """
    groups = learner._groups
    if not groups:
        raise LocalgradError("this learner was released or spread: decouple the model again")
    check_parts(learner, parts)
    ends = even(len(groups), parts) if ends is None else tuple(ends)
    starts = (0, *ends[:-1])
    if (
        len(ends) != parts
        or ends[-1] != len(groups)
        or any(stop <= start for start, stop in zip(starts, ends, strict=True))
    ):
        raise LocalgradError(
            f"ends={ends}: expected {parts} rising numbers, the last one {len(groups)}, the number "
            "of groups of blocks"
        )
    shares = [groups[start:stop] for start, stop in zip(starts, ends, strict=True)]
    order = tuple(name for name, _ in learner.named_parameters())
    share = Share(shares[part], groups, ends, _owners(learner, shares), order=order)
    for name, parameter in learner.named_parameters():
        if share.owner[name] == part:
            share.names[parameter] = name
        else:
            parameter.data = _shell(parameter)
            parameter.grad = None
    learner._groups = []
    return share


def check_parts(learner: LocalLearner, parts: int) -> None:
    """Refuse more parts than there are groups of blocks."""
    groups = len(learner._groups)
    if parts > groups:
        raise LocalgradError(
            f"{parts} parts, but {learner.decoupling.method} has {groups} group"
            f"{'' if groups == 1 else 's'} of blocks that can be apart: set parallel.blocks to at "
            f"most {groups}, or cut into more blocks"
        )


def _shell(parameter: nn.Parameter) -> Tensor:
    """Return a tensor of the same shape that is no number everywhere, in the memory of one."""
    held = parameter.is_floating_point() or parameter.is_complex()
    one = torch.full(
        (), float("nan") if held else 0, dtype=parameter.dtype, device=parameter.device
    )
    return one.expand(parameter.shape)


def _owners(learner: LocalLearner, shares: list[list[Group]]) -> dict[str, int]:
    """Return the part of every name of the learner's state; what none holds goes to the first."""
    readers: dict[int, set[int]] = {}
    held: dict[int, int] = {}
    for part, groups in enumerate(shares):
        for stage in (stage for group in groups for stage in group.stages):
            for unit in (*stage.units, stage.head):
                reads = unit.parameters() if isinstance(unit, nn.Module) else unit.reads()
                for parameter in reads:
                    readers.setdefault(id(parameter), set()).add(part)
                for module in unit.modules():
                    for buffer in module.buffers(recurse=False):
                        held.setdefault(id(buffer), part)
    for name, parameter in learner.named_parameters():
        parts = sorted(readers.get(id(parameter), {0}))
        if len(parts) > 1:
            raise LocalgradError(
                f"parameter {name!r} is read in parts {parts[0]} and {parts[-1]} of the network "
                "(tied weights), which are different processes: use ties='untie', or cut so that "
                "one part holds all its uses"
            )
        held[id(parameter)] = parts[0]
    # each part as one group: a norm may run twice within it
    several = [
        Group(tuple(s for g in groups for s in g.stages), False, None, 0, ()) for groups in shares
    ]
    shared = norms_in_common(several)
    if shared is not None:
        raise LocalgradError(
            f"a {shared} with running statistics runs in several parts of the network, which are "
            "different processes: cut so that one part holds all its uses"
        )
    return {name: held.get(id(value), 0) for name, value in tensors_of(learner).items()}


def tensors_of(learner: LocalLearner) -> dict[str, Tensor]:
    """Return the parameters and buffers of the learner's state, not detached, by name."""
    return dict(learner.state_dict(keep_vars=True))
