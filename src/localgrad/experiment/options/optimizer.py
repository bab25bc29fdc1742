"""Options of the optimizer, and of its learning rate over a run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from localgrad.experiment.options.kinds import Factor, Momentum, Rate, Section, Share


class OptimizerConfig(Section):
    """How weights move."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="sgd or adamw")
    lr: Rate = Field(0.1, description="peak learning rate")
    momentum: Momentum = Field(0.9, description="SGD's momentum")
    nesterov: bool = Field(True, description="SGD with Nesterov momentum")
    weight_decay: Rate = Field(1e-4, description="on every parameter")
    update: Literal["step", "block"] = Field(
        "step", description="after the whole step, or block by block: the same bits, less memory"
    )
    fused: bool | None = Field(
        None, description="one kernel for all of an update; default: PyTorch's choice"
    )


class ScheduleConfig(Section):
    """How the learning rate moves, step by step."""

    name: Literal["cosine", "step", "constant"] = Field(
        "cosine", description="cosine, step or constant"
    )
    warmup_epochs: Rate = Field(0, description="linear warm-up, in epochs")
    warmup_lr: Rate | None = Field(
        None, description="learning rate at the start of the warm-up; default: a tenth of lr"
    )
    milestones: list[Share] = Field(
        [0.5, 0.75], description="step decay: parts of the run after which lr falls"
    )
    gamma: Factor = Field(0.1, description="step decay: factor")
