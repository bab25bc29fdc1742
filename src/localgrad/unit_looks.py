"""What each unit and each head of a chain takes by itself, on what really comes in there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from localgrad import heads as head_room
from localgrad import losses as loss_room
from localgrad.block_peaks import Footprint
from localgrad.chain import Chain
from localgrad.decoupling import Decoupling
from localgrad.live_storages import LiveStorages
from localgrad.recompute import run_units
from localgrad.site import Site
from localgrad.without_content import deep_copy, without_content

Task = Callable[[Tensor, Tensor], Tensor]
Run = Callable[[Tensor], Tensor]
Seen = tuple[Run, Tensor, list[nn.Parameter]]  # a piece, its input, its parameters


@dataclass(frozen=True)
class End:
    """What a block that ends at a unit ends in: a head, or the network's tail (None)."""

    head: nn.Module | None
    loss: Any
    targets: Tensor


def ends_of(chain: Chain, finest: Decoupling, example: Tensor, task: Task) -> list[End | None]:
    """Return an end for each unit; None where the rule has no block end there.

    Args:
        chain: the network.
        finest: the rule's blocks where each unit is one.
        example: a batch.
        task: the task loss.
    """
    shapes, out = chain.shapes(example)
    classes, tokens = (out[-1] if out else 0), (out[0] if len(out) == 2 else None)
    goal = loss_room.Goal(task, classes)
    y = torch.zeros(len(example), *out[:-1], dtype=torch.long, device=example.device)
    blocks = {block.stop - 1: block for block in finest.blocks if block.head is not None}
    found: list[End | None] = []
    for place in range(len(chain) - 1):
        block = blocks.get(place)
        if block is None or block.head is None:
            found.append(None)
            continue
        site = Site(chain, place, shapes, classes, example.shape[1:], tokens)
        head = head_room.placed(head_room.build(block.head, site), chain.model)
        found.append(End(head, loss_room.build(block.loss, goal), y))
    found.append(End(None, loss_room.build(finest.blocks[-1].loss, goal), y))
    return found


def unit_bytes(chain: Chain, example: Tensor, how: str | None) -> list[Footprint]:
    """Return what each unit takes, checkpointed as ``how`` says, under fake tensors."""
    chain, example, _, mode = _fake(chain, example, [])
    with mode, torch.random.fork_rng([]):
        return [_footprint(*seen) for seen in _units(chain, example, how)]


def end_bytes(chain: Chain, example: Tensor, ends: list[End | None]) -> list[int]:
    """Return the peak of each head with its loss, forward and backward, under fake tensors."""
    chain, example, ends, mode = _fake(chain, example, ends)
    with mode, torch.random.fork_rng([]):
        found = [seen and _head_peak(*seen) for seen in _heads(chain, example, ends)]
    return _filled(found)


def seconds(
    chain: Chain, example: Tensor, ends: list[End | None]
) -> tuple[list[float], list[float]]:
    """Return the time of each unit, and of each head with its loss, forward and backward."""
    chain, ends = deep_copy((chain, ends))
    with torch.random.fork_rng([example.device] if example.device.type == "cuda" else []):
        units = [_time(*seen) for seen in _units(chain, example, None)]
        return units, _filled([seen and _time(*seen) for seen in _heads(chain, example, ends)])


def _filled(found: list[Any]) -> list[Any]:
    """Where no block may end, the dearest end stands."""
    known = [value for value in found if value is not None]
    return [max(known) if value is None else value for value in found]


def _fake(
    chain: Chain, example: Tensor, ends: list[End | None]
) -> tuple[Chain, Tensor, list[End | None], FakeTensorMode]:
    modules = [chain.model, *(end.head for end in ends if end is not None and end.head is not None)]
    held = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    held += [example, *(end.targets for end in ends if end is not None)]
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    return (*without_content((chain, example, ends), held, mode), mode)


def _units(chain: Chain, example: Tensor, how: str | None) -> Iterator[Seen]:
    x = example
    for unit in chain.units:
        seen = unit.seeing(example)

        def run(x: Tensor, seen: Any = seen) -> Tensor:
            return run_units((seen,), x, how)

        yield run, x, list(unit.parameters())
        x = run(x).detach()


def _heads(chain: Chain, example: Tensor, ends: list[End | None]) -> Iterator[Seen | None]:
    x = example
    for unit, end in zip(chain.units, ends, strict=True):
        with torch.no_grad():
            x = unit.seeing(example)(x)
        if end is None:
            yield None
            continue
        head = chain.tail.seeing(example) if end.head is None else end.head

        def judge(x: Tensor, head: Any = head, end: End = end) -> Tensor:
            loss: Tensor = end.loss(head(x), end.targets, example)
            return loss

        yield judge, x, list(head.parameters())


class _ErrorFromAbove(torch.autograd.Function):
    """Hands an error down that nothing but the backward pass holds, as a following layer does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape, ctx.layout, ctx.kind, ctx.place = x.shape, x.stride(), x.dtype, x.device
        return x.new_empty(())

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> Tensor:
        return torch.empty_strided(ctx.shape, ctx.layout, dtype=ctx.kind, device=ctx.place)


def _footprint(run: Run, x: Tensor, parameters: list[nn.Parameter]) -> Footprint:
    def look(
        asks: bool, ends: bool = True, held: bool = False, stays: bool = False
    ) -> tuple[int, int, int, int]:
        leaf = x.detach().requires_grad_(asks and x.is_floating_point())
        with LiveStorages() as counter:
            out = run(leaf)
            mark, size = len(counter.log), out.untyped_storage().nbytes()
            border = out.detach() if ends else None
            walks = out.requires_grad
            error = torch.empty_like(out) if held else None
            if walks and not held:
                out = _ErrorFromAbove.apply(out)
            if walks:
                torch.autograd.backward(out, error, retain_graph=stays)
            walked = len(counter.log)
            del out
        apart = _gradients(counter, parameters)
        del border, error
        return (
            size,
            counter.alive(apart, mark),
            counter.peak(apart, until=mark),
            counter.peak(apart, mark, walked),
        )

    both = (True, False)
    output, kept, forward, _ = look(True, False)
    return Footprint(
        output,
        kept,
        forward,
        backward={(asks, ends): look(asks, ends)[-1] for asks in both for ends in both},
        handed={asks: look(asks, held=True)[-1] for asks in both},
        crossing={asks: look(asks, held=True, stays=True)[-1] for asks in both},
    )


def _head_peak(judge: Run, x: Tensor, parameters: list[nn.Parameter]) -> int:
    leaf = x.detach().requires_grad_()
    with LiveStorages() as counter:
        torch.autograd.backward(judge(leaf))
    peak: int = counter.peak(_gradients(counter, parameters))
    return peak


def _gradients(counter: LiveStorages, parameters: list[nn.Parameter]) -> set[int]:
    """Return the numbers of parameters' gradients, and forget those."""
    found = set()
    for parameter in parameters:
        if parameter.grad is not None:
            number = counter.known.get(parameter.grad.untyped_storage()._cdata)
            found |= {number} if number is not None else set()
            parameter.grad = None
    return found


def _time(run: Run, x: Tensor, parameters: list[nn.Parameter]) -> float:
    times = []
    for _ in range(6):
        leaf = x.detach().requires_grad_(x.is_floating_point())
        start = _now(x.device)
        out = run(leaf)
        if out.requires_grad:
            torch.autograd.backward(out, torch.ones_like(out))
        times.append(_now(x.device) - start)
    return min(times)  # what else the machine does only adds


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
