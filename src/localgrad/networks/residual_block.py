"""The residual block of the CIFAR ResNets, and its two shortcuts."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from localgrad.networks.option_checks import check_choice

SHORTCUTS = ("projection", "pad")


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the image size at stride 1; He-normal (fan out) weights."""
    return he_normal(nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False))


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution; He-normal (fan out) weights."""
    return he_normal(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))


def he_normal(conv: nn.Conv2d) -> nn.Conv2d:
    """Draw the convolution's weights anew, He-normal (fan out); return it."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


class PadShortcut(nn.Module):
    """Every ``stride``-th pixel, with zero channels added on both sides; no parameters.

    Option A of He et al. 2016, section 3.3. Maps ``(batch, in_channels, height, width)`` to
    ``(batch, in_channels + extra_channels, ceil(height / stride), ceil(width / stride))``.
    """

    def __init__(self, extra_channels: int, stride: int) -> None:
        super().__init__()
        self.before, self.after = extra_channels // 2, extra_channels - extra_channels // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if self.stride != 1:
            # The same numbers as x[:, :, ::s, ::s], whose backward would lose channels-last.
            x = F.avg_pool2d(x, 1, self.stride)
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut around them (He et al. 2016, fig. 2).

    ``relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))``, from
    ``(batch, in_channels, height, width)`` to
    ``(batch, out_channels, ceil(height / stride), ceil(width / stride))``.

    Args:
        in_channels: channels that come in.
        out_channels: channels that go out, of both convolutions.
        stride: of the first convolution and of the shortcut.
        shortcut: what goes around where the shape changes: ``"projection"``, a 1x1 convolution
            with batch norm (option B of the paper), or ``"pad"``, zero channels (option A).
            Where the shape stays, the shortcut is the identity under either. A pad cannot take
            channels away: where fewer go out than come in, the shortcut is a projection.

    Raises:
        LocalgradError: for an unknown ``shortcut``.

    >>> import torch
    >>> block = ResidualBlock(16, 32, stride=2)
    >>> block(torch.zeros(4, 16, 8, 8)).shape
    torch.Size([4, 32, 4, 4])
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, shortcut: str = "projection"
    ) -> None:
        super().__init__()
        check_choice("shortcut", shortcut, SHORTCUTS)
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        self.shortcut_kind = shortcut
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(shortcut, in_channels, out_channels, stride)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        activated: Tensor = self.relu2(out)
        return activated

    def like(self, in_channels: int, stride: int) -> ResidualBlock:
        """A fresh block of this structure and output width, for another input.

        Args:
            in_channels: channels that the new block takes.
            stride: of the new block.

        Returns:
            A newly initialised block in training mode, with this block's dtype and device.

        >>> ResidualBlock(64, 64).like(in_channels=16, stride=2).shortcut.conv
        Conv2d(16, 64, kernel_size=(1, 1), stride=(2, 2), bias=False)
        """
        block = ResidualBlock(in_channels, self.out_channels, stride, self.shortcut_kind)
        return block.to(self.conv1.weight)


def _shortcut(kind: str, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if kind == "pad" and out_channels >= in_channels:
        return PadShortcut(out_channels - in_channels, stride)
    conv = conv1x1(in_channels, out_channels, stride)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels)))
