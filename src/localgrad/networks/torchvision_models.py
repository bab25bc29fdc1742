"""torchvision's image classifiers by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from localgrad.errors import LocalgradError
from localgrad.networks.library import Facts, built, imported, unknown

_SIZED = {"vit_": "image_size", "maxvit_": "input_size"}  # built for one image size
_AUXILIARY = ("googlenet", "inception_v3")


def names() -> list[str]:
    """The classifiers that torchvision builds."""
    models: Any = imported("torchvision", "vision").models
    return list(models.list_models(module=models))


def load(name: str, facts: Facts | None, options: dict[str, Any]) -> nn.Module:
    """Build torchvision's classifier called ``name``, without weights unless options name them.

    GoogLeNet and Inception come without their auxiliary classifiers, so that they return one
    tensor. torchvision builds for three channels: for another number, the first convolution is
    replaced, at the spread of initial weights that keeps the spread of what it gives.

    Args:
        name: as in ``torchvision.models.list_models()``.
        facts: of the data: classes, channels and, where a model is built for one image size, that
            size. Options win.
        options: keyword arguments of ``torchvision.models.get_model``.
    """
    models: Any = imported("torchvision", "vision").models
    if name not in models.list_models(module=models):
        raise unknown("torchvision model", name, names())
    given: dict[str, Any] = {"weights": None}
    if name in _AUXILIARY:
        given |= {"aux_logits": False, "init_weights": True}
    if facts is not None:
        given["num_classes"] = facts.num_classes
        for prefix, option in _SIZED.items():
            if name.startswith(prefix):
                given[option] = _size(name, option, facts)
    given |= options
    label = f"torchvision:{name}"
    model = built(label, lambda: models.get_model(name, **given))
    if facts is not None and facts.in_channels != 3:
        if given["weights"] is not None:
            raise LocalgradError(
                f"network {label!r}: pretrained weights are for 3 channels, the images have "
                f"{facts.in_channels}"
            )
        _take_channels(model, facts.in_channels)
    return model


def _size(name: str, option: str, facts: Facts) -> Any:
    if option == "input_size":
        return facts.size
    if facts.size[0] != facts.size[1]:
        height, width = facts.size
        raise LocalgradError(f"torchvision:{name} takes square images, not {height}x{width}")
    return facts.size[0]


def _take_channels(model: nn.Module, channels: int) -> None:
    path, old = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    with torch.no_grad():
        spread = float(old.weight.std()) * (old.in_channels / channels) ** 0.5
        nn.init.normal_(new.weight, std=spread)
        if new.bias is not None and old.bias is not None:
            new.bias.copy_(old.bias)
    owner, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(owner), attribute, new)
