"""What is known of an option: predicted, and measured where that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from localgrad.assembly import decouple
from localgrad.chain import Chain
from localgrad.decoupling import Decoupling
from localgrad.learner import LocalLearner
from localgrad.memory import Memory
from localgrad.planning.options import Option


@dataclass(frozen=True)
class Row:
    """An option at one batch size.

    Args:
        option: the rule, its blocks, its checkpointing.
        losses: how many losses train the network.
        memory: bytes at the peak of a whole training step in the steady state (``zero_grad``,
            step, optimizer's step); ``total`` is what is held against the budget.
        flops: of the step.
        flops_ratio: the same against BP's.
        decoupling: cuts, heads, losses and reach, as data to save.
        largest_batch: the most rows that fit the budget; None: not asked for.
        seconds: of a real training step, the median.
        time_ratio: time a row of the batch against BP's, the median of pairs of steps.
        measured: bytes of a real training step.
    """

    option: Option
    losses: int
    memory: Memory
    flops: int
    flops_ratio: float
    decoupling: Decoupling | None = None
    largest_batch: int | None = None
    seconds: float | None = None
    time_ratio: float | None = None
    measured: Memory | None = None

    @property
    def total(self) -> int:
        """Predicted bytes in all."""
        return self.memory.total

    @property
    def cost(self) -> float:
        """Time against BP's where it was measured, else FLOPs."""
        return self.flops_ratio if self.time_ratio is None else self.time_ratio

    def decouple(
        self,
        model: nn.Module | Chain,
        example_input: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> LocalLearner:
        """Return a learner of this very decoupling; errors as of :func:`localgrad.decouple`."""
        assert self.decoupling is not None
        return decouple(model, self.decoupling, example_input=example_input, loss=loss)

    def to_dict(self, budget: int, batch: int) -> dict[str, Any]:
        """Return plain values: bytes, FLOPs, seconds."""
        option = self.option
        return {
            "label": option.label,
            "kind": option.kind,
            "method": None if self.decoupling is None else self.decoupling.method,
            "options": {} if self.decoupling is None else self.decoupling.options,
            "blocks": option.blocks,
            "checkpoint": option.checkpoint or getattr(option.method, "checkpoint", None),
            "micro_batches": option.micro_batches,
            "losses": self.losses,
            "batch": batch,
            **{f"{key}_bytes": value for key, value in self.memory.to_dict().items()},
            "fits": self.total <= budget,
            "flops": self.flops,
            "flops_ratio": self.flops_ratio,
            "largest_batch": self.largest_batch,
            "seconds": self.seconds,
            "time_ratio": self.time_ratio,
            "measured_bytes": None if self.measured is None else self.measured.total,
            "allocated_bytes": None if self.measured is None else self.measured.allocated,
            "decoupling": None if self.decoupling is None else self.decoupling.to_dict(),
        }
