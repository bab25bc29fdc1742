"""Where a traced model can be cut: the places at which exactly one tensor is alive.

Only what carries the input's content counts. Sizes, position numbers, masks and whatever is made
from parameters alone can be computed again in the part that needs them; of a tensor whose size
alone is asked for, the size is enough.
"""

from __future__ import annotations

import torch

from localgrad.tracing.graph import Node, Trace


class Borders:
    """The legal cuts of a traced model.

    Args:
        trace: the model; its nodes' ``live`` is brought up to date.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        for node in trace.nodes:  # what is made from a pinned value is live too
            if node.kind not in ("input", "attribute") and not node.live and not node.content_free:
                node.live = any(source.live for source in node.inputs())
        self.last = _last_uses(trace)
        self.tensor: dict[int, Node] = {}  # position -> what crosses it, where that is one tensor
        self.turned: set[int] = set()  # positions where that has another first dimension
        rows = (trace.nodes[0].shape or torch.Size([0]))[0]
        alive: list[Node] = []
        for node in trace.nodes[: trace.output.index]:
            alive = [n for n in alive if self.last[n.index] > node.index]
            if node.live and self.last.get(node.index, -1) > node.index:
                alive.append(node)
            if not alive:  # token numbers, before they meet a weight
                self.tensor[node.index] = trace.nodes[0]
            elif len(alive) == 1 and alive[0].shape:
                if alive[0].shape[0] == rows:
                    self.tensor[node.index] = alive[0]
                else:
                    self.turned.add(node.index)
        self.tensor[len(trace.nodes) - 1] = trace.output

    def cuts(self) -> list[int]:
        """Return one position for each tensor that is alone at some place, in order.

        Of the places where the same tensor is alone, it is the end of the outermost submodule
        that makes it, or else the first one.
        """
        runs: dict[int, list[int]] = {}
        for position, tensor in self.tensor.items():
            if tensor.kind != "input" and position < self.trace.output.index:
                runs.setdefault(tensor.index, []).append(position)
        found = []
        for index, positions in runs.items():
            makers = [c.last for c in self.trace.calls if c.first <= index <= c.last]
            found.append(max((p for p in positions if p in makers), default=positions[0]))
        return sorted(found)

    def around(self, first: int, last: int) -> bool:
        """Return whether nodes ``first`` to ``last`` lie between two legal cuts."""
        return first - 1 in self.tensor and last in self.tensor

    def why_not(self, position: int | None = None) -> str:
        """Say which tensors are alive together at a position, or where the fewest are."""
        if position in self.turned or (position is None and self.turned and not self.cuts()):
            return "the one tensor that is alive has no batch as its first dimension"
        calls = {call.last: call.path for call in self.trace.calls}
        places = range(1, self.trace.output.index) if position is None else [position]
        best: list[Node] = []
        for place in places:
            alive = [
                n for n in self.trace.nodes[: place + 1]
                if n.live and self.last.get(n.index, -1) > place
            ]  # fmt: skip
            if len(alive) > 1 and (not best or len(alive) < len(best)):
                best = alive
        names = []
        for node in best[:3]:
            made = calls.get(node.index)
            name = getattr(node.target, "__name__", str(node.target))
            names.append(
                "the input" if node.kind == "input" else f"what {made!r} returns" if made
                else f"the result of {name}()"
            )  # fmt: skip
        return " and ".join(names) + " are needed after it" if names else "it has one operation"


def _last_uses(trace: Trace) -> dict[int, int]:
    """Return, for each live node whose content is used, the index of the last such use."""
    last = {trace.output.index: len(trace.nodes)}
    for node in trace.nodes:
        if not node.content_free:
            for source in node.inputs():
                if source.live:
                    last[source.index] = max(node.index, last.get(source.index, 0))
    return last
