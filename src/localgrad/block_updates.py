"""An optimizer stepped block by block, inside of one local step.

All blocks learn from the same weights, so an update of a block's parameters may come as soon as
nothing reads them any more in this step: no forward, no backward, no recomputation. Then their
gradients go, and only those of one or two blocks are ever alive.

The moments of a step, for groups 0, 1, 2, ..: local 0, local 1, link 0, local 2, link 1, ..
where ``local g`` is the end of group g's own backward, and ``link g`` the end of the backward of
its segment that waited for group g + 1. Where that link is late, ``link g`` is the end of the
segment of the step before, and comes right after ``local g``. A parameter is due at the last moment
of all that read it: a tied weight that a later block reads as a constant waits for that block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from localgrad.chain import Unit
from localgrad.errors import LocalgradError
from localgrad.segments import Group

Due = dict[nn.Parameter, int]


def _local(group: int) -> int:
    return 3 * group


def _link(group: int, late: bool = False) -> int:
    if late:
        return 3 * group + 1
    return 3 * group + 5  # after the next group's local backward, before the one of the group then


def moments(groups: list[Group], parameters: list[nn.Parameter], whole: bool = False) -> Due:
    """Return the moment of a step from which on nothing reads a parameter any more.

    Args:
        groups: the learner's.
        parameters: the learner's; one that no group reads is due at the end.
        whole: all of a group at once, when its last parameters are due.
    """
    due: Due = {}
    for number, group in enumerate(groups):
        for parameter, waits in _read(group):
            last = waits or (whole and group.linked > 0)
            moment = _link(number, group.late) if last else _local(number)
            due[parameter] = max(moment, due.get(parameter, 0))
    return {parameter: due.get(parameter, _link(len(groups))) for parameter in parameters}


def _read(group: Group) -> Iterator[tuple[nn.Parameter, bool]]:
    """Yield what a group reads, and whether the segment that waits for a link still does."""
    for stage in group.stages:
        linked = group.linked if stage is group.stages[-1] else 0
        link = None if group.late else group.link
        again = link is not None and link.combine == "sum" and not link.keep_error
        split = len(stage.units) - linked
        for position, unit in enumerate(stage.units):
            yield from ((p, position >= split) for p in unit.reads())
        head = stage.head.reads() if isinstance(stage.head, Unit) else stage.head.parameters()
        yield from ((p, bool(linked) and again) for p in head)


class BlockUpdates:
    """One step's updates.

    Args:
        optimizer: over the learner's parameters; others that it holds are left alone.
        due: from :func:`moments`.
        reduce: called with the parameters of each update before it, for gradients that several
            processes share.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        due: Due,
        reduce: Callable[[list[nn.Parameter]], None] | None = None,
    ) -> None:
        self._optimizer, self._reduce = optimizer, reduce
        self._options: list[dict[str, Any]] | None = None
        self._left: dict[int, list[list[nn.Parameter]]] = {}
        for index, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                if parameter in due:
                    empty: list[list[nn.Parameter]] = [[] for _ in optimizer.param_groups]
                    self._left.setdefault(due[parameter], empty)[index].append(parameter)

    def after_local(self, group: int) -> None:
        """Update what nothing reads after the local backward of ``group``."""
        self._reached(_local(group))

    def after_link(self, group: int, late: bool = False) -> None:
        """Update what nothing reads after the backward of the segment that waited in ``group``."""
        self._reached(_link(group, late))

    def rest(self) -> None:
        """Update what is left: parameters that no group reads, with gradients from elsewhere."""
        for moment in sorted(self._left):
            self._reached(moment)

    def keep_options(self) -> None:
        """Let what is still to come use the options of now: the learning rate of this step."""
        self._options = [_options(group) for group in self._optimizer.param_groups]

    def _reached(self, moment: int) -> None:
        parts = self._left.pop(moment, [])
        touched = [p for part in parts for p in part if p.grad is not None]
        if not touched:
            return
        if self._reduce is not None:
            self._reduce(touched)
        groups = self._optimizer.param_groups
        kept = self._options or [{} for _ in groups]
        before = [
            {key: group[key] for key in ("params", *own)}
            for group, own in zip(groups, kept, strict=True)
        ]
        try:
            for group, part, own in zip(groups, parts, kept, strict=True):
                group.update(own, params=part)
            with torch.autocast(touched[0].device.type, enabled=False):
                self._optimizer.step()
        finally:
            for group, own in zip(groups, before, strict=True):
                group.update(own)
        for parameter in touched:
            parameter.grad = None


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer group's options; one in a tensor may be changed in its place."""
    return {
        key: value.clone() if isinstance(value, Tensor) else value
        for key, value in group.items()
        if key != "params"
    }


def check(update: Any, scaler: Any, learner: nn.Module) -> None:
    """Refuse what cannot be stepped block by block.

    Raises:
        LocalgradError: not an optimizer, one that does not hold all that the learner trains or
            that needs a closure, or a scaler beside it.
    """
    if scaler is not None and not callable(getattr(scaler, "scale", None)):
        raise LocalgradError(
            f"scaler is a {type(scaler).__name__}: expected a torch.amp.GradScaler"
        )
    if update is None:
        return
    if scaler is not None:
        raise LocalgradError(
            "step got both scaler and update: a scaler must see all gradients before it decides "
            "whether to skip; leave update out and call scaler.step(optimizer)"
        )
    if not isinstance(update, torch.optim.Optimizer):
        raise LocalgradError(f"update is a {type(update).__name__}: expected a torch optimizer")
    if isinstance(update, torch.optim.LBFGS):
        raise LocalgradError("LBFGS looks at all parameters at once: leave update out")
    check_holds(update, learner.named_parameters(), "learner.parameters()")


def check_holds(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[tuple[str, nn.Parameter]],
    source: str,
) -> None:
    """Refuse an optimizer that would leave a parameter untrained.

    Args:
        optimizer: any.
        parameters: what is trained, with names; frozen ones do not count.
        source: what the optimizer is to be made from, for the message.
    """
    held = {p for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in parameters:
        if parameter.requires_grad and parameter not in held:
            raise LocalgradError(
                f"the optimizer does not hold parameter {name!r}, which is trained here: "
                f"make it from {source}, or freeze the parameter"
            )
