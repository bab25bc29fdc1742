"""Hugging Face Accelerate: a learner in a loop on one or several processes.

The optimizer and the data loader go through ``accelerator.prepare`` as usual; the learner goes
through :func:`prepare`, and :func:`step` takes the place of forward, loss and
``accelerator.backward``. Over several processes gradients are averaged as in data-parallel
training; each process runs its own local steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from localgrad.errors import LocalgradError
from localgrad.learner import LocalLearner, StepOutput

try:
    from accelerate import Accelerator
    from accelerate.utils import broadcast
except ImportError as error:
    raise LocalgradError(
        f"localgrad.adapters.accelerate needs accelerate ({error}): "
        "pip install localgrad[accelerate]"
    ) from error

_SHARDED = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "XLA")


def prepare(accelerator: Accelerator, learner: LocalLearner) -> LocalLearner:
    """Move a learner to the accelerator's device and give every process the first one's weights.

    ``accelerator.save_state`` and ``load_state`` then cover it, heads included.

    Raises:
        LocalgradError: the accelerator shards parameters.
    """
    check(accelerator)
    learner.to(accelerator.device)
    with torch.no_grad():
        for tensor in (*learner.parameters(), *learner.buffers()):
            tensor.copy_(broadcast(tensor))
    accelerator.register_for_checkpointing(learner)
    return learner


def check(accelerator: Accelerator) -> None:
    """Refuse what local steps cannot run under."""
    if accelerator.distributed_type.value in _SHARDED:
        raise LocalgradError(
            f"{accelerator.distributed_type.value} splits the model's parameters, local steps need "
            "them whole: use data parallelism (MULTI_GPU, MULTI_CPU) or one process"
        )


def step(
    accelerator: Accelerator, learner: LocalLearner, x: Tensor, y: Any, batches: int | None = None
) -> StepOutput:
    """Run a local step; complete the gradients where the accelerator is about to update.

    Args:
        accelerator: its mixed precision (in fp16 with its scaler), ``accumulate`` and processes
            are respected.
        learner: from :func:`prepare`.
        x, y: as for ``learner.step``.
        batches: number of batches whose gradients add up to one update; by default the
            accelerator's ``gradient_accumulation_steps``. Gradients are divided by it.
    """
    with accelerator.autocast():
        out = learner.step(x, y, scaler=accelerator.scaler)
    if accelerator.sync_gradients:
        count = accelerator.gradient_accumulation_steps if batches is None else batches
        for parameter in learner.parameters():
            if parameter.grad is not None:
                if count > 1:
                    parameter.grad.div_(count)
                if accelerator.num_processes > 1:
                    parameter.grad = accelerator.reduce(parameter.grad, reduction="mean")
    return out
