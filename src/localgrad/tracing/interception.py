"""While a model is traced: module calls, reads of parameters and new tensors go to the tracer."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from localgrad.tracing.tracer import Tracer

# they take no tensor, so nothing else would tell the tracer of them
_FACTORIES = (
    "arange", "zeros", "ones", "full", "empty", "eye", "linspace", "logspace", "tensor",
    "as_tensor", "rand", "randn", "randint", "randperm",
)  # fmt: skip
_NOT_THE_MODEL = tuple(f"{Path(path).parent}/" for path in (torch.__file__, __file__))


@contextmanager
def intercepted(tracer: Tracer) -> Iterator[None]:
    """Send what the model does to the tracer, as long as the tracer is on."""
    call, read, vmap = nn.Module.__call__, nn.Module.__getattr__, torch.vmap
    apply = vars(torch.autograd.Function)["apply"]
    original_apply = apply.__func__
    factories = {name: getattr(torch, name) for name in _FACTORIES}

    def traced_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return tracer.call(module, args, kwargs) if tracer.on else call(module, *args, **kwargs)

    def traced_read(module: nn.Module, name: str) -> Any:
        value = read(module, name)
        if tracer.on and isinstance(value, Tensor) and id(value) in tracer.names:
            return tracer.attribute(tracer.names[id(value)], value)
        return value

    def mode(module: nn.Module) -> bool:
        training: bool = vars(module)["training"]
        if tracer.on and id(module) in tracer.paths:
            tracer.modes.append((len(tracer.nodes), tracer.paths[id(module)], training))
        return training

    def set_mode(module: nn.Module, training: bool) -> None:
        vars(module)["training"] = training

    def made(factory: Any, *args: Any, **kwargs: Any) -> Any:
        return tracer.function(factory, args, kwargs) if tracer.on else factory(*args, **kwargs)

    def mapped(function: Any, *args: Any, **kwargs: Any) -> Any:
        return functools.partial(made, vmap(function, *args, **kwargs))

    def applied(function: Any, *args: Any, **kwargs: Any) -> Any:
        return made(MethodType(original_apply, function), *args, **kwargs)

    module_class: Any = nn.Module
    namespace: Any = torch
    module_class.__call__, module_class.__getattr__ = traced_call, traced_read
    module_class.training = property(mode, set_mode)
    namespace.vmap = mapped
    torch.autograd.Function.apply = classmethod(applied)  # type: ignore[assignment]
    for name, factory in factories.items():
        setattr(namespace, name, functools.partial(made, factory))
    try:
        yield
    finally:
        torch.autograd.Function.apply = apply  # type: ignore[method-assign]
        module_class.__call__, module_class.__getattr__ = call, read
        del module_class.training
        namespace.vmap = vmap
        for name, factory in factories.items():
            setattr(namespace, name, factory)


def line_of_the_model() -> str:
    """Return file and line of the model's code that runs now."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_THE_MODEL):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name} line {frame.f_lineno}"
