"""The papers' networks, and models of torchvision, timm and transformers by name.

A network says how it falls into units by three methods that return plain data: ``chain_units``,
``chain_tail`` and ``chain_cuts``. Any ``nn.Module`` may define them.
"""

from __future__ import annotations

from localgrad.networks.bottleneck import BasicBlock, Bottleneck
from localgrad.networks.library import Facts
from localgrad.networks.published_cuts import MEMORY_BALANCED, PUBLISHED
from localgrad.networks.registry import LIBRARIES, get, is_known_form, library_names, names
from localgrad.networks.residual_block import ResidualBlock
from localgrad.networks.resnet import (
    ResNet,
    resnet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
)
from localgrad.networks.resnet_cifar import (
    CifarResNet,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
    resnet_cifar,
)
from localgrad.networks.stage_splits import PUBLISHED_SPLITS, stage_splits
from localgrad.networks.vgg import VGG, vgg, vgg11, vgg13, vgg16, vgg19
from localgrad.networks.vit_cifar import vit_cifar

__all__ = [
    "LIBRARIES",
    "MEMORY_BALANCED",
    "PUBLISHED",
    "PUBLISHED_SPLITS",
    "VGG",
    "BasicBlock",
    "Bottleneck",
    "CifarResNet",
    "Facts",
    "ResNet",
    "ResidualBlock",
    "get",
    "is_known_form",
    "library_names",
    "names",
    "resnet",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet101",
    "resnet110",
    "resnet152",
    "resnet_cifar",
    "stage_splits",
    "vgg",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "vit_cifar",
]
