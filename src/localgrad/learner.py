"""The learner: runs local steps on the user's model, on one device.

Each block's backward runs, and its activations are freed, before the next block's forward; that,
not detaching, is what saves the memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from localgrad import block_updates
from localgrad import ties as tie_room
from localgrad.block_updates import BlockUpdates
from localgrad.chain import Chain
from localgrad.compiled import CompileReport, compile_learner, take_away
from localgrad.decoupling import Decoupling
from localgrad.errors import LocalgradError
from localgrad.lanes import lanes_for
from localgrad.losses import logits_of
from localgrad.segments import Group, Stage, norms_in_common
from localgrad.step_walk import StepWalk

#: Every model that is decoupled at present.
decoupled: WeakKeyDictionary[nn.Module, ref[LocalLearner]] = WeakKeyDictionary()


class StepOutput(NamedTuple):
    """What one local step returns.

    ``logits`` are the network's own output, detached; ``losses`` holds one detached scalar tensor
    a block, in order.
    """

    logits: Tensor
    losses: list[Tensor]


class LocalLearner(nn.Module):
    """A model in blocks, with their heads. Made by :func:`decouple`.

    ``parameters()`` and ``state_dict()`` cover the backbone and the heads; calling the learner
    calls the backbone. The backbone is the user's model object, with its own state-dict keys.
    """

    def __init__(
        self,
        chain: Chain,
        decoupling: Decoupling,
        heads: list[nn.Module],
        stages: list[Stage],
        groups: list[Group],
        input_shape: torch.Size | None,
        layers: list[int] | None,
        untied: tie_room.Untied,
    ) -> None:
        super().__init__()
        self.backbone = chain.model
        self.heads = nn.ModuleList(heads)
        self.chain, self.decoupling = chain, decoupling
        self.input_shape = input_shape
        self._stages, self._groups = stages, groups
        self.layers, self._untied = layers, untied
        self._due: block_updates.Due = {}
        self._streams = 1

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the backbone; heads take no part."""
        return self.backbone(*args, **kwargs)

    def step(
        self,
        x: Tensor,
        y: Any,
        scaler: Any = None,
        update: torch.optim.Optimizer | None = None,
    ) -> StepOutput:
        """Fill ``.grad`` of the backbone and the heads with local gradients; update nothing.

        Gradients add up over calls, as with ``backward()``. What no loss reaches keeps its
        ``.grad`` of None.

        Args:
            x: a batch of inputs, ``(batch, ...)``.
            y: targets, handed to the losses as they are.
            scaler: for fp16, a ``torch.amp.GradScaler``: every loss is multiplied by its scale
                before its backward, so that errors which cross a border are scaled alike. Then
                ``scaler.step(optimizer); scaler.update()`` as usual.
            update: an optimizer over ``learner.parameters()``, stepped here block by block; each
                block's gradients are released at once. Parameters and optimizer state end with the
                bits of ``step(); optimizer.step(); optimizer.zero_grad()``, wherever an update
                looks at one parameter at a time (SGD, Adam, AdamW, ..). The optimizer's step hooks
                run at each block.

        Raises:
            LocalgradError: the input's shape is not the one that the heads were built for, a
                batch norm would get a single value, or ``update`` does not hold all that is
                trained, cannot be stepped by blocks, or comes with a scaler.

        >>> import localgrad
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
        >>> x, y = torch.randn(16, 4), torch.randint(3, (16,))
        >>> learner = localgrad.decouple(model, "greedy", blocks=2, example_input=x)
        >>> optimizer = torch.optim.AdamW(learner.parameters())
        >>> out = learner.step(x, y, update=optimizer)
        >>> any(p.grad is not None for p in learner.parameters())
        False
        """
        self._check_input(x)
        block_updates.check(update, scaler, self)
        updates = None if update is None else BlockUpdates(update, self._moments())
        scale = None if scaler is None else scaler.scale
        if scale is not None and self.streams > 1:
            scale(torch.zeros((), device=x.device))  # makes its tensors here, before the streams
        # an update writes on weights: it has to know that nothing reads them, on any stream
        with lanes_for(x.device, self.streams if updates is None else 1) as lanes:
            walk = StepWalk(self._groups, lanes, updates)
            walk.run(x, y, x, scale)
        if updates is not None:
            updates.rest()
        assert walk.logits is not None  # the last block ends in the tail
        return StepOutput(walk.logits, walk.losses)

    def compile(  # type: ignore[override]
        self,
        x: Tensor,
        y: Any,
        *,
        keep: str = "if_faster",
        fallback: bool = False,
        check: bool = True,
        rtol: float | None = None,
        repeats: int = 5,
        **options: Any,
    ) -> CompileReport:
        """Compile the steps: every segment of a block and every head becomes one graph.

        As ``nn.Module.compile`` it works in place and adds no prefix to any name, but on what a
        learner is for, its steps; to compile the forward pass alone is ``backbone.compile()``.
        Call it under the autocast and in the mode of training. Steps on ``(x, y)`` are run to
        compile, check and time; parameters, gradients, buffers and the random state stay as they
        are. Batches of another shape run uncompiled, as do the audit and the counters of memory
        and FLOPs; another call compiles anew, and ``release()`` takes compiled code away.

        Args:
            x, y: a batch as in training.
            keep: ``"if_faster"``: only if a compiled step takes less time here; ``"always"``.
            fallback: leave what torch cannot make one graph of as it is, and report it.
            check: compare gradients, buffers and losses with those of a plain step.
            rtol: largest difference of a gradient, relative to its norm; default: 0.1 in fp32, 1e-6
                in float64, 0.3 in bf16 and fp16. Rounding makes single ReLUs and pools switch:
                reversed rows alone move gradients of a ResNet-32 by 1 to 3 % in fp32.
            repeats: steps of each kind that are timed, in turn.
            options: ``backend``, ``mode`` and ``options`` of :func:`torch.compile`.

        Returns:
            What was compiled, checked, timed and decided; printed, it is one line.

        Raises:
            LocalgradError: torch cannot make one graph of a segment (a graph break), compiled
                gradients are not the plain ones, or an option is none.
        """
        self._check_input(x)
        return compile_learner(self, x, y, keep, fallback, check, rtol, repeats, options)

    @property
    def streams(self) -> int:
        """Number of CUDA streams of a step, 1 or 2 (:mod:`localgrad.lanes`); no effect on a CPU.

        On 2, a block's head and backward run beside the next block's forward. Gradients keep their
        bits; the peak holds two blocks' activations. Where single operations are small, record the
        step too (:class:`localgrad.CapturedStep`), or launching them takes all the time.
        """
        return self._streams

    @streams.setter
    def streams(self, count: int) -> None:
        if isinstance(count, bool) or count not in (1, 2):
            raise LocalgradError(f"streams={count!r}: must be 1 or 2")
        shared = norms_in_common(self._groups) if count > 1 else None
        if shared is not None:
            raise LocalgradError(
                f"streams=2: a {shared} with running statistics runs in several blocks, which "
                "would update it at the same time"
            )
        self._streams = count

    def task_loss(self, x: Tensor, y: Any) -> Tensor:
        """Return the loss of the network's own output, a scalar whose ``backward()`` is BP's."""
        last, source = self._stages[-1], x
        for unit in self.chain.units:
            x = unit.seeing(source)(x)
        loss: Tensor = last.loss(last.scores(x, source), y, source)
        return loss

    @torch.no_grad()
    def exits(self, x: Tensor) -> list[Tensor | None]:
        """Return every loss's class scores, ``(batch, classes)``: each head as an early exit.

        None stands for a head without a classifier. The last entry is the network's own output.
        The heads run in the backbone's mode.
        """
        mode = self.heads.training
        self.heads.train(self.backbone.training)
        scores, source = [], x
        for stage in self._stages:
            for unit in stage.units:
                x = unit.seeing(source)(x)
            scores.append(logits_of(stage.scores(x, source)))
        self.heads.train(mode)
        return scores

    def reach(self) -> list[list[bool]]:
        """Return the declared reach: a row a loss, a column a unit, then one for the tail."""
        return self.decoupling.reach(self.layers)

    def release(self) -> nn.Module:
        """Give the model back, as it was before :func:`decouple`; the learner is then spent.

        Weights that ``ties="untie"`` gave copies are tied again if no copy has changed; else the
        copies stay, since one of two trained weights would be lost.
        """
        decoupled.pop(self.backbone, None)
        self._untied.retie_equal()
        take_away(self)
        self._groups = []
        return self.backbone

    def _moments(self) -> block_updates.Due:
        """Return when each parameter may be updated; found anew where the model has other ones."""
        parameters = list(self.parameters())
        known = self._due
        if len(known) != len(parameters) or any(p not in known for p in parameters):
            self._due = block_updates.moments(self._groups, parameters)
        return self._due

    def _check_input(self, x: Tensor) -> None:
        if not self._groups:
            raise LocalgradError("this learner was released: decouple the model again")
        if not torch.is_grad_enabled():
            raise LocalgradError("step computes gradients: call it outside of torch.no_grad()")
        if self.input_shape is not None and x.shape[1:] != self.input_shape:
            raise LocalgradError(
                f"step got inputs of shape {tuple(x.shape[1:])}, the heads were built for "
                f"{tuple(self.input_shape)}: decouple with an example_input of that shape"
            )
