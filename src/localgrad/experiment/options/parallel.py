"""Options of training in several processes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from localgrad.experiment.options.kinds import Count, Room, Section
from localgrad.sizes import read_bytes


class ParallelConfig(Section):
    """How many processes train together; torchrun starts them."""

    blocks: Count = Field(1, description="parts that the network's blocks are spread over")
    data: Count = Field(1, description="replicas of each part, each with rows of the batch")
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)] = Field(
        20.0, description="seconds that a process waits for another before the run ends"
    )
    late_links: bool | list[Room] = Field(
        False,
        description="links between processes come one step late, so that none waits; or the blocks "
        "whose link does",
    )
    memory: str | float | None = Field(
        None, description="most that a process's part may hold, such as 2GiB; default: no bound"
    )

    @field_validator("memory")
    @classmethod
    def _is_a_size(cls, given: str | float | None) -> str | float | None:
        if given is not None:
            read_bytes(given, "memory")
        return given

    @property
    def processes(self) -> int:
        """How many processes there are."""
        return self.blocks * self.data
