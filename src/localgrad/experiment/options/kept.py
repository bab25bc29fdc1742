"""Options of what a run leaves besides its results: its checkpoints and its logs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from localgrad.experiment.options.kinds import Section


class CheckpointConfig(Section):
    """Which checkpoints stay."""

    keep: Annotated[int, Field(ge=1, le=99, strict=True)] = Field(
        2, description="the newest N, and the best; a damaged one is passed over"
    )


class LogConfig(Section):
    """Where the metrics go besides metrics.jsonl."""

    tensorboard: bool = Field(False, description="event files in OUT/tensorboard")
    trackio: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="name of a Trackio project"
    )
    wandb: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="name of a Weights & Biases project"
    )
    agreement: bool = Field(
        False, description="each epoch, the cosine between local gradients and BP's, unit by unit"
    )
