"""The options of a search for a decoupling: its space, its budget, how it goes about it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from localgrad.experiment.options.kinds import Choice, Count, Part, Room, Section
from localgrad.sizes import read_bytes

HEADS = (
    Choice(name="pool_linear"),
    Choice(name="conv_mlp"),
    Choice(name="dgl"),
    Choice.model_validate({"name": "auglocal", "depth": 1}),
    Choice.model_validate({"name": "auglocal", "depth": 2}),
)


class SearchConfig(Section):
    """What `localgrad search` tries, and how long."""

    trials: Count = Field(50, description="search: decouplings to train")
    epochs: Count = Field(3, description="search: passes over the training images, of each")
    validation: Part = Field(
        0.1, description="search: part of the training images that accuracy is measured on"
    )
    blocks: list[Count] = Field([2, 8], description="search: fewest and most blocks")
    cuts: Literal["any", "stages"] = Field(
        "any", description="search: after any unit, or at the ends of stages alone"
    )
    heads: list[Choice] = Field(
        list(HEADS), description="search: for each block, such as {name: auglocal, depth: 2}"
    )
    links: list[Room] = Field([0, 1, 2], description="search: lengths of links; 0: isolated")
    cost: Literal["memory", "flops", "time", "none"] = Field(
        "memory", description="search: what is weighed against accuracy: memory, flops, time, none"
    )
    budget: str | None = Field(
        None, description="search: most predicted memory of a step, such as 500MiB"
    )
    reduction: Annotated[int, Field(ge=2, strict=True)] | None = Field(
        3, description="search: go on with the best 1 in N at each rung; null: with all"
    )
    sampler: Literal["tpe", "random"] = Field("tpe", description="search: tpe or random")
    processes: Count = Field(1, description="search: worker processes, each with its threads")

    @field_validator("blocks")
    @classmethod
    def _ordered(cls, given: list[int]) -> list[int]:
        if len(given) not in (1, 2) or given != sorted(given):
            raise ValueError(f"give the fewest and the most, such as [2, 8], got {given}")
        return given

    @field_validator("heads", "links")
    @classmethod
    def _some(cls, given: list[object]) -> list[object]:
        if not given:
            raise ValueError("the search space is empty: name at least one")
        if any(one in given[:k] for k, one in enumerate(given)):
            raise ValueError(f"the same twice in {[getattr(one, 'name', one) for one in given]}")
        return given

    @field_validator("budget")
    @classmethod
    def _readable(cls, given: str | None) -> str | None:
        if given is not None:
            read_bytes(given)
        return given

    @property
    def budget_bytes(self) -> int | None:
        """The budget in bytes."""
        return None if self.budget is None else read_bytes(self.budget)

    @property
    def rungs(self) -> list[int]:
        """Epochs after which trials are compared, the last one left out.

        >>> SearchConfig(epochs=10, reduction=3).rungs
        [1, 3]
        """
        found: list[int] = []
        epochs = self.epochs
        while self.reduction is not None and epochs >= self.reduction:
            epochs //= self.reduction
            found.insert(0, epochs)
        return found
