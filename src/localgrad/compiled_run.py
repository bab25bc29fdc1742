"""A run of units, or a head, that ``torch.compile`` turned into one graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from localgrad import walked_twice
from localgrad.errors import LocalgradError
from localgrad.unit import Unit, constant

Parts = tuple[Unit, ...] | nn.Module


class CompileError(LocalgradError):
    """What torch.compile says of a run that it cannot make one graph of."""

    def __init__(self, run: CompiledRun, error: Exception) -> None:
        self.run, self.reason = run, reason(error)
        super().__init__(
            f"block {run.block}: torch.compile cannot make one graph of its {run.part} "
            f"({self.reason}): give fallback=True to leave what cannot be compiled as it is"
        )


@dataclass(eq=False)
class CompiledRun:
    """Runs the units of a segment, or a head, compiled; as they are wherever that does not hold.

    It runs them as they are for a batch of another shape or kind than it was made for (the last,
    short one), and under modes that look at single operations: the audit, counters of memory and
    FLOPs, fake tensors. A copy of it compiles for itself.

    Args:
        block: index of the block.
        part: ``"units"``, ``"link"`` (the units that wait for an error) or ``"head"``.
        twice: two backward passes cross it.
        splits: the first of them asks for errors alone.
        backend, options: for ``torch.compile``.
    """

    block: int
    part: str
    twice: bool
    splits: bool
    backend: Any = "inductor"
    options: dict[str, Any] = field(default_factory=dict)
    failed: str | None = None
    graphs: int = 0

    def __post_init__(self) -> None:
        self._function: Callable[[Any, Tensor], Any] | None = None
        self._kind: tuple[Any, ...] | None = None

    def __deepcopy__(self, memo: Any) -> CompiledRun:
        return CompiledRun(*self._made_of())

    def __reduce__(self) -> Any:
        return CompiledRun, self._made_of()

    def _made_of(self) -> tuple[Any, ...]:
        return (
            self.block, self.part, self.twice, self.splits, self.backend, self.options, self.failed
        )  # fmt: skip

    def __call__(self, parts: Parts, x: Tensor) -> Any:
        """Compute the output of the units, in order, or of the head."""
        function = _units if isinstance(parts, tuple) else _module
        kind = (x.shape, x.dtype, x.device)
        if self.failed is not None or self._kind not in (None, kind) or _watched():
            with _constants(parts):
                return function(parts, x)
        if self._function is None:
            self._function = self._compile(function)
            self._kind = kind
        try:
            with _constants(parts), _guarding_hooks():
                return self._function(parts, x)
        except Exception as error:
            if _is_of_torch_compile(error):
                raise CompileError(self, error) from error
            raise

    def _compile(self, function: Callable[[Any, Tensor], Any]) -> Callable[[Any, Tensor], Any]:
        # code of its own: torch counts recompilations by code object
        name = f"block_{self.block}_{self.part}"
        code = function.__code__.replace(co_name=name)
        own = FunctionType(code, globals(), name)
        compiled: Callable[[Any, Tensor], Any] = torch.compile(
            own, fullgraph=True, dynamic=False, backend=self._build
        )
        return compiled

    def _build(self, graph: Any, inputs: list[Any]) -> Any:
        """The backend: count the graph, and compile it with the settings that it needs."""
        self.graphs += 1
        keeping = walked_twice.compiling_to_keep() if self.twice else nullcontext()
        weights = walked_twice.weights_among(inputs) if self.splits else None
        with keeping:
            if self.backend == "inductor":
                cached = not self.twice or walked_twice.lowers_at_once()
                options = self.options if cached else {**self.options, "fx_graph_cache": False}
                return _inductor(graph, inputs, options, weights)
            if self.backend == "aot_eager":
                return _aot_eager(graph, inputs, weights)
            backend: Any = self.backend
            if isinstance(backend, str):
                backend = torch._dynamo.lookup_backend(backend)
            return backend(graph, inputs, **({"options": self.options} if self.options else {}))


def _units(units: Any, x: Tensor) -> Tensor:
    for unit in units:
        x = unit.run(x)
    return x


def _module(head: Any, x: Tensor) -> Any:
    return head(x)


def _inductor(
    graph: Any, inputs: list[Any], options: dict[str, Any], weights: list[bool] | None
) -> Any:
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    # masks of dropout are those of the uncompiled units: the same seed, the same training
    patches = {"fallback_random": True, **options}

    def inner(part: Any, examples: Any, **about: Any) -> Any:
        if weights is None or not about.get("is_backward"):
            return compile_fx_inner(part, examples, **about)
        return walked_twice.split(
            part, weights, lambda one: compile_fx_inner(one, examples, **about)
        )

    return compile_fx(graph, inputs, inner_compile=inner, config_patches=patches)


def _aot_eager(graph: Any, inputs: list[Any], weights: list[bool] | None) -> Any:
    from torch._dynamo.backends.debugging import aot_eager, boxed_nop

    if weights is None:
        return aot_eager(graph, inputs)
    compile_ = partial(
        lambda part, examples: walked_twice.split(
            part, weights, lambda one: boxed_nop(one, examples)
        )
    )
    return aot_eager(graph, inputs, bw_compiler=compile_)


def _constants(parts: Parts) -> Any:
    """Hold parameters that another block trains constant, outside of the graph."""
    elsewhere = [p for unit in parts for p in unit.elsewhere] if isinstance(parts, tuple) else []
    return constant(elsewhere) if elsewhere else nullcontext()


@contextmanager
def _guarding_hooks() -> Iterator[None]:
    """See hooks that a user adds to a module afterwards; torch would run the code without them."""
    settings: Any = torch._dynamo.config
    with ExitStack() as stack:
        stack.enter_context(settings.patch(skip_nnmodule_hook_guards=False))
        yield


def _watched() -> bool:
    """Whether a mode looks at single operations; a default device is none."""
    functions = _get_current_function_mode_stack()
    return bool(_get_current_dispatch_mode_stack()) or any(
        not isinstance(mode, DeviceContext) for mode in functions
    )


def _is_of_torch_compile(error: Exception) -> bool:
    room = type(error).__module__
    return room.startswith(("torch._dynamo", "torch._inductor", "torch._functorch"))


def reason(error: Exception) -> str:
    """Return the first line of what torch.compile says, and the line of code it stopped at."""
    lines = [line.strip() for line in str(error).splitlines()]
    first = next((line for line in lines if line), type(error).__name__)
    places = [line for line in lines if line.startswith('File "')]
    return f"{first.rstrip('.:')}; at {places[-1]}" if places else first.rstrip(".:")
