"""Options of the data: which inputs, and how they are fed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from localgrad.experiment.options.kinds import Count, Room, Section


class DataConfig(Section):
    """Which images, and how they are fed."""

    name: str = Field("digits", description="data set: see `localgrad list`")
    path: str | None = Field(None, description="folder of parquet files or images; text: a file")
    limit: Count | None = Field(None, description="train on the first N images")
    test_limit: Count | None = Field(None, description="test on the first N images")
    size: Count | None = Field(None, description="resize to N by N pixels")
    channels: Literal["rgb", "grey"] | None = Field(None, description="make all images rgb or grey")
    augment: bool = Field(True, description="random crop and flip as published for the data set")
    crop: Literal["pad", "resized"] | None = Field(
        None, description="pad and crop, or a random part resized; default: as published"
    )
    pad: Room | None = Field(None, description="pixels on each side; default: as published")
    padding: Literal["reflect", "zero"] | None = Field(
        None, description="what the pad holds; default: as published"
    )
    flip: bool | None = Field(None, description="mirror left to right; default: as published")
    drop_last: bool = Field(False, description="leave out a last batch of fewer images")
    stream: bool | None = Field(
        None, description="read images while training; default: imagenet alone"
    )
    on_corrupt: Literal["stop", "skip"] = Field(
        "stop", description="at an image that cannot be decoded; skip counts and names it"
    )
    workers: Room = Field(2, description="processes that read streamed images; 0: none")
    prefetch: Count = Field(2, description="batches that each of them has ready")
    level: Literal["byte", "char"] = Field("byte", description="text: what a token is")
    context: Count = Field(128, description="text: tokens in a window")

    @property
    def inputs(self) -> str:
        """What one input is called."""
        return "sequences" if self.name == "text" else "images"
