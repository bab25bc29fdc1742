"""Floating-point operations of a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode


def _attention(query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> int:
    return int(flop_counter.sdpa_flop_count(query, key, value))


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **named: Any) -> int:
    return int(flop_counter.sdpa_backward_flop_count(grad, query, key, value))


_aten = torch.ops.aten
# torch itself counts attention on a GPU alone; these are called with shapes
_CPU_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def measure_flops(fn: Callable[[], Any]) -> int:
    """Return the FLOPs of one call of ``fn``, forward and backward.

    Counts matrix products, convolutions and attention (a multiply and an add are two); the rest is
    small beside them.

    >>> import torch
    >>> a = torch.ones(2, 3)
    >>> measure_flops(lambda: a @ a.t())
    24
    """
    counter = flop_counter.FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    with counter:
        fn()
    return int(counter.get_total_flops())


class FlopCounter(TorchDispatchMode):
    """Adds up FLOPs as :func:`measure_flops` does, and keeps no tensor alive.

    torch's own counter follows modules by hooks that hold tensors longer than they would live:
    memory cannot be measured beside it.

    >>> with FlopCounter() as counter:
    ...     _ = torch.ones(2, 3) @ torch.ones(3, 2)
    >>> counter.flops
    24
    """

    def __init__(self) -> None:
        super().__init__()
        mode = flop_counter.FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
        self.registry = mode.flop_registry
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        count = self.registry.get(func._overloadpacket)
        if count is not None:
            self.flops += int(count(*args, **kwargs, out_val=out))
        return out
