"""Small chains that between them hold what makes local learning go wrong."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from localgrad.networks import resnet20
from localgrad.networks.residual_block import ResidualBlock


def mlp() -> nn.Module:
    sizes = [(12, 10), (10, 9), (9, 8), (8, 7), (7, 6)]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in sizes:
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(6, 5))


def plain_conv() -> nn.Module:
    """Three widths, a pool inside a unit, no norm; one ReLU object used everywhere."""
    relu = nn.ReLU()
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), relu,
        nn.Conv2d(4, 4, 3, padding=1), relu, nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1), relu,
        nn.Conv2d(6, 6, 3, padding=1), relu,
        nn.Conv2d(6, 8, 3, padding=1), relu,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def residual() -> nn.Module:
    """Residual blocks with batch norm, a projection, in-place ReLU."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        ResidualBlock(4, 4), ResidualBlock(4, 6, 2), ResidualBlock(6, 6), ResidualBlock(6, 6),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip


def dropout() -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in [(12, 16), (16, 16), (16, 12), (12, 12), (12, 12)]:
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential(*layers, nn.Linear(12, 5))


def network() -> nn.Module:
    """A built-in network, narrow."""
    return resnet20(num_classes=5, width=4)


CHAINS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (3, 2, 2)),
    "plain_conv": (plain_conv, (3, 8, 8)),
    "residual": (residual, (3, 8, 8)),
    "dropout": (dropout, (3, 2, 2)),
    "network": (network, (3, 8, 8)),
}


def batch(name: str, size: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return inputs in 0..1 (InfoPro reconstructs them) and labels of 5 classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(size, *CHAINS[name][1], generator=generator, dtype=torch.float64)
    return x, torch.randint(5, (size,), generator=generator)


def build(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return CHAINS[name][0]().double()
