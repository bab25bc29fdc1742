"""A part of a traced model between two cuts, as steps that can be run.

Steps call the model's own submodules wherever a submodule lies inside of the part as a whole, so
that its hooks, modes, buffers and its own Python code are at work; only the code between them is
run operation by operation. Parameters and submodules are looked up by name at every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from localgrad.errors import LocalgradError
from localgrad.tracing.graph import Call, Node, nodes_in
from localgrad.tracing.stand_ins import plain

Dims = list[tuple[int, int]]  # each dimension is a * batch + c


class Names(Protocol):
    """Where submodules, parameters and buffers are found by their paths."""

    def module(self, path: str) -> nn.Module:
        """Return a submodule."""

    def tensor(self, path: str) -> Tensor:
        """Return a parameter or buffer."""


@dataclass(frozen=True)
class ModelNames:
    """Finds what a model has by that name at the time."""

    model: nn.Module

    def module(self, path: str) -> nn.Module:
        """Return a submodule."""
        return self.model.get_submodule(path)

    def tensor(self, path: str) -> Tensor:
        """Return a parameter or buffer."""
        owner, _, name = path.rpartition(".")
        found: Tensor = getattr(self.model.get_submodule(owner), name)
        return found


@dataclass(eq=False)
class Step:
    """One operation, or one call of a submodule.

    Args:
        node: what it computes; of a submodule's call, the last node inside.
        call: the submodule's call, or None.
        given: it is made of sizes and parameters in an earlier part of the model.
        done: nodes whose results nothing needs afterwards.
    """

    node: Node
    call: Call | None = None
    given: bool = False
    done: list[Node] = field(default_factory=list)

    @property
    def index(self) -> int:
        """Place in the order of the model."""
        return self.node.index if self.call is None else self.call.first

    @property
    def arguments(self) -> tuple[Any, Any]:
        """Positional and keyword arguments, with nodes in the place of results."""
        source = self.node if self.call is None else self.call
        return source.args, source.kwargs

    @property
    def module(self) -> str | None:
        """Path of the submodule that it calls, if it calls one."""
        if self.call is not None:
            return self.call.path
        return str(self.node.target) if self.node.kind == "module" else None

    @property
    def tensor(self) -> str | None:
        """Path of the parameter or buffer that it reads, if it reads one."""
        return str(self.node.target) if self.node.kind == "attribute" else None

    def makes(self) -> list[Node]:
        """Return the nodes that have a result afterwards."""
        if self.call is None:
            return [self.node]
        # a call may also hand on what it was given
        return [node for node in nodes_in(self.call.output) if node.index >= self.call.first]

    def run(self, args: Any, kwargs: Any, names: Names) -> Any:
        """Compute the result."""
        if self.tensor is not None and self.call is None:
            return names.tensor(self.tensor)
        function = self.node.target if self.module is None else names.module(self.module)
        return function(*args, **kwargs)


@dataclass(eq=False)
class Slice:
    """Steps from one border to the next.

    Args:
        source, target: the tensors at the borders.
        steps: in order.
        modes: modules that were asked whether they are in training, and their answers.
        sizes: how the sizes of tensors of earlier parts, asked for here, follow from the batch.
        first: the model's input, where the steps read its content (token numbers) again.
        source_size: how those of ``source`` do.
    """

    source: Node
    target: Node
    steps: list[Step]
    modes: list[tuple[str, bool]]
    sizes: dict[Node, Dims]
    first: Node | None = None
    source_size: Dims = field(default_factory=list)

    def run(
        self,
        x: Tensor,
        names: Names,
        detached: Callable[[Step], bool],
        seen: Tensor | None = None,
    ) -> Tensor:
        """Compute the part's output.

        Args:
            x: the tensor at the border before.
            names: where submodules and parameters are found.
            detached: whether the gradient of a step that is given stops there.
            seen: the model's input, which some parts read again.
        """
        results: dict[Node, Any] = {self.source: x}
        if self.first is not None:
            results[self.first] = seen
        for node, dims in self.sizes.items():
            size = [a * self._batch(x) + c for a, c in dims]
            results[node] = torch.empty((), dtype=node.dtype, device=x.device).expand(size)
        for step in self.steps:
            args, kwargs = (
                plain(part, lambda item: results[item] if isinstance(item, Node) else item)
                for part in step.arguments
            )
            with _context(step.node, x.device.type):
                out = step.run(args, kwargs, names)
            if step.given and isinstance(out, Tensor) and detached(step):
                out = out.detach()
            if step.call is None:
                results[step.node] = out
            else:
                results.update(_matched(step.call.output, out))
            del args, kwargs, out  # the next step must not find them in memory
            for node in step.done:
                results.pop(node, None)
        found: Tensor = results[self.target]
        return found

    def _batch(self, x: Tensor) -> int:
        for size, (a, c) in zip(x.shape, self.source_size, strict=True):
            if a:
                return (size - c) // a
        raise LocalgradError(f"a border of shape {tuple(x.shape)} does not tell the batch size")

    def fits(self, x: Tensor) -> bool:
        """Whether ``x`` has the shape that the part was traced with, but for the batch."""
        if x.dim() != len(self.source_size) or x.dtype != self.source.dtype:
            return False
        return all(a or size == c for size, (a, c) in zip(x.shape, self.source_size, strict=True))


def _context(node: Node, device: str) -> AbstractContextManager[Any]:
    """Switch gradients and autocast off where the model's own code does."""
    stack = ExitStack()
    if not node.grad:
        stack.enter_context(torch.no_grad())
    if not node.autocast and torch.is_autocast_enabled(device):
        stack.enter_context(torch.autocast(device, enabled=False))
    return stack


def _matched(structure: Any, out: Any) -> Iterator[tuple[Node, Any]]:
    """Pair the nodes in a call's noted result with what the call returned now."""
    if isinstance(structure, Node):
        yield structure, out
    elif isinstance(structure, dict):
        for key, part in structure.items():
            yield from _matched(part, out[key])
    elif isinstance(structure, tuple | list):
        for part, value in zip(structure, out, strict=True):
            yield from _matched(part, value)
