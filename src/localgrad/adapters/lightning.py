"""PyTorch Lightning: a learner as a ``LightningModule`` with manual optimization."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau

from localgrad.assembly import decouple
from localgrad.errors import LocalgradError

try:
    from lightning.pytorch import LightningModule
    from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
except ImportError as error:
    raise LocalgradError(
        f"localgrad.adapters.lightning needs lightning ({error}): pip install localgrad[lightning]"
    ) from error


class LocalModule(LightningModule):  # type: ignore[misc]
    """A model that Lightning's ``Trainer`` trains in blocks with local gradients.

    Batches are pairs ``(x, y)``. Logs ``train_loss`` (the network's own), ``train_loss_0``,
    ``train_loss_1``, ... (each block's), ``val_loss`` and ``test_loss``, and the accuracies
    ``train_accuracy``, ... where the targets are class numbers. A checkpoint holds the heads too;
    ``learner.backbone`` is the model that was given.

    Args:
        model, method, decoupling: as for :func:`localgrad.decouple`; ``decoupling`` are its
            ``blocks``, ``cuts``, ``example_input``, ``granularity`` and ``units``.
        optimizer: called with the parameters, heads included; returns the optimizer.
        scheduler: called with the optimizer; returns a learning-rate scheduler
            (``ReduceLROnPlateau`` follows ``val_loss``).
        interval: ``"epoch"`` or ``"step"``, when the scheduler moves. Override
            ``configure_optimizers`` for anything else.
        loss: the task loss, ``loss(logits, y) -> scalar``.
        accumulate: number of batches whose mean gradient makes one update; takes the place of
            the Trainer's ``accumulate_grad_batches``.
        clip_norm: largest norm of the whole gradient; takes the place of the Trainer's
            ``gradient_clip_val``.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Any = "greedy",
        *,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        interval: str = "epoch",
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        accumulate: int = 1,
        clip_norm: float | None = None,
        **decoupling: Any,
    ) -> None:
        super().__init__()
        if interval not in ("epoch", "step"):
            raise LocalgradError(f"interval={interval!r}: use 'epoch' or 'step'")
        if accumulate < 1:
            raise LocalgradError(f"accumulate={accumulate}: expected a number of batches from 1")
        self.automatic_optimization = False
        self.learner = decouple(model, method, loss=loss, **decoupling)
        self.loss, self.accumulate, self.clip_norm = loss, accumulate, clip_norm
        self._factories, self._interval, self._waiting = (optimizer, scheduler), interval, 0

    def forward(self, x: Tensor) -> Any:
        """Run the model; heads take no part."""
        return self.learner(x)

    def configure_optimizers(self) -> Any:
        """Return the optimizer over backbone and heads, with its scheduler if there is one."""
        optimizer = self._factories[0](self.learner.parameters())
        if self._factories[1] is None:
            return optimizer
        scheduler = {"scheduler": self._factories[1](optimizer), "interval": self._interval}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_fit_start(self) -> None:
        """Refuse what local steps cannot run under."""
        if self.clip_norm is not None and self._scaler is not None:
            for optimizer in self.trainer.optimizers:
                if getattr(optimizer, "_step_supports_amp_scaling", False):
                    name = type(optimizer).__name__
                    raise LocalgradError(
                        f"clip_norm needs unscaled gradients, and a fused {name} unscales them "
                        "inside of its step: make it with fused=False"
                    )
        if not isinstance(self.trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise LocalgradError(
                f"{type(self.trainer.strategy).__name__}: local steps need the parameters whole: "
                "use strategy='ddp' or one device"
            )

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """Run a local step, and the update where enough batches have added up."""
        x, y = self.pair(batch)
        # the Trainer has entered its precision's autocast
        out = self.learner.step(x, y, scaler=self._scaler)
        self._waiting += 1
        if self._waiting == self.accumulate or self.trainer.is_last_batch:
            self._update()
        losses = {f"train_loss_{k}": value for k, value in enumerate(out.losses)}
        self.log_dict({"train_loss": out.losses[-1], **losses}, batch_size=len(x))
        self._log_accuracy("train", out.logits, y)
        return out.losses[-1]

    def _update(self) -> None:
        for parameter in self.learner.parameters():
            if parameter.grad is not None:
                if self._waiting > 1:
                    parameter.grad.div_(self._waiting)
                if self.trainer.world_size > 1:
                    reduce = self.trainer.strategy.reduce
                    parameter.grad = reduce(parameter.grad, reduce_op="mean")
        self._waiting = 0
        optimizer: Any = self.optimizers()
        optimizer.step()  # in 16-mixed the Trainer's scaler unscales, skips and moves on in here
        optimizer.zero_grad()
        self._move_schedulers("step", self.global_step)

    @property
    def _scaler(self) -> Any:
        """The Trainer's gradient scaler, in 16-mixed."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradients; they are complete, and unscaled."""
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.learner.parameters(), self.clip_norm)

    def on_train_epoch_end(self) -> None:
        """Move the schedulers that count epochs."""
        self._move_schedulers("epoch", self.current_epoch + 1)

    def _move_schedulers(self, interval: str, count: int) -> None:
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == interval and count % config.frequency == 0:
                metric = None
                if isinstance(config.scheduler, ReduceLROnPlateau):
                    metric = self.trainer.callback_metrics.get("val_loss")
                    if metric is None:
                        raise LocalgradError(
                            "ReduceLROnPlateau follows 'val_loss': give fit() val_dataloaders"
                        )
                self.lr_scheduler_step(config.scheduler, metric)

    def validation_step(self, batch: Any, batch_index: int) -> None:
        """Log the model's own loss and accuracy."""
        self._evaluate("val", batch)

    def test_step(self, batch: Any, batch_index: int) -> None:
        """Log the model's own loss and accuracy."""
        self._evaluate("test", batch)

    def predict_step(self, batch: Any, batch_index: int = 0) -> Any:
        """Return the model's output for ``(x, y)`` or ``x``."""
        return self(batch if isinstance(batch, Tensor) else self.pair(batch)[0])

    def _evaluate(self, split: str, batch: Any) -> None:
        x, y = self.pair(batch)
        out = self(x)
        logits = getattr(out, "logits", out)
        self.log(f"{split}_loss", self.loss(logits, y), batch_size=len(x), sync_dist=True)
        self._log_accuracy(split, logits, y)

    def _log_accuracy(self, split: str, logits: Tensor, y: Any) -> None:
        if isinstance(y, Tensor) and y.shape == logits.shape[:-1] and not y.is_floating_point():
            right = (logits.argmax(-1) == y).float().mean()
            self.log(f"{split}_accuracy", right, batch_size=len(y), sync_dist=split != "train")

    def pair(self, batch: Any) -> tuple[Tensor, Any]:
        """Return a batch's input and targets; override it for batches of another form."""
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise LocalgradError(
                f"a batch is a {type(batch).__name__}, expected (x, y): override pair(batch)"
            )
        return batch[0], batch[1]
