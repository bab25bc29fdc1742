"""Seconds of each unit and each head of a chain, part by part: forward, and ways to walk back."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from localgrad.chain import Chain, Unit
from localgrad.prediction import Factory
from localgrad.unit_looks import End
from localgrad.without_content import deep_copy


@dataclass(frozen=True)
class PieceTime:
    """Seconds of a unit, or of a head with its loss.

    Args:
        forward: of the forward.
        backward: of the whole backward: weights' gradients and the error at the input.
        weights: of the weights' gradients alone.
        error: of the error at the input alone.
    """

    forward: float
    backward: float
    weights: float
    error: float


NOTHING = PieceTime(0.0, 0.0, 0.0, 0.0)


def unit_times(chain: Chain, example: Tensor, repeats: int = 5) -> list[PieceTime]:
    """Return the times of each unit, and of the tail with a mean in the loss's place.

    Each is run by itself, on what really comes in there: the fastest of ``repeats`` runs, since
    what else the machine does only adds. Units that are alike (the same layers of the same sizes,
    on an input of the same shape) are timed once. The model stays as it is: a copy is run.

    Args:
        chain: the network.
        example: a batch, ``(batch, ...)``.
        repeats: runs that count.
    """
    chain = deep_copy(chain)
    known: dict[Hashable, PieceTime] = {}
    found = []
    with torch.random.fork_rng([example.device] if example.device.type == "cuda" else []):
        x = example
        for unit in (*chain.units, chain.tail):
            run = unit.seeing(example)
            found.append(_known(known, unit, run, x, list(unit.parameters()), repeats))
            with torch.no_grad():
                x = run(x)
    return found


def end_times(
    chain: Chain, example: Tensor, ends: Sequence[End | None], repeats: int = 5
) -> list[PieceTime | None]:
    """Return the times of each head with its loss; None where there is none.

    Args:
        chain: the network.
        example: a batch, ``(batch, ...)``.
        ends: as :func:`localgrad.unit_looks.ends_of` makes them.
        repeats: runs that count.
    """
    chain, ends = deep_copy((chain, ends))
    known: dict[Hashable, PieceTime] = {}
    found: list[PieceTime | None] = []
    with torch.random.fork_rng([example.device] if example.device.type == "cuda" else []):
        x = example
        for unit, end in zip(chain.units, ends, strict=True):
            with torch.no_grad():
                x = unit.seeing(example)(x)
            if end is None:
                found.append(None)
                continue
            head = chain.tail.seeing(example) if end.head is None else end.head

            def judge(x: Tensor, head: Any = head, end: End = end) -> Tensor:
                loss: Tensor = end.loss(head(x), end.targets, example)
                return loss

            found.append(_known(known, head, judge, x, list(head.parameters()), repeats))
    return found


def update_seconds(parameters: Sequence[nn.Parameter], optimizer: Factory) -> tuple[float, float]:
    """Return the optimizer's seconds for each element, and its state's bytes for each byte.

    Copies are updated.

    Args:
        parameters: what is updated.
        optimizer: makes an optimizer from parameters.
    """
    copies = [nn.Parameter(p.detach().clone()) for p in parameters if p.requires_grad]
    if not copies:
        return 0.0, 0.0
    for copy in copies:
        copy.grad = torch.zeros_like(copy)
    stepping = optimizer(copies)
    times = []
    for _ in range(4):
        start = _now(copies[0].device)
        stepping.step()
        times.append(_now(copies[0].device) - start)
    size = sum(copy.nbytes for copy in copies)
    kept = sum(
        value.nbytes
        for state in stepping.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )
    return min(times) / sum(copy.numel() for copy in copies), kept / size


def _known(
    known: dict[Hashable, PieceTime],
    piece: Any,
    run: Callable[[Tensor], Tensor],
    x: Tensor,
    parameters: list[nn.Parameter],
    repeats: int,
) -> PieceTime:
    key = _looks(piece, x, parameters)
    if key not in known:
        known[key] = _time(run, x, parameters, repeats)
    return known[key]


def _looks(piece: Any, x: Tensor, parameters: list[nn.Parameter]) -> Hashable:
    if isinstance(piece, Unit) and piece.traced:
        return id(piece)  # what is between its modules is not to be seen
    parts = piece.parts if isinstance(piece, Unit) else (piece,)
    kinds = tuple(repr(part) for part in parts)
    return kinds, x.shape, x.stride(), x.dtype, tuple(p.shape for p in parameters)


def _time(
    run: Callable[[Tensor], Tensor], x: Tensor, parameters: list[nn.Parameter], repeats: int
) -> PieceTime:
    leaf = x.detach()
    if leaf.is_floating_point():
        leaf.requires_grad_()
    learns = [p for p in parameters if p.requires_grad]
    errs = [leaf] if leaf.requires_grad else []
    ways: list[list[Tensor]] = [[*learns, *errs], list(learns), list(errs)]
    forwards: list[float] = []
    backwards: list[list[float]] = [[], [], []]
    for turn in range(repeats + 1):
        for way, inputs in enumerate(ways):
            start = _now(x.device)
            out = run(leaf)
            forward = _now(x.device) - start
            error = torch.ones_like(out)
            start = _now(x.device)
            if inputs and out.requires_grad:
                torch.autograd.backward(out, error, inputs=inputs)
            backward = _now(x.device) - start
            for tensor in inputs:
                tensor.grad = None
            if turn:  # the first one warms up
                forwards.append(forward)
                backwards[way].append(backward if inputs else 0.0)
    whole, weights, error_alone = (min(times) for times in backwards)
    return PieceTime(min(forwards), whole, min(weights, whole), min(error_alone, whole))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
