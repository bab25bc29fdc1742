"""A network as a chain of units: pieces between which exactly one tensor is alive.

A chain is built from an ``nn.Sequential``, from any other module by tracing it, or from a module
that says itself what its units are:

* ``chain_units()`` returns ``{label: (submodule name, ...)}``, each unit's submodules in the
  order in which they run;
* ``chain_tail()`` returns the names of the submodules after the last unit (pool, classifier);
* ``chain_cuts()`` (optional) returns published cut tables, ``{K: (last unit of each block but
  the final one, ...)}``.

The chain holds references to the model's own submodules and adds nothing to the model.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from localgrad import declared, listed
from localgrad.errors import LocalgradError
from localgrad.model_state import evaluation, sample_of
from localgrad.summary import summary
from localgrad.tracing import granularity as granularity_room
from localgrad.tracing.units import cut_model
from localgrad.unit import Unit

__all__ = ["Chain", "Unit"]


@dataclass(frozen=True, eq=False)
class Chain:
    """A model in ``units``, then a ``tail`` (pool, classifier) that stays with the last block.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    >>> chain = Chain.of(model)
    >>> [unit.name for unit in chain.units], chain.tail.name
    (['0', '2'], 'tail')
    >>> chain.cuts(blocks=2)
    (1, 2)
    >>> print(chain)
    Sequential: 2 units and a tail, 2 legal cuts, 139 parameters
      unit  parameters
      0             40
      2             72
      tail          27

    Args:
        model: the user's model.
        units, tail: its parts in order.
        published_cuts: cut tables of papers, by number of blocks.
        outputs: shapes of what the units and the tail return, batch aside, where they are known.
        ends: end of each block, in the chain of a learner.
    """

    model: nn.Module
    units: tuple[Unit, ...]
    tail: Unit
    published_cuts: dict[int, tuple[str, ...]] = field(default_factory=dict)
    outputs: tuple[torch.Size, ...] = ()
    ends: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        model: nn.Module,
        example_input: Tensor | None = None,
        granularity: str = "unit",
        units: Sequence[str] | None = None,
    ) -> Chain:
        """Cut ``model`` into units.

        An ``nn.Sequential`` and a model that says what its units are are taken at their word.
        Any other module is traced: its forward runs on stand-ins, and it can be cut wherever
        exactly one tensor is alive.

        Args:
            model: any module that maps one tensor to one (or to an object with ``logits``).
            example_input: a batch of inputs, ``(batch, ...)``, to trace with; without it one is
                made up to fit the first layer.
            granularity: ``"unit"``: residual blocks, transformer layers, layers with the norm and
                activation that follow; ``"layer"``: finer, wherever a cut is legal between two
                layers; ``"stage"``: units of one container and resolution, joined.
            units: names of the submodules that units end with, in place of a granularity; where
                the model cannot be traced, they must run in a row and the last one is the tail.

        Raises:
            LocalgradError: the model has no legal cut, needs several inputs, returns several
                tensors, lets its path depend on data, or has a parameter in none of its units.
        """
        granularity_room.check(granularity)
        chain = cls.declared(model) if granularity == "unit" and units is None else None
        if chain is not None:
            return chain
        try:
            found, tail = cut_model(model, example_input, granularity, units)
        except LocalgradError as error:
            if units is None or str(error).startswith("units: "):
                raise
            listed_units, last = listed.run_in_a_row(model, units, example_input, str(error))
            chain = cls(model, listed_units, last)
            chain._check()
            return chain
        return cls(model, tuple(found), tail)

    @classmethod
    def declared(cls, model: nn.Module) -> Chain | None:
        """Return the chain of a model that is a sequence or says what its units are, else None."""
        found = declared.declared(model)
        if found is None:
            return None
        chain = cls(model, *found)
        chain._check()
        return chain

    def __str__(self) -> str:
        return summary(self)

    @property
    def legal_cuts(self) -> int:
        """The number of places where the model could be cut; the units take some of them."""
        return self.tail.legal_cuts or len(self.units)

    def __len__(self) -> int:
        return len(self.units)

    def __call__(self, x: Tensor) -> Tensor:
        """Run the units and the tail; the same arithmetic as the model's own forward."""
        source = x
        for unit in (*self.units, self.tail):
            x = unit.seeing(source)(x)
        return x

    @property
    def names(self) -> tuple[str, ...]:
        """The units' labels in order."""
        return tuple(unit.name for unit in self.units)

    def cuts(
        self, blocks: int | None = None, cuts: Sequence[str | int] | None = None
    ) -> tuple[int, ...] | None:
        """Return the end (exclusive unit index) of each block, or None where neither is given.

        Args:
            blocks: number of blocks K; the published cuts where the network has them, else
                blocks whose numbers of units differ by one at the most.
            cuts: label or index of the last unit of each block but the final one.

        Raises:
            LocalgradError: both are given, K is out of range, or the cuts are unknown or out of
                order.
        """
        count = len(self.units)
        if blocks is not None and cuts is not None:
            raise LocalgradError("give blocks= or cuts=, not both")
        if cuts is not None:
            return (*self._ends(cuts), count)
        if blocks is None:
            return None
        if isinstance(blocks, bool) or not isinstance(blocks, int) or not 1 <= blocks <= count:
            few = f" ({', '.join(self.names)})" if count < 4 else ""
            raise LocalgradError(
                f"blocks={blocks!r}: must be a whole number from 1 to {count}, the number of units"
                f"{few}"
            )
        if blocks in self.published_cuts:
            return (*self._ends(self.published_cuts[blocks]), count)
        return tuple(count * (k + 1) // blocks for k in range(blocks))

    def _ends(self, cuts: Sequence[str | int]) -> list[int]:
        if isinstance(cuts, str):
            raise LocalgradError(f"cuts={cuts!r}: give a list of unit labels")
        ends: list[int] = []
        for cut in cuts:
            is_index = isinstance(cut, int) and not isinstance(cut, bool)
            index = int(cut) if is_index else self.index(str(cut))
            if not 0 <= index < len(self.units) - 1:
                raise LocalgradError(
                    f"cut {cut!r}: a block but the final one must end at a unit from "
                    f"{self.names[0]!r} to {self.names[max(len(self.units) - 2, 0)]!r}"
                )
            if ends and index + 1 <= ends[-1]:
                raise LocalgradError(
                    f"cut {cut!r} is out of order: each cut must come after the one before it"
                )
            ends.append(index + 1)
        return ends

    def index(self, name: str) -> int:
        """Return the index of the unit called ``name``."""
        if name in self.names:
            return self.names.index(name)
        near = difflib.get_close_matches(name, self.names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f" (units: {', '.join(self.names)})"
        raise LocalgradError(f"no unit is called {name!r}{hint}")

    @torch.no_grad()
    def shapes(self, example_input: Tensor) -> tuple[list[torch.Size], torch.Size]:
        """Return each unit's output shape and the model's, without the batch dimension.

        Runs the chain once in eval mode on at most two rows; leaves buffers, modes and the random
        state as they were.
        """
        x = source = self.sample(example_input)
        shapes: list[torch.Size] = []
        with evaluation(self.model.modules()):
            for unit in (*self.units, self.tail):
                before = tuple(x.shape[1:])
                try:
                    x = unit.seeing(source)(x)
                except (RuntimeError, ValueError, IndexError) as error:
                    reason = str(error).splitlines()[0]
                    raise LocalgradError(
                        f"unit {unit.name!r} cannot take an input of shape {before}: {reason}"
                    ) from error
                if not isinstance(x, Tensor):
                    raise LocalgradError(
                        f"unit {unit.name!r} returns a {type(x).__name__}: "
                        "a unit must return one tensor"
                    )
                shapes.append(x.shape[1:])
        return shapes[:-1], shapes[-1]

    @torch.no_grad()
    def check(self, example_input: Tensor) -> None:
        """Run the chain and the model on at most two rows, in eval mode.

        A traced chain was compared with its model when it was cut.

        Raises:
            LocalgradError: the units in their order do not give what the model gives.
        """
        if self.tail.traced:
            return
        x = self.sample(example_input)
        with evaluation(self.model.modules()):
            ours, theirs = self(x), self.model(x)
        if not isinstance(theirs, Tensor) or not torch.allclose(
            ours, theirs, rtol=0, atol=0, equal_nan=True
        ):
            raise LocalgradError(
                f"the units of {type(self.model).__name__}, run in their order, do not give what "
                "the model gives: chain_units() and chain_tail() must be all of its forward"
            )

    def sample(self, example_input: Tensor) -> Tensor:
        """Return a copy of at most two rows, on the model's device and in its precision."""
        return sample_of(example_input, self.model)

    def _check(self) -> None:
        if not self.units:
            raise LocalgradError(
                f"{type(self.model).__name__} has no unit before its last layer: nothing to cut"
            )
        if self.tail.name in self.names:
            raise LocalgradError(f"no unit may be called {self.tail.name!r}: the last part is")
        held = {id(p) for unit in (*self.units, self.tail) for p in unit.parameters()}
        for name, parameter in self.model.named_parameters():
            if id(parameter) not in held:
                raise LocalgradError(f"parameter {name!r} is in no unit of the chain")
