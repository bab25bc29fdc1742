"""Which of a traced model's legal cuts make its units, and what the units are called.

* ``unit``: the repeated structure (residual blocks, transformer layers), and between and beside
  it each layer with weights together with the norms, activations and pools that follow it;
* ``layer``: as many units as there are legal cuts between layers with weights, so that a
  transformer layer falls into its attention and its feed-forward part;
* ``stage``: consecutive units of one container and one resolution, joined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from localgrad.errors import LocalgradError
from localgrad.kinds import is_norm, is_tail_part, wide
from localgrad.tracing.borders import Borders
from localgrad.tracing.graph import Call, Node

GRANULARITIES = ("stage", "unit", "layer")
_PLAIN = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_WEIGHTED = ("linear", "conv", "matmul", "mm", "bmm", "addmm", "einsum", "embedding", "bilinear")
_PASSING = (
    "adaptive_avg_pool2d", "adaptive_avg_pool1d", "avg_pool2d", "mean", "flatten", "view",
    "reshape", "squeeze", "dropout", "__getitem__", "getitem", "contiguous",
)  # fmt: skip


@dataclass(frozen=True)
class Span:
    """A unit: nodes after ``start`` up to ``stop``, and its label."""

    label: str
    start: int
    stop: int


def named_spans(borders: Borders, names: Sequence[str]) -> list[Span]:
    """Return units that end where the named submodules end, then the tail.

    Raises:
        LocalgradError: a name is no submodule that the model calls, the names are out of order,
            or more than one tensor is alive behind one.
    """
    ends = {call.path: call.last for call in borders.trace.calls}
    spans: list[Span] = []
    start = 0
    for name in names:
        if name not in ends:
            raise LocalgradError(f"units: {name!r} is not a submodule that the forward pass calls")
        if ends[name] <= start:
            raise LocalgradError(f"units: {name!r} does not end after the one before it")
        if ends[name] not in borders.tensor:
            raise LocalgradError(
                f"units: no cut after {name!r}: {borders.why_not(ends[name])}; leave it out"
            )
        spans.append(Span(name, start, ends[name]))
        start = ends[name]
    return [*spans, Span("tail", start, len(borders.trace.nodes) - 1)]


def spans(model: nn.Module, borders: Borders, granularity: str) -> list[Span]:
    """Return the units of a traced model in order; the last one is the tail."""
    cutter = _Cutter(model, borders)
    found = cutter.group(closed=granularity != "layer")
    if len(found) < 3 and granularity != "layer":
        found = max(found, cutter.group(closed=False), key=len)
    return cutter.stages(found) if granularity == "stage" else found


class _Cutter:
    def __init__(self, model: nn.Module, borders: Borders) -> None:
        self.borders, self.trace = borders, borders.trace
        self.modules = {call.path: model.get_submodule(call.path) for call in self.trace.calls}
        self.weights = [n.index for n in self.trace.nodes if self._has_weight(n)]
        self.closed = self._closed_calls()

    def _has_weight(self, node: Node) -> bool:
        """Whether a live node is a layer with weights (of two or more dimensions)."""
        if not node.live:
            return False
        if node.kind == "module":
            module = self.modules[node.target]
            return not is_norm(module) and any(wide(p) for p in module.parameters())
        name = getattr(node.target, "__name__", "").strip("_")
        if not any(name == part or (part in name and len(part) > 3) for part in _WEIGHTED):
            return False
        return any(not n.live and n.shape is not None and len(n.shape) > 1 for n in node.inputs())

    def _count(self, call: Call) -> int:
        return sum(call.first <= w <= call.last for w in self.weights)

    def _closed_calls(self) -> list[Call]:
        """Return the calls that are units as a whole.

        They are of a class that the trunk repeats, or numbered with several layers inside. A class
        stays open if one of its instances repeats a numbered part: a stage is not a unit, its
        blocks are.
        """
        trunk = [
            call for call in self.trace.calls
            if type(self.modules[call.path]) not in _PLAIN
            and self.borders.around(call.first, call.last) and self._count(call)
        ]  # fmt: skip
        repeated = Counter(type(self.modules[path]) for path in {c.path for c in trunk})
        numbered = {c.path: type(self.modules[c.path]) for c in trunk if self._numbered(c)}
        opened = set()
        for call in trunk:
            inside = Counter(
                kind for path, kind in numbered.items() if path.startswith(call.path + ".")
            )
            if any(times > 1 for times in inside.values()):
                opened.add(type(self.modules[call.path]))
        return [
            call for call in trunk
            if (kind := type(self.modules[call.path])) not in opened
            and (repeated[kind] > 1 or self._numbered(call))
        ]  # fmt: skip

    def _numbered(self, call: Call) -> bool:
        name = call.path.rpartition(".")[2]
        return self._count(call) > 1 and any(letter.isdigit() for letter in name)

    def group(self, closed: bool) -> list[Span]:
        """Join what lies between neighbouring cuts, so that every unit has a weight."""
        whole = self.closed if closed else []
        cuts = [
            p for p in self.borders.cuts() if not any(c.first <= p < c.last for c in whole)
        ]  # fmt: skip
        ends = {c.last for c in whole if self._count(c) > 1}
        groups: list[list[tuple[int, int]]] = [[]]
        weighted = complete = False
        edges = [0, *cuts, len(self.trace.nodes) - 1]
        for start, stop in pairwise(edges):
            has_weight = any(start < w <= stop for w in self.weights)
            if weighted and (has_weight or complete):
                groups.append([])
                weighted = False
            groups[-1].append((start, stop))
            weighted, complete = weighted or has_weight, stop in ends
        tail = groups.pop()
        while groups and self._passes_on(groups[-1][-1]):
            tail.insert(0, groups[-1].pop())
        labels: list[str] = []
        for group in groups:
            labels.append(self._label(group[0][0], group[-1][1], whole, labels))
        found = [
            Span(label, g[0][0], g[-1][1]) for label, g in zip(labels, groups, strict=True)
        ]  # fmt: skip
        return [*found, Span("tail", tail[0][0], tail[-1][1])]

    def _passes_on(self, atom: tuple[int, int]) -> bool:
        """Whether it only pools, reshapes or drops: such an end of the last unit joins the tail."""
        inside = [n for n in self.trace.nodes[atom[0] + 1 : atom[1] + 1] if n.live]
        return all(
            is_tail_part(self.modules[n.target]) if n.kind == "module"
            else getattr(n.target, "__name__", "") in _PASSING
            for n in inside
        )  # fmt: skip

    def _label(self, start: int, stop: int, whole: list[Call], taken: list[str]) -> str:
        inside = [c for c in self.trace.calls if start < c.first and c.last <= stop]
        weight = next((w for w in self.weights if start < w <= stop), stop)
        around = [c for c in inside if c.first <= weight <= c.last]
        own = [c for c in whole if c in around and self._count(c) > 1]
        ordered = sorted(own or around, key=lambda c: (c.first - c.last, len(c.path)))
        if ordered:
            label = ordered[0].path
        else:
            sources = [n for n in self.trace.nodes[weight].inputs() if n.kind == "attribute"]
            label = str(sources[0].target) if sources else f"part{len(taken)}"
        number = 2
        name = "tail_" if label == "tail" else label
        while name in taken:
            name, number = f"{label}:{number}", number + 1
        return name

    def stages(self, units: list[Span]) -> list[Span]:
        """Join neighbouring units of one container and one resolution."""
        groups: list[list[Span]] = []
        for span in units[:-1]:
            if groups and self._same_stage(groups[-1][-1], span):
                groups[-1].append(span)
            else:
                groups.append([span])
        joined: list[Span] = []
        for group in groups:
            parent = group[0].label.rpartition(".")[0]
            alone = sum(_parent(g[0]) == parent for g in groups) == 1 and len(group) > 1
            whole = any(
                call.path == parent and group[0].start < call.first and call.last <= group[-1].stop
                for call in self.trace.calls
            )
            label = parent if parent and (alone or whole) else group[0].label
            joined.append(Span(label, group[0].start, group[-1].stop))
        return [*joined, units[-1]]

    def _same_stage(self, first: Span, second: Span) -> bool:
        a, b = (self._shape(span) for span in (first, second))
        if _parent(first) != _parent(second) or len(a) != len(b):
            return False
        return len(a) == 1 or a[1:] == b[1:] or a[:-1] == b[:-1]

    def _shape(self, span: Span) -> torch.Size:
        shape = self.borders.tensor[span.stop].shape
        return torch.Size() if shape is None else shape[1:]


def _parent(span: Span) -> str:
    return span.label.rpartition(".")[0]


def check(granularity: str) -> None:
    """Refuse an unknown granularity."""
    if granularity not in GRANULARITIES:
        raise LocalgradError(f"granularity={granularity!r}: use 'stage', 'unit' or 'layer'")
