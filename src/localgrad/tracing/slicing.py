"""Cutting a traced model into slices: which calls are run whole, what is computed again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from localgrad.tracing.graph import Call, Node, Trace, nodes_in
from localgrad.tracing.slices import Slice, Step
from localgrad.tracing.stand_ins import TracedInt, TracedTensor, plain


def slice_between(trace: Trace, start: int, stop: int, source: Node, target: Node) -> Slice:
    """Return the steps that lead from ``source`` to ``target``.

    Args:
        trace: the model.
        start, stop: nodes after ``start`` up to ``stop`` belong to the part.
        source, target: the tensors that cross the borders at ``start`` and ``stop``.
    """
    calls = _whole_calls(trace, start, stop, target)
    covered = {i for call in calls for i in range(call.first, call.last + 1)}
    steps = [Step(trace.nodes[call.last], call) for call in calls]
    for node in trace.nodes[start + 1 : stop + 1]:
        if node.live and node.kind != "input" and node.index not in covered:
            steps.append(Step(node))
    made = {node for step in steps for node in step.makes()} | {source}
    # what is made of sizes and parameters is computed here, wherever the model does it; live
    # tensors of earlier parts can only be asked for their sizes: that is what a cut means
    empty: dict[Node, Any] = {}
    first = None
    waiting = [(target, False)]
    for step in steps:
        size_only = step.call is None and step.node.content_free
        needed = nodes_in(step.arguments) + (step.node.after if step.call is None else [])
        waiting += [(node, size_only) for node in needed]
    while waiting:
        node, size_only = waiting.pop()
        if node in made or (node in empty and (node.live or size_only)):
            continue
        if node.live or (node.kind == "input" and size_only):
            empty[node] = []
        elif node.kind == "input":
            made.add(node)
            first = node
        else:
            made.add(node)
            steps.append(Step(node, given=node.index <= start))
            waiting += [(needed_by, node.content_free) for needed_by in node.inputs()]
    if first is not None:
        empty.pop(first, None)
    steps.sort(key=lambda step: step.index)
    _forget(steps, target)
    modes = {
        (path, training) for position, path, training in trace.modes
        if start < position <= stop and position not in covered
    }  # fmt: skip
    return Slice(source, target, steps, sorted(modes), empty, first)


def _whole_calls(trace: Trace, start: int, stop: int, target: Node) -> list[Call]:
    """Return the largest calls inside of a part that can run as they are."""
    last_use: dict[Node, int] = {target: len(trace.nodes)}
    for node in trace.nodes[start + 1 : stop + 1]:
        for needed in () if node.content_free else node.inputs():
            last_use[needed] = max(node.index, last_use.get(needed, -1))
    chosen: list[Call] = []
    for call in sorted(trace.calls, key=lambda c: (c.first - c.last, len(c.path))):
        inside = trace.nodes[call.first : call.last + 1]
        if not (start < call.first and call.last <= stop) or not any(n.live for n in inside):
            continue
        if any(c.first <= call.last and call.first <= c.last for c in chosen):
            continue
        returned = set(nodes_in(call.output))
        leaks = any(
            n.live and last_use.get(n, -1) > call.last and n not in returned for n in inside
        )
        if not leaks and not _keeps_stand_ins((call.args, call.kwargs)):
            chosen.append(call)
    return chosen


def _keeps_stand_ins(arguments: Any) -> bool:
    """Whether an argument is an object that holds traced tensors (a cache, say) inside."""
    found: list[Any] = []

    def look(item: Any) -> None:
        found.extend(x for x in _held(item, 3) if isinstance(x, TracedTensor | TracedInt))

    plain(arguments, look)
    return bool(found)


def _held(item: Any, depth: int) -> Iterator[Any]:
    yield item
    if depth == 0 or isinstance(item, Node | Tensor | nn.Module | type | str | int | float):
        return
    inner = list(getattr(item, "__dict__", {}).values())
    inner += list(item) if isinstance(item, list | tuple) else []
    inner += list(item.values()) if isinstance(item, dict) else []
    for part in inner:
        yield from _held(part, depth - 1)


def _forget(steps: list[Step], target: Node) -> None:
    """Note after which step each result is needed no more."""
    last: dict[Node, Step] = {}
    for step in steps:
        for node in [*step.makes(), *nodes_in(step.arguments)]:
            last[node] = step
    for node, step in last.items():
        if node is not target:
            step.done.append(node)
