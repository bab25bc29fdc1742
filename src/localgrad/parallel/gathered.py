"""The state of a learner in several processes, as one process would have it: to save and to load.

The names, their order and the numbering of an optimizer's state are those of one process, so that
a checkpoint can go on with any number of processes, or with one. Buffers (a batch norm's
statistics) are those of the first replica.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from localgrad.errors import LocalgradError
from localgrad.learner import LocalLearner
from localgrad.parallel.late import put_back, waiting_gradients
from localgrad.parallel.pipeline import ParallelLearner
from localgrad.parallel.share import tensors_of


def state(parallel: ParallelLearner) -> dict[str, Tensor] | None:
    """Return the learner's whole state dict on the CPU on rank 0, None elsewhere.

    Every process calls it.
    """
    parallel.finish()
    found = parallel.mesh.collect(_own(parallel))
    if found is None:
        return None
    everything = {name: value for own in found for name, value in own.items()}
    return {name: everything[name] for name in parallel.share.owner}


def join(parallel: ParallelLearner) -> LocalLearner:
    """Give the whole learner back in every process, with all weights; the part is then spent.

    Every process calls it. Gradients that wait for the next update come along.
    """
    waiting = parallel.mesh.gather(_waiting(parallel))
    everything: dict[str, Tensor] = {}
    for own in parallel.mesh.gather(_own(parallel)):
        everything |= own
    for name, value in tensors_of(parallel.learner).items():
        if parallel.share.owner[name] != parallel.mesh.part:
            given = everything[name].to(value.device)
            value.data = given
    for own in waiting:
        put_back(parallel.learner.named_parameters(), own)
    parallel.learner._groups, parallel.groups = parallel.share.everything, []
    return parallel.learner


def late_gradients(parallel: ParallelLearner) -> dict[str, Tensor] | None:
    """Return the gradients that wait for the next update, by name, on rank 0; None elsewhere.

    There are some with late links, and where no optimizer steps block by block. Every process
    calls it.
    """
    found = parallel.mesh.collect(_waiting(parallel))
    return None if found is None else {k: v for own in found for k, v in own.items()}


def _waiting(parallel: ParallelLearner) -> dict[str, Tensor]:
    parallel.finish()
    first = parallel.mesh.replica == 0
    return waiting_gradients(parallel.named_parameters()) if first else {}


def _own(parallel: ParallelLearner) -> dict[str, Tensor]:
    if parallel.mesh.replica != 0:
        return {}
    owner, part = parallel.share.owner, parallel.mesh.part
    return {
        name: value.detach().cpu()
        for name, value in tensors_of(parallel.learner).items()
        if owner[name] == part
    }


def load_state(parallel: ParallelLearner, whole: dict[str, Tensor]) -> None:
    """Put this part's share of a whole state dict in place.

    Raises:
        LocalgradError: it is of another learner.
    """
    parallel.finish()
    owner = parallel.share.owner
    for name, value in tensors_of(parallel.learner).items():
        given = whole.get(name)
        if given is None or given.shape != value.shape:
            came = "nothing" if given is None else tuple(given.shape)
            raise LocalgradError(
                f"the state is of another learner: {name!r} has shape {tuple(value.shape)}, got "
                f"{came}"
            )
        if owner[name] == parallel.mesh.part or not isinstance(value, nn.Parameter):
            with torch.no_grad():
                value.copy_(given)


def optimizer_state(
    parallel: ParallelLearner, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Return the state dict of one optimizer over all parameters on rank 0, None elsewhere.

    Every process calls it. Parameters are numbered group by group, in the learner's order.
    """
    parallel.finish()
    names = parallel.share.names
    groups = [
        ({k: v for k, v in group.items() if k != "params"}, [names[p] for p in group["params"]])
        for group in optimizer.param_groups
    ]
    each = {name: _on_cpu(optimizer.state[p]) for p, name in names.items() if p in optimizer.state}
    mine = (groups, each) if parallel.mesh.replica == 0 else ([], {})
    found = parallel.mesh.collect(mine)
    if found is None:
        return None
    values = {name: value for _, own in found for name, value in own.items()}
    numbers = _numbers(parallel, [own for own, _ in found if own])
    of_name = {name: i for _, members in numbers for name, i in members.items()}
    return {
        "state": {of_name[name]: values[name] for name in of_name if name in values},
        "param_groups": [
            {**options, "params": list(members.values())} for options, members in numbers
        ],
    }


def _numbers(
    parallel: ParallelLearner, parts: list[list[tuple[dict[str, Any], list[str]]]]
) -> list[tuple[dict[str, Any], dict[str, int]]]:
    """Return each group's options, and the numbers of its parameters in one process."""
    place = {name: i for i, name in enumerate(parallel.share.order)}
    found, count = [], 0
    for together in zip(*parts, strict=True):
        members = sorted((name for _, names in together for name in names), key=place.__getitem__)
        found.append((together[0][0], {name: count + i for i, name in enumerate(members)}))
        count += len(members)
    return found


def load_optimizer_state(
    parallel: ParallelLearner, optimizer: torch.optim.Optimizer, whole: dict[str, Any]
) -> None:
    """Put this part's share of :func:`optimizer_state`'s result in place, in every process.

    The result may come from another number of processes, or from one process's optimizer over
    ``learner.parameters()``.

    Raises:
        LocalgradError: it is of an optimizer over other parameters.
    """
    parallel.finish()
    names = parallel.share.names
    groups = [[names[p] for p in group["params"]] for group in optimizer.param_groups]
    everyone = parallel.mesh.gather(groups if parallel.mesh.replica == 0 else [])
    parts: list[list[tuple[dict[str, Any], list[str]]]] = [
        [({}, own) for own in one] for one in everyone if one
    ]
    numbers = _numbers(parallel, parts)
    sizes = [len(members) for _, members in numbers]
    if sizes != [len(group["params"]) for group in whole["param_groups"]]:
        raise LocalgradError(
            "the optimizer's state is of other parameters: expected groups of "
            f"{sizes}, got {[len(group['params']) for group in whole['param_groups']]}"
        )
    of_name = {name: i for _, members in numbers for name, i in members.items()}
    local = {p: i for i, p in enumerate(p for g in optimizer.param_groups for p in g["params"])}
    state = {
        i: whole["state"][of_name[names[p]]]
        for p, i in local.items()
        if of_name[names[p]] in whole["state"]
    }
    param_groups = [
        {**given, "params": [local[p] for p in group["params"]]}
        for given, group in zip(whole["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": param_groups})


def _on_cpu(value: Any) -> Any:
    return {k: v.detach().cpu() if isinstance(v, Tensor) else v for k, v in value.items()}
