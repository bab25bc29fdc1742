"""Compiled graphs that two backward passes cross: the units that wait for a link, and their head.

A compiled graph has a single backward that computes every gradient, whatever ``inputs=`` asks for.
In a segment that waits for a link that would be twice the work: the first walk wants the error at
its input alone, the second one the weights' gradients alone. So its backward is compiled as two
graphs, each without what only the other one needs, and the step says which of them it asks for.

Such a graph must not reuse memory of what it saved ("donated buffers"): the second walk would read
what the first one wrote over. torch decides that when it compiles *and* when it runs, and its code
cache does not tell the two kinds apart, which gave silently wrong gradients (torch 2.13). Hence
both settings here, and a cache key of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

ERRORS, WEIGHTS, ALL = "errors", "weights", "all"
_TAG = "localgrad-walked-twice"
_asked = ALL  # read by autograd's own threads too, while the thread that set it waits for them


@contextmanager
def asking(which: str) -> Iterator[None]:
    """Walk back through compiled graphs for ``ERRORS``, ``WEIGHTS`` or ``ALL``, and keep them."""
    global _asked
    before, _asked = _asked, which
    functorch: Any = torch._functorch.config
    try:
        # torch looks up the setting in the thread that runs the backward: let that be this one
        with (
            functorch.patch(donated_buffer=False),
            torch.autograd.set_multithreading_enabled(False),
        ):
            yield
    finally:
        _asked = before


@contextmanager
def compiling_to_keep() -> Iterator[None]:
    """Compile graphs whose saved tensors outlive a backward pass; forward and backward at once."""
    functorch: Any = torch._functorch.config
    settings: Any = torch.compiler.config
    chosen = {"donated_buffer": False}
    if lowers_at_once():
        chosen["force_non_lazy_backward_lowering"] = True
    with ExitStack() as stack:
        stack.enter_context(functorch.patch(**chosen))
        stack.enter_context(settings.patch(cache_key_tag=settings.cache_key_tag + _TAG))
        yield


def lowers_at_once() -> bool:
    """Whether this torch can compile a backward beside its forward, under the same settings.

    One that cannot compiles it at its first run, without the cache key of its own: then such graphs
    must leave the code cache alone.
    """
    return hasattr(torch._functorch.config, "force_non_lazy_backward_lowering")


def _joined(errors: Callable[..., Any], weights: Callable[..., Any]) -> Callable[..., Any]:
    """Return a backward that runs the part asked for; it empties its list, as torch expects."""

    def backward(args: list[Any]) -> list[Any]:
        if _asked == ERRORS:
            return list(errors(args))
        if _asked == WEIGHTS:
            return list(weights(args))
        both = zip(errors(list(args)), weights(args), strict=True)
        return [weight if error is None else error for error, weight in both]

    backward._boxed_call = True  # type: ignore[attr-defined]
    return backward


def split(
    backward: GraphModule, is_weight: Sequence[bool], compile_: Callable[[GraphModule], Any]
) -> Any:
    """Compile a backward graph as two, or as one where its gradients cannot be told apart.

    Args:
        backward: returns a gradient, or None, for each input of the forward graph.
        is_weight: of each of these inputs, whether it is a parameter.
        compile_: compiles a graph with the inputs of ``backward``.
    """
    outputs = _outputs(backward)
    if len(outputs) != len(is_weight):
        return compile_(backward)
    errors = [None if weight else out for out, weight in zip(outputs, is_weight, strict=True)]
    weights = [out if weight else None for out, weight in zip(outputs, is_weight, strict=True)]
    if not any(out is not None for out in errors) or not any(out is not None for out in weights):
        return compile_(backward)  # one walk has nothing to compute, or there is one alone
    return _joined(
        compile_(_only(backward, [out is not None for out in errors])),
        compile_(_only(backward, [out is not None for out in weights])),
    )


def weights_among(inputs: Sequence[Any]) -> list[bool]:
    """Return which inputs of a graph are parameters."""
    return [isinstance(value, nn.Parameter) for value in inputs]


def _outputs(graph: GraphModule) -> list[Any]:
    (output,) = graph.graph.find_nodes(op="output")
    return list(output.args[0])


def _only(graph: GraphModule, kept: Sequence[bool]) -> GraphModule:
    """Return the graph without what only the other outputs need; its inputs stay."""
    found = copy.deepcopy(graph)
    (output,) = found.graph.find_nodes(op="output")
    chosen = [out if keep else None for out, keep in zip(output.args[0], kept, strict=True)]
    output.args = (type(output.args[0])(chosen),)
    found.graph.eliminate_dead_code()
    found.recompile()
    return found
