"""Networks by name: the papers' own, and those of torchvision, timm and transformers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import MappingProxyType, ModuleType
from typing import Any

from torch import nn

from localgrad.errors import LocalgradError
from localgrad.networks import timm_models, torchvision_models, transformers_models
from localgrad.networks.library import Facts, nearest
from localgrad.networks.resnet import (
    resnet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
)
from localgrad.networks.resnet_cifar import (
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
    resnet_cifar,
)
from localgrad.networks.vgg import vgg11, vgg13, vgg16, vgg19
from localgrad.networks.vit_cifar import vit_cifar

_BUILDERS: MappingProxyType[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        builder.__name__: builder
        for builder in (
            *(resnet20, resnet32, resnet44, resnet56, resnet110, resnet_cifar),
            *(resnet18, resnet34, resnet50, resnet101, resnet152, resnet),
            *(vgg11, vgg13, vgg16, vgg19),
            vit_cifar,
        )
    }
)

#: Prefix of a name to the module with ``names()`` and ``load()`` for what follows the colon.
LIBRARIES: MappingProxyType[str, ModuleType] = MappingProxyType(
    {
        "timm": timm_models,
        "torchvision": torchvision_models,
        "transformers": transformers_models,
    }
)


def names() -> tuple[str, ...]:
    """The networks of this package.

    >>> names()[6:12]
    ('resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152', 'resnet')
    """
    return tuple(_BUILDERS)


def library_names(library: str) -> list[str]:
    """The models that ``get("LIBRARY:NAME")`` takes.

    Raises:
        LocalgradError: the library is not installed or cannot be imported.
    """
    found: list[str] = LIBRARIES[library].names()
    return found


def is_known_form(name: str) -> bool:
    """Whether :func:`get` is responsible for ``name``: a plain one, or one with a library's prefix.

    >>> is_known_form("timm:vit_tiny_patch16_224"), is_known_form("my.package:network")
    (True, False)
    """
    prefix, colon, _ = name.partition(":")
    return not colon or prefix in LIBRARIES


def get(name: str, facts: Facts | None = None, **options: Any) -> nn.Module:
    """Build the network called ``name``.

    Args:
        name: one of :func:`names`, or ``timm:NAME``, ``torchvision:NAME``, ``transformers:CONFIG``.
        facts: what the data set says: number of classes, channels and size of the images, for
            what the options leave open.
        options: passed to the builder, such as ``num_classes=100``; to that of a library as it
            spells them.

    Raises:
        LocalgradError: for an unknown name, an option that the network does not take or lacks, or
            a library that is missing.

    >>> get("resnet20", num_classes=100).head.fc
    Linear(in_features=64, out_features=100, bias=True)
    """
    prefix, colon, rest = str(name).partition(":")
    if colon and prefix in LIBRARIES:
        model: nn.Module = LIBRARIES[prefix].load(rest, facts, options)
        return model
    builder = _BUILDERS.get(name)
    if builder is None:
        near = nearest(str(name), _BUILDERS)
        hint = f"did you mean {near!r}? " if near else ""
        families = ", ".join(f"{library}:NAME" for library in LIBRARIES)
        raise LocalgradError(
            f"unknown network {name!r}: {hint}known are {', '.join(_BUILDERS)}, {families}"
        )
    signature = inspect.signature(builder)
    if facts is not None:
        about = {
            "num_classes": facts.num_classes,
            "in_channels": facts.in_channels,
            "image_size": facts.image_size,
        }
        options = {**{k: v for k, v in about.items() if k in signature.parameters}, **options}
    try:
        signature.bind(**options)
    except TypeError as error:
        raise LocalgradError(
            f"network {name!r}: {error}; its options are {', '.join(signature.parameters)}"
        ) from None
    return builder(**options)
