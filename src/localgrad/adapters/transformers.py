"""Hugging Face ``Trainer``: give it a learner in place of a model."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from localgrad.errors import LocalgradError
from localgrad.learner import LocalLearner

try:
    from transformers import Trainer

    from localgrad.adapters import accelerate as loop
except ImportError as error:
    raise LocalgradError(
        f"localgrad.adapters.transformers needs transformers and accelerate ({error}): "
        "pip install localgrad[trainer]"
    ) from error

_HEADS = "localgrad_heads.pt"


class LocalTrainer(Trainer):  # type: ignore[misc]
    """``Trainer`` whose training step is a local step.

    ``save_model`` saves the plain model; checkpoints hold the heads beside it. Evaluation and
    prediction are the model's own. Logs ``loss`` (the network's own) and ``loss_0``, ``loss_1``,
    ... (each block's).

    Args:
        model: a learner, from :func:`localgrad.decouple`; its ``loss`` is what is trained with.
        args, kwargs: as for ``Trainer``.

    Raises:
        LocalgradError: not a learner, or an option that local steps cannot follow.
    """

    def __init__(self, model: LocalLearner, *args: Any, **kwargs: Any) -> None:
        if not isinstance(model, LocalLearner):
            raise LocalgradError(
                f"LocalTrainer takes a learner, got a {type(model).__name__}: "
                "model=localgrad.decouple(model, ...)"
            )
        super().__init__(model.backbone, *args, **kwargs)
        self.learner = model
        self._sums: Tensor | None = None  # of each block's loss, since the last log
        self._updates = 0
        self._check()
        loop.prepare(self.accelerator, model)

    def _check(self) -> None:
        if self.args.torch_compile or self.args.n_gpu > 1:
            raise LocalgradError(
                "LocalTrainer follows neither torch_compile nor several GPUs in one process: "
                "leave torch_compile out, and start one process a GPU (torchrun)"
            )
        if self.args.label_smoothing_factor or self.compute_loss_func is not None:
            raise LocalgradError(
                "local steps use the learner's loss, not label_smoothing_factor or "
                "compute_loss_func: give decouple(..., loss=...)"
            )

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any) -> Tensor:
        """Fill the gradients by a local step; return the network's own loss, detached."""
        self.learner.train()
        x, y = self._pair(self._prepare_inputs(inputs))
        batches = self.current_gradient_accumulation_steps
        out = loop.step(self.accelerator, self.learner, x, y, batches)
        losses: Tensor = torch.stack(out.losses) / batches
        self._sums = losses if self._sums is None else self._sums + losses
        self._updates += self.accelerator.sync_gradients
        return losses[-1]

    def _pair(self, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """Return the one input that the learner takes, and the labels."""
        first = next(iter(inspect.signature(self.model.forward).parameters))
        name = getattr(self.model, "main_input_name", first)
        label = self.label_names[0] if len(self.label_names) == 1 else "labels"
        for key, value in inputs.items():
            if key in (name, label) or (key == "attention_mask" and bool(value.all())):
                continue
            raise LocalgradError(
                f"the batch has {key!r} beside {name!r} and {label!r}, and a learner takes one "
                "tensor: leave it out, or wrap the model in a module that makes it from the input"
            )
        if name not in inputs or label not in inputs:
            raise LocalgradError(
                f"the batch has {', '.join(inputs)}: expected {name!r} and {label!r}"
            )
        return inputs[name], inputs[label]

    def _wrap_model(self, model: nn.Module, training: bool = True, **kwargs: Any) -> nn.Module:
        # the loop's model: its gradients are clipped and zeroed, heads included; that it is not
        # self.model tells Trainer that it is wrapped already
        if training:
            self._sums, self._updates = None, 0
            return self.learner
        wrapped: nn.Module = super()._wrap_model(model, training, **kwargs)
        return wrapped

    def create_optimizer(self, *args: Any) -> torch.optim.Optimizer:
        """Make the optimizer over backbone and heads."""
        self.model: nn.Module = self.learner
        try:
            optimizer: torch.optim.Optimizer = super().create_optimizer()
        finally:
            self.model = self.learner.backbone
        return optimizer

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add each block's loss, the mean over the updates since the last time, to ``loss``."""
        if "loss" in logs and self._sums is not None:
            means = self.accelerator.reduce(self._sums, reduction="mean") / self._updates
            logs.update({f"loss_{k}": float(mean) for k, mean in enumerate(means)})
            self._sums, self._updates = None, 0
        super().log(logs, *args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            torch.save(self.learner.heads.state_dict(), Path(output_dir) / _HEADS)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._load_heads(checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if not self.args.save_only_model:
            self._load_heads(str(self.state.best_model_checkpoint))

    def _load_heads(self, checkpoint: str) -> None:
        path = Path(checkpoint) / _HEADS
        if not path.is_file():
            raise LocalgradError(
                f"{checkpoint} holds no heads: resume from a checkpoint of LocalTrainer that was "
                "saved without save_only_model"
            )
        self.learner.heads.load_state_dict(torch.load(path, weights_only=True))
