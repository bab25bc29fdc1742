"""Cuts into blocks of equal weight: the smallest peak of memory, or the shortest longest block.

Each unit and each head is looked at once, by itself; the cost of any block follows by addition,
and the best cuts by dynamic programming (:mod:`localgrad.partition`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from localgrad import heads as head_room
from localgrad import losses as loss_room
from localgrad.block_peaks import BlockPeaks, Footprint
from localgrad.chain import Chain
from localgrad.decoupling import Decoupling
from localgrad.errors import LocalgradError
from localgrad.live_storages import LiveStorages
from localgrad.partition import Cost, smallest_maximum
from localgrad.recompute import run_units
from localgrad.site import Site
from localgrad.without_content import without_content

BALANCES = ("memory", "time")
Task = Callable[[Tensor, Tensor], Tensor]
Rule = Callable[[Chain, tuple[int, ...] | None], Decoupling]


def balanced(
    chain: Chain, rule: Rule, blocks: int, balance: str, example: Tensor | None, task: Task
) -> tuple[int, ...]:
    """Return the end of each block: cuts for ``rule`` that balance memory or time.

    Args:
        chain: the network.
        rule: the method.
        blocks: number of blocks K.
        balance: ``"memory"``: the peak of activations is as small as K blocks allow;
            ``"time"``: the longest block is as short as can be, measured on ``example``.
        example: a batch.
        task: the task loss.

    Raises:
        LocalgradError: an unknown balance, no example, or a K that the chain does not have.
    """
    if balance not in BALANCES:
        raise LocalgradError(f"balance={balance!r} must be 'memory' or 'time'")
    if example is None:
        raise LocalgradError(f"balance={balance!r} looks at the units: give example_input=x")
    chain.cuts(blocks)  # refuses a K that there is not
    even = tuple(len(chain) * (k + 1) // blocks for k in range(blocks))
    found = rule(chain, even).blocks
    runs = sum(block.stop > block.start for block in found)
    if runs == 1:
        return even
    joined = max(0, blocks - len(found))  # AugLocal's last blocks become one
    parts = list(_parts(chain, rule(chain, None), example, task))
    if balance == "memory":
        links = [block.link for block in found if block.link is not None]
        peaks = _peaks(chain, parts, example, found[0].checkpoint)
        link = (links[0].length, links[0].keep_error) if links else (0, True)
        cost: Cost = BlockPeaks(*peaks, *link).peak
    else:
        seconds, at_heads = _seconds(chain, parts, example)

        def cost(start: int, stop: int) -> float:
            return sum(seconds[start:stop]) + at_heads[stop - 1]

    ends = smallest_maximum(len(chain), runs, cost, last=joined + 1)
    inside = (ends[-2] + 1 + k for k in range(joined))
    return (*ends[:-1], *inside, ends[-1])


@dataclass(frozen=True)
class _Part:
    """What a block that ends at a unit ends in: a head, or the network's tail (None)."""

    head: nn.Module | None
    loss: Any
    targets: Tensor


def _parts(chain: Chain, finest: Decoupling, example: Tensor, task: Task) -> Iterator[_Part | None]:
    """Yield a part for each unit; None where the rule has no block end there."""
    shapes, out = chain.shapes(example)
    classes, tokens = (out[-1] if out else 0), (out[0] if len(out) == 2 else None)
    y = torch.zeros(len(example), *out[:-1], dtype=torch.long, device=example.device)
    ends = {block.stop - 1: block for block in finest.blocks if block.head is not None}
    for place in range(len(chain) - 1):
        block = ends.get(place)
        if block is None or block.head is None:
            yield None
            continue
        site = Site(chain, place, shapes, classes, example.shape[1:], tokens)
        head = head_room.placed(head_room.build(block.head, site), chain.model)
        yield _Part(head, loss_room.build(block.loss, task, classes), y)
    yield _Part(None, loss_room.build(finest.blocks[-1].loss, task, classes), y)


Look = Callable[[Callable[[Tensor], Tensor], Tensor, list[nn.Parameter]], Any]


def _walk(
    chain: Chain,
    parts: list[_Part | None],
    example: Tensor,
    unit_look: Look,
    head_look: Look,
    how: str | None = None,
) -> tuple[list[Any], list[Any]]:
    """Look at each unit, and at each head and its loss, on what really comes in there."""
    x = example
    units: list[Any] = []
    heads: list[Any] = []
    for unit, part in zip(chain.units, parts, strict=True):
        seen = unit.seeing(example)

        def run(x: Tensor, seen: Any = seen) -> Tensor:
            return run_units((seen,), x, how)

        units.append(unit_look(run, x, list(unit.parameters())))
        x = run(x).detach()
        if part is None:
            heads.append(None)
            continue
        end = chain.tail.seeing(example) if part.head is None else part.head

        def judge(x: Tensor, end: Any = end, part: _Part = part) -> Tensor:
            loss: Tensor = part.loss(end(x), part.targets, example)
            return loss

        heads.append(head_look(judge, x, list(end.parameters())))
    known = [found for found in heads if found is not None]
    return units, [max(known) if found is None else found for found in heads]


def _peaks(
    chain: Chain, parts: list[_Part | None], example: Tensor, how: str | None
) -> tuple[list[Footprint], list[int]]:
    heads = [part.head for part in parts if part is not None and part.head is not None]
    held = [
        t for module in (chain.model, *heads) for t in (*module.parameters(), *module.buffers())
    ]
    held += [example, *(part.targets for part in parts if part is not None)]
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    chain, parts, example = without_content((chain, parts, example), held, mode)
    with mode:
        return _walk(chain, parts, example, _footprint, _head_peak, how)


class _ErrorFromAbove(torch.autograd.Function):
    """Hands an error down that nothing but the backward pass holds, as a following layer does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.like = x.new_empty(()).expand(x.shape)
        ctx.layout = x.stride()
        return x.new_empty(())

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> Tensor:
        return torch.empty_strided(
            ctx.like.shape, ctx.layout, dtype=ctx.like.dtype, device=ctx.like.device
        )


def _footprint(
    run: Callable[[Tensor], Tensor], x: Tensor, parameters: list[nn.Parameter]
) -> Footprint:
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


def _head_peak(judge: Callable[[Tensor], Tensor], x: Tensor, parameters: list[nn.Parameter]) -> int:
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


def _seconds(
    chain: Chain, parts: list[_Part | None], example: Tensor
) -> tuple[list[float], list[float]]:
    chain, parts = copy.deepcopy((chain, parts))

    def look(run: Callable[[Tensor], Tensor], x: Tensor, parameters: list[nn.Parameter]) -> float:
        times = []
        for _ in range(6):
            leaf = x.detach().requires_grad_(x.is_floating_point())
            start = _now(x.device)
            out = run(leaf)
            torch.autograd.backward(out, torch.ones_like(out))
            times.append(_now(x.device) - start)
        return min(times)  # what else the machine does only adds

    with torch.random.fork_rng([example.device] if example.device.type == "cuda" else []):
        return _walk(chain, parts, example, look, look)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
