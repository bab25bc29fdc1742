"""A fresh copy of a traced unit, for another input: works on the unit's graph, without a table.

The copy calls copies of the unit's submodules with new weights. Where every layer that reads the
unit's input is a convolution or linear layer (behind norms and activations at the most), those
layers are made anew for what comes in: VGG groups, residual blocks with a projection, inverted
residuals without a shortcut. Where something else reads it too (an identity shortcut), a 1x1
projection in front brings the input to the channels that the copy takes, with an average pool for
a stride; and where the copy takes one size alone (a token mixer), the pool brings it to that size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localgrad.errors import LocalgradError
from localgrad.kinds import is_norm
from localgrad.layout import channel_axis
from localgrad.tracing.graph import Node
from localgrad.tracing.slices import Slice
from localgrad.tracing.units import TracedUnit

_ELEMENTWISE = (
    "relu", "relu_", "gelu", "silu", "hardtanh", "leaky_relu", "dropout", "contiguous", "clone",
)  # fmt: skip


class RenewedSlice(nn.Module):
    """A traced unit with submodules, parameters and buffers of its own."""

    def __init__(self, unit: TracedUnit) -> None:
        super().__init__()
        self.slices: list[Slice] = [cut.slices[unit.index] for cut in unit.cutter.cuts]
        self.copies = nn.ModuleDict()
        for part in self.slices:
            for step in part.steps:
                if step.module is not None and _key(step.module) not in self.copies:
                    module = unit.cutter.names.module(step.module)
                    self.copies[_key(step.module)] = deepcopy(module)
                elif step.tensor is not None and _key(step.tensor) not in vars(self):
                    self._keep(_key(step.tensor), unit.cutter.names.tensor(step.tensor))

    def _keep(self, name: str, tensor: Tensor) -> None:
        copy = tensor.detach().clone()
        if isinstance(tensor, nn.Parameter):
            self.register_parameter(name, nn.Parameter(copy))
        else:
            self.register_buffer(name, copy)

    def module(self, path: str) -> nn.Module:
        """Return the copy of a submodule."""
        return self.copies[_key(path)]

    def tensor(self, path: str) -> Tensor:
        """Return the copy of a parameter or buffer."""
        found: Tensor = getattr(self, _key(path))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Run the unit's graph on the copies."""
        part = next(
            (s for s in self.slices if all(mode == self.training for _, mode in s.modes)),
            self.slices[0],
        )
        return part.run(x, self, lambda step: False)

    def inner(self, path: str) -> tuple[nn.Module, str]:
        """Return the copied owner of a submodule that lies inside of a copy, and its name there."""
        for key, copy in self.copies.items():
            if _key(path) == key:
                return self.copies, key
            if _key(path).startswith(key + "__"):
                owner, _, name = path[len(key.replace("__", ".")) + 1 :].rpartition(".")
                return copy.get_submodule(owner), name
        raise KeyError(path)


class Fit(nn.Module):
    """Bring a tensor to another number of channels, size and layout.

    Positions are pooled by adaptive average; channels pass a 1x1 projection where their number
    changes.

    Args:
        shape, axis: what comes in, batch aside, and where its channels are.
        wanted, wanted_axis: the same of what goes out.
    """

    def __init__(
        self, shape: Sequence[int], axis: int, wanted: Sequence[int], wanted_axis: int
    ) -> None:
        super().__init__()
        self.axis, self.wanted_axis = axis, wanted_axis
        channels = wanted[wanted_axis]
        self.positions = [s for i, s in enumerate(wanted) if i != wanted_axis]
        same = shape[axis] == channels
        self.project = nn.Identity() if same else nn.Linear(shape[axis], channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(batch, *wanted)``."""
        x = x.movedim(self.axis + 1, 1)
        sizes = tuple(self.positions)
        if len(sizes) == 2 and x.dim() == 4:
            x = x if tuple(x.shape[2:]) == sizes else F.adaptive_avg_pool2d(x, sizes)
            x = x.flatten(2)
        else:
            x, count = x.reshape(*x.shape[:2], -1), math.prod(sizes)
            x = x if x.shape[2] == count else F.adaptive_avg_pool1d(x, count)
        x = self.project(x.transpose(1, 2)).transpose(1, 2)
        x = x.reshape(*x.shape[:2], *sizes)
        return x.movedim(1, self.wanted_axis + 1)


def renew(unit: TracedUnit, shape: Sequence[int], axis: int, stride: int) -> nn.Module:
    """Return a fresh copy of ``unit`` for inputs of ``shape``.

    Args:
        unit: the unit to imitate.
        shape, axis: what comes in, batch aside, and where its channels are.
        stride: by how much the copy should shrink a map; its own stride if that is larger.

    Raises:
        LocalgradError: the copy cannot run on such an input in any of the ways above.
    """
    part = unit.cutter.cuts[0].slices[unit.index]
    taken, given = _shape(part.source), _shape(part.target)
    before = TracedUnit("before", (), unit.cutter, max(unit.index - 1, 0))
    taken_axis = channel_axis(before, taken)
    for build in _candidates(unit, shape, axis, stride, taken, taken_axis):
        try:
            weight = next(p for p in unit.parameters() if p.is_floating_point())
            copy: nn.Module = build().to(weight.device, weight.dtype)
            with torch.no_grad():
                out = copy.eval()(weight.new_zeros(2, *shape))
        except (RuntimeError, ValueError, KeyError, IndexError, StopIteration):
            continue
        out_axis = channel_axis(unit, given)
        if out.dim() - 1 == len(given) and out.shape[out_axis + 1] == given[out_axis]:
            return copy.train().requires_grad_(True)
    raise LocalgradError(
        f"unit {unit.name!r} cannot be copied for an input of shape {tuple(shape)}: it takes "
        f"{tuple(taken)}"
    )


def _candidates(
    unit: TracedUnit, shape: Sequence[int], axis: int, stride: int, taken: torch.Size, at: int
) -> Iterator[Any]:
    """Yield ways to build the copy, the most faithful first."""
    part = unit.cutter.cuts[0].slices[unit.index]
    own = _stride(part)
    extra = max(1, stride // own)
    same_kind = len(shape) == len(taken) and axis == at
    if same_kind and shape[axis] == taken[at] and extra == 1:
        yield lambda: _fresh(RenewedSlice(unit))
    readers = None if not same_kind else unit.cutter.readers(unit.index, _passes)
    if readers is not None:
        yield lambda: _adapted(_fresh(RenewedSlice(unit)), readers, shape[axis], extra)
    if same_kind:
        sizes = [taken[at] if i == at else max(1, s // extra) for i, s in enumerate(shape)]
        sizes = sizes if len(shape) == 3 else [taken[at] if i == at else s for i, s in
                                               enumerate(shape)]  # fmt: skip
        yield lambda: nn.Sequential(Fit(shape, axis, sizes, at), _fresh(RenewedSlice(unit)))
    yield lambda: nn.Sequential(Fit(shape, axis, taken, at), _fresh(RenewedSlice(unit)))


def _stride(part: Slice) -> int:
    """Return by how much a unit shrinks a map."""
    before, after = _shape(part.source), _shape(part.target)
    if len(before) != 3 or len(after) != 3:
        return 1
    return max(1, round(max(before[1:]) / max(after[1:])))


def _shape(node: Node) -> torch.Size:
    return torch.Size() if node.shape is None else node.shape[1:]


def _passes(module: nn.Module | None, name: str) -> bool:
    """Whether an operation keeps channels apart, so that it takes any number of them."""
    if module is None:
        return name in _ELEMENTWISE
    return is_norm(module) or not any(True for _ in module.parameters())


def _adapted(copy: RenewedSlice, readers: list[str], channels: int, stride: int) -> nn.Module:
    """Make the layers that read the input anew, for ``channels``."""
    for path in readers:
        owner, name = copy.inner(path)
        old = owner.get_submodule(name)
        new: nn.Module
        if isinstance(old, nn.Conv2d) and old.groups == 1:
            new = nn.Conv2d(
                channels, old.out_channels, old.kernel_size,  # type: ignore[arg-type]
                tuple(s * stride for s in old.stride), old.padding,  # type: ignore[arg-type]
                old.dilation, bias=old.bias is not None, padding_mode=old.padding_mode,  # type: ignore[arg-type]
            )  # fmt: skip
        elif isinstance(old, nn.Linear) and stride == 1:
            new = nn.Linear(channels, old.out_features, bias=old.bias is not None)
        elif isinstance(old, nn.modules.batchnorm._BatchNorm):
            new = type(old)(channels, old.eps, old.momentum, old.affine, old.track_running_stats)
        elif isinstance(old, nn.LayerNorm) and len(old.normalized_shape) == 1:
            new = nn.LayerNorm(channels, old.eps, old.elementwise_affine, old.bias is not None)
        else:
            raise KeyError(path)
        if type(old) is not type(new):
            raise KeyError(path)
        setattr(owner, name, new) if owner is not copy.copies else copy.copies.update({name: new})
    return copy


def _fresh(copy: RenewedSlice) -> RenewedSlice:
    """Give every layer new weights.

    A layer without ``reset_parameters`` gets small normal weights and zero biases; vectors that
    are no biases (scales) and small constants stay, since what they start from is the design.
    """
    for module in copy.modules():
        reset = getattr(module, "reset_parameters", None) or getattr(
            module, "_reset_parameters", None
        )
        if callable(reset):
            reset()
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if name.endswith("bias") and parameter.dim() < 2:
                nn.init.zeros_(parameter)
            elif parameter.dim() > 1 and parameter.std() > 0:
                nn.init.trunc_normal_(parameter, std=0.02)
            elif is_norm(module) or (name.endswith("weight") and parameter.dim() < 2):
                nn.init.ones_(parameter)
    return copy


def _key(path: str) -> str:
    return path.replace(".", "__")
