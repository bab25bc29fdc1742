"""The papers' networks.

A network says how it falls into units by three methods that return plain data: ``chain_units``,
``chain_tail`` and ``chain_cuts``. Any ``nn.Module`` may define them.
"""

from __future__ import annotations

from localgrad.networks.gpt import gpt
from localgrad.networks.published_cuts import MEMORY_BALANCED, PUBLISHED
from localgrad.networks.registry import get, names, reads_text
from localgrad.networks.residual_block import ResidualBlock
from localgrad.networks.resnet_cifar import (
    CifarResNet,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
    resnet_cifar,
)

__all__ = [
    "MEMORY_BALANCED",
    "PUBLISHED",
    "CifarResNet",
    "ResidualBlock",
    "get",
    "gpt",
    "names",
    "reads_text",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet_cifar",
]
