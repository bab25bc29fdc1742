"""Tracing: a model's forward as a list of operations (:mod:`localgrad.tracing.graph`).

The model runs once on stand-ins (:mod:`localgrad.tracing.stand_ins`) that carry an example's
values, so that Python's own control flow is followed. Standard ``torch.nn`` modules are called as
they are, and so is any module whose inside cannot be followed (control flow on data, a compiled
function). Nothing is left behind on the model.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from localgrad.errors import LocalgradError
from localgrad.model_state import unchanged
from localgrad.tracing.graph import Call, Node, Trace, nodes_in
from localgrad.tracing.interception import intercepted, line_of_the_model
from localgrad.tracing.operations import (
    FACTS,
    certain,
    holds,
    is_leaf,
    one_tensor,
    random_state,
    storage_of,
    tensors_in,
    writes_in_place,
)
from localgrad.tracing.stand_ins import (
    Sizes,
    TracedInt,
    TracedTensor,
    content,
    dimension,
    plain,
    traced_tensor,
)

_SHAPE = vars(torch._C.TensorBase)["shape"].__get__
_MANY = 16  # questions about content: more are not tried both ways


class UntraceableError(LocalgradError):
    """The inside of a module cannot be followed."""


class Tracer:
    """Runs a model on stand-ins; see :func:`trace`."""

    def __init__(
        self, model: nn.Module, example: Tensor, strict: bool = True, flip: int = -1
    ) -> None:
        self.model, self.example = model, example
        self.strict, self.flip, self.questions = strict, flip, 0
        self.nodes: list[Node] = []
        self.calls: list[Call] = []
        self.modes: list[tuple[int, str, bool]] = []
        self.opaque: dict[str, str] = {}
        self.active = False
        self.thread = threading.get_ident()
        self.paths = {id(m): path for path, m in reversed(list(model.named_modules()))}
        named = (*model.named_parameters(), *model.named_buffers())
        self.names = {id(t): name for name, t in named}
        self.parameters = {name for name, _ in model.named_parameters()}
        self.constants = {id(t) for m in model.modules() for t in tensors_in(vars(m))}
        self.autocast = torch.is_autocast_enabled(example.device.type)
        self.writers: dict[int, list[Node]] = {}  # storage -> writes in place
        self.kept: list[Tensor] = []  # so that no storage is used twice while nodes refer to it

    def run(self, kwargs: dict[str, Any]) -> Trace:
        """Trace the model's forward on one positional argument and fixed keyword arguments."""
        _, source = self._add("input", "input", (), {}, self.example)
        kind = type(self.model).__name__
        with intercepted(self), unchanged(self.model, self.example.device), torch.enable_grad():
            self.active = True
            try:
                out = self.model.forward(source, **kwargs)
            except UntraceableError as error:
                raise LocalgradError(f"{kind} cannot be cut: {error}") from None
            finally:
                self.active = False
        return Trace(self.nodes, self.calls, one_tensor(out, kind), self.modes, self.opaque)

    def torch_function(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Note what PyTorch is asked to do with a stand-in."""
        name = getattr(function, "__name__", "")
        if name == "__set__":
            raise self.untraceable("sets an attribute of a tensor")
        if function == _SHAPE or function is Tensor.size:
            x, index = args[0], (*args[1:], kwargs.get("dim"))[0]
            sizes = Sizes(self.function(dimension, (x, d), {}) for d in range(x.bare.dim()))
            return sizes if index is None else sizes[index]
        return self.function(function, args, kwargs)

    def function(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Note a function call and compute its value."""
        return self._operate("function", function, args, kwargs, function)

    def _operate(self, kind: str, target: Any, args: Any, kwargs: Any, call: Any) -> Any:
        noted = self.noted(args), self.noted(kwargs)
        static = not any(node.live for node in nodes_in(noted))
        before = random_state(self.example.device) if static else None
        with self._aside(), torch.no_grad():
            value = call(*plain(args, content), **plain(kwargs, content))
        node, result = self._add(kind, target, *noted, value)
        if not holds(value, Tensor) and not isinstance(result, TracedInt):
            return self._fact(node, value)
        if before is not None and not torch.equal(before, random_state(self.example.device)):
            node.live = node.effect = True
        if writes_in_place(kind, target, kwargs, self.model):
            self._written(node)
        return result

    def _fact(self, node: Node, value: Any) -> Any:
        """Give Python a plain answer, where it does not come from the content of a live tensor."""
        if value is None:  # written in place, or an assertion: it runs again where it stands
            self._written(node)
            return None
        self.nodes.pop()
        name = getattr(node.target, "__name__", "")
        about_kind = name == "__get__" or name in FACTS
        asked = not about_kind and any(n.data for n in node.inputs())
        if not asked or (node.target is Tensor.__bool__ and certain(node.args[0])):
            return value
        if self.strict or not isinstance(value, bool):
            raise self.untraceable(
                "its path depends on the content of a tensor; put that code into a module of its "
                "own, which is then called as it is, or give units=[names of submodules in a row]"
            )
        self.questions += 1
        return not value if self.questions == self.flip else value

    def _add(self, kind: str, target: Any, args: Any, kwargs: Any, value: Any) -> tuple[Node, Any]:
        """Append a node; return it and the stand-in for its result."""
        node = Node(len(self.nodes), kind, target, args, kwargs)
        sources = [] if node.content_free else node.inputs()
        node.data = kind == "input" or any(source.data for source in sources)
        node.learned = any(source.learned for source in sources) or self._has_weights(node)
        if kind == "input":
            node.live = value.is_floating_point() or value.is_complex()
        else:
            node.live = any(source.live for source in sources) or (node.data and node.learned)
        for source in node.inputs():
            node.after.extend(self.writers.get(source.storage or 0, ()))
        node.grad = torch.is_grad_enabled()
        node.autocast = not self.autocast or torch.is_autocast_enabled(self.example.device.type)
        self.nodes.append(node)
        return node, self._stand_in(node, value)

    def _has_weights(self, node: Node) -> bool:
        if node.kind == "attribute":
            return node.target in self.parameters
        if node.kind != "module":
            return False
        return any(True for _ in self.model.get_submodule(node.target).parameters())

    def _stand_in(self, node: Node, value: Any) -> Any:
        """Return what the model gets: stand-ins in the place of tensors and sizes."""
        if isinstance(value, Tensor):
            node.shape, node.dtype = value.shape, value.dtype
            if not node.live:
                self.kept.append(value)
                node.storage = storage_of(value)
            return traced_tensor(self, node, value)
        if type(value) is int and not node.data:
            return TracedInt(self, node, value)
        if isinstance(value, tuple | list) and holds(value, Tensor):
            parts = [self._part(node, i, part) for i, part in enumerate(value)]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        if isinstance(value, dict):
            items = {key: self._part(node, key, part) for key, part in value.items()}
            return items if type(value) is dict else type(value)(**items)
        return value

    def _part(self, node: Node, key: Any, part: Any) -> Any:
        if isinstance(part, Tensor | tuple | list | dict):
            return self._add("function", operator.getitem, (node, key), {}, part)[1]
        return part

    def attribute(self, name: str, value: Tensor) -> Any:
        """Note that a parameter or buffer is read."""
        return self._add("attribute", name, (), {}, value)[1]

    def _written(self, node: Node) -> None:
        """Note a write in place: who reads that memory afterwards depends on it.

        What is made of sizes can be made again, writes included. Anything else that shares the
        memory must be kept, and the write stays where it is.
        """
        base = node.args[0] if node.args else None
        storage = base.storage if isinstance(base, Node) else None
        sharing = [n for n in self.nodes if storage is not None and n.storage == storage]
        if storage is not None and not node.live and all(n.kind != "attribute" for n in sharing):
            self.writers.setdefault(storage, []).append(node)
            return
        node.live = node.effect = True
        for other in sharing:
            other.live = other.live or other.kind != "attribute"

    def noted(self, items: Any) -> Any:
        """Return arguments with nodes in place of stand-ins and of the model's own tensors."""

        def note(item: Any) -> Any:
            if isinstance(item, TracedTensor | TracedInt):
                if item.tracer is not self:
                    raise self.untraceable("uses a tensor that it kept from an earlier call")
                return item.node
            if isinstance(item, Tensor) and id(item) in self.names:
                return self.attribute(self.names[id(item)], item).node
            if isinstance(item, Tensor) and id(item) not in self.constants:
                raise self.untraceable("uses a tensor whose making could not be followed")
            return item

        return plain(items, note)

    def untraceable(self, reason: str) -> UntraceableError:
        """Return the error for what cannot be followed, with the line of the model's code."""
        return UntraceableError(f"{line_of_the_model()}: {reason}")

    def call(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Follow a submodule's forward, or note it as one operation."""
        path = self.paths.get(id(module))
        if path is None:  # made on the spot: not the model's
            return module.forward(*args, **kwargs)
        if is_leaf(module):
            return self._leaf(path, module, args, kwargs)
        mark = len(self.nodes), len(self.calls), len(self.modes)
        inputs = self.noted(args), self.noted(kwargs)
        try:
            out = module.forward(*args, **kwargs)
            output = self.noted(out)
        except Exception as error:  # whatever goes wrong on stand-ins may go right on tensors
            del self.nodes[mark[0] :], self.calls[mark[1] :], self.modes[mark[2] :]
            result = self._leaf(path, module, args, kwargs)
            self.opaque[path] = str(error).splitlines()[0] if str(error) else type(error).__name__
            return result
        if len(self.nodes) > mark[0]:
            last = len(self.nodes) - 1
            self.calls.append(Call(path, mark[0], last, *inputs, output))
        return out

    def _leaf(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        first = len(self.nodes)
        result = self._operate("module", path, args, kwargs, module)
        node = next(n for n in self.nodes[first:] if n.kind == "module" and n.target == path)
        self.calls.append(Call(path, node.index, node.index, node.args, node.kwargs, node))
        return result

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Run on real values: nothing is noted."""
        self.active = False
        try:
            yield
        finally:
            self.active = True

    @property
    def on(self) -> bool:
        """Whether operations of the present thread are noted."""
        return self.active and threading.get_ident() == self.thread


def trace(model: nn.Module, example: Tensor, kwargs: dict[str, Any]) -> Trace:
    """Follow ``model(example, **kwargs)`` in the modes that its modules are in.

    Args:
        model: any module whose forward takes one tensor; it is left as it was.
        example: a batch of at least two rows.
        kwargs: constants.

    Raises:
        LocalgradError: the model's own forward cannot be followed, or does not return one tensor.
    """
    first = Tracer(model, example, strict=False)
    found = first.run(kwargs)
    for question in range(1, first.questions + 1):
        # a question about a tensor's content is harmless where both answers lead to the same
        # operations (a model that warns of padding, say); else its module is called as it is
        if first.questions > _MANY or _signature(model, example, kwargs, question) != _texts(found):
            return Tracer(model, example).run(kwargs)
    return found


def _signature(model: nn.Module, example: Tensor, kwargs: dict[str, Any], flip: int) -> list[str]:
    try:
        return _texts(Tracer(model, example, strict=False, flip=flip).run(kwargs))
    except Exception:  # the other way is an error: the question matters
        return []


def _texts(found: Trace) -> list[str]:
    """Return the operations as text, equal for runs that do the same."""
    return [f"{n.kind} {n.target} {n.args} {n.kwargs}" for n in found.nodes]
