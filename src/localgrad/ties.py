"""Tied weights: a parameter that several units read, and who trains it.

Inside of one block every use counts, as in plain autograd. Between blocks one of three choices
keeps the reach honest:

    first   the first block that uses the parameter trains it; later uses read a constant
    last    the last block that uses it trains it; earlier uses read a constant
    untie   each block gets a parameter of its own, which starts as a copy

A block is here a run of blocks with open borders, across which gradients flow anyhow. A tied
parameter counts as part of the first unit that trains it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from localgrad.chain import Chain
from localgrad.decoupling import Decoupling
from localgrad.errors import LocalgradError


def cleared(chain: Chain) -> Chain:
    """Return the chain without what an earlier decoupling said about its tied parameters."""
    units = tuple(replace(unit, elsewhere=(), lent=()) for unit in chain.units)
    return replace(chain, units=units, tail=replace(chain.tail, elsewhere=(), lent=()))


def settled(chain: Chain, decoupling: Decoupling) -> Chain:
    """Return the chain with each tied parameter given to one unit, as ``decoupling.ties`` says.

    Args:
        chain: as :func:`cleared` returns it.
        decoupling: its blocks.

    Raises:
        LocalgradError: a parameter is used in several blocks and no choice was made.
    """
    parts = (*chain.units, chain.tail)
    runs = _runs(decoupling)
    elsewhere: dict[int, list[nn.Parameter]] = defaultdict(list)
    lent: dict[int, list[nn.Parameter]] = defaultdict(list)
    for parameter, users in _tied(chain):
        blocks = sorted({runs[u] for u in users})
        if len(blocks) > 1 and decoupling.ties is None:
            raise _no_choice(chain, parameter, blocks)
        trainer = blocks[-1] if decoupling.ties == "last" else blocks[0]
        owner = next(u for u in users if runs[u] == trainer)
        for u in users:
            if runs[u] != trainer:
                elsewhere[u].append(parameter)
            elif u != owner:
                lent[u].append(parameter)
    found = [
        replace(part, elsewhere=tuple(elsewhere[u]), lent=tuple(lent[u]))
        for u, part in enumerate(parts)
    ]
    return replace(chain, units=tuple(found[:-1]), tail=found[-1])


def _runs(decoupling: Decoupling) -> list[int]:
    """Return the first block of the run that holds each unit, and the tail."""
    of_unit = [
        decoupling.first_reached(k)
        for k, block in enumerate(decoupling.blocks)
        for _ in range(block.start, block.stop)
    ]
    return [*of_unit, decoupling.first_reached(len(decoupling.blocks) - 1)]


def _tied(chain: Chain) -> list[tuple[nn.Parameter, list[int]]]:
    """Return the parameters that several units read, with the units; the tail is the last."""
    users: dict[int, tuple[nn.Parameter, list[int]]] = {}
    for u, part in enumerate((*chain.units, chain.tail)):
        for parameter in part.parameters():
            users.setdefault(id(parameter), (parameter, []))[1].append(u)
    return [(parameter, units) for parameter, units in users.values() if len(units) > 1]


def _no_choice(chain: Chain, parameter: nn.Parameter, blocks: list[int]) -> LocalgradError:
    named = chain.model.named_parameters(remove_duplicate=False)
    name, *others = [name for name, p in named if p is parameter]
    also = f" (also {', '.join(map(repr, others))})" if others else ""
    listed = f"{', '.join(map(str, blocks[:-1]))} and {blocks[-1]}"
    return LocalgradError(
        f"parameter {name!r}{also} is used in blocks {listed} (tied weights), so no single block "
        f"can claim it: choose ties='first' (block {blocks[0]} alone trains it, the others read a "
        f"constant), ties='last' (block {blocks[-1]} alone does) or ties='untie' (each block gets "
        "a copy of its own), or cut so that one block holds all its uses"
    )


@dataclass
class Untied:
    """Parameters that were given copies, and how to go back.

    Args:
        model: the model.
        copies: module, the parameter's name there, what was there before.
        marked: the model's configuration (transformers) said that its embeddings are tied.
    """

    model: nn.Module
    copies: list[tuple[nn.Module, str, nn.Parameter]] = field(default_factory=list)
    marked: bool = False

    def retie(self) -> None:
        """Put the shared parameters back."""
        for module, name, before in self.copies:
            setattr(module, name, before)
        if self.marked:
            self._config.tie_word_embeddings = True
        self.copies, self.marked = [], False

    def retie_equal(self) -> None:
        """Put the shared parameters back where no copy differs, so that nothing is lost."""
        if all(torch.equal(getattr(m, name), before) for m, name, before in self.copies):
            self.retie()

    def mark(self) -> None:
        """Tell transformers, which would tie the embeddings again when the model is loaded."""
        if self.copies and getattr(self._config, "tie_word_embeddings", False) is True:
            self._config.tie_word_embeddings = False
            self.marked = True

    @property
    def _config(self) -> Any:
        return getattr(self.model, "config", None)


def untie(chain: Chain, decoupling: Decoupling) -> Untied:
    """Give every block but the first a copy of each parameter that it shares with earlier ones.

    The state dict's keys stay: a copy takes the shared parameter's place under one of its names.

    Args:
        chain: as :func:`cleared` returns it.
        decoupling: its blocks; nothing happens unless its ``ties`` is ``"untie"``.

    Raises:
        LocalgradError: a parameter is shared because a module itself runs in several blocks.
    """
    done = Untied(chain.model)
    if decoupling.ties != "untie":
        return done
    runs = _runs(decoupling)
    parts = (*chain.units, chain.tail)
    swaps: list[tuple[nn.Parameter, dict[int, list[tuple[nn.Module, str]]]]] = []
    for parameter, _ in _tied(chain):
        places: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
        held: dict[tuple[int, str], int] = {}
        for u, part in enumerate(parts):
            for module, name in part.places():
                if getattr(module, name) is not parameter:
                    continue
                block = held.setdefault((id(module), name), runs[u])
                if block != runs[u]:
                    path = next(p for p, m in chain.model.named_modules() if m is module)
                    raise LocalgradError(
                        f"module {path!r} itself runs in blocks {block} and {runs[u]}: it has no "
                        "second place for a copy; use ties='first' or 'last', or one block"
                    )
                places[runs[u]].append((module, name))
        swaps.append((parameter, places))
    for parameter, places in swaps:
        for block in sorted(places)[1:]:
            copy = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            for module, name in places[block]:
                if getattr(module, name) is parameter:
                    done.copies.append((module, name, parameter))
                    setattr(module, name, copy)
    done.mark()
    return done
