"""The residual blocks of the ResNets with four stages: basic and bottleneck.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.1 and figure 5. A
bottleneck's stride is that of its 3x3 convolution, as in torchvision and in BWBPF's released code
(the paper strides the first 1x1 convolution). Parameters are named as torchvision names them.
"""

from __future__ import annotations

from torch import Tensor, nn

from localgrad.networks.residual_block import conv1x1, conv3x3


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut: the block of ResNet-18 and 34.

    From ``(batch, in_channels, height, width)`` to
    ``(batch, width, ceil(height / stride), ceil(width / stride))``.

    >>> import torch
    >>> BasicBlock(64, 128, stride=2)(torch.zeros(4, 64, 8, 8)).shape
    torch.Size([4, 128, 4, 4])
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.in_channels, self.width, self.stride = in_channels, width, stride
        self.conv1 = conv3x3(in_channels, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        activated: Tensor = self.relu(out)
        return activated

    def like(self, in_channels: int, stride: int) -> BasicBlock:
        """A fresh block of this output width for another input, of this block's dtype and device.

        >>> BasicBlock(64, 64).like(in_channels=16, stride=2).conv1
        Conv2d(16, 64, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False)
        """
        return BasicBlock(in_channels, self.width, stride).to(self.conv1.weight)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution with batch norm, and a shortcut: the block of ResNet-50 to 152.

    From ``(batch, in_channels, height, width)`` to
    ``(batch, 4 * width, ceil(height / stride), ceil(width / stride))``.

    >>> import torch
    >>> Bottleneck(256, 128, stride=2)(torch.zeros(4, 256, 8, 8)).shape
    torch.Size([4, 512, 4, 4])
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.in_channels, self.width, self.stride = in_channels, width, stride
        self.conv1 = conv1x1(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, self.expansion * width)
        self.bn3 = nn.BatchNorm2d(self.expansion * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(in_channels, self.expansion * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        activated: Tensor = self.relu(out)
        return activated

    def like(self, in_channels: int, stride: int) -> Bottleneck:
        """A fresh block of this output width for another input, of this block's dtype and device.

        >>> Bottleneck(256, 64).like(in_channels=16, stride=2).conv2
        Conv2d(64, 64, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False)
        """
        return Bottleneck(in_channels, self.width, stride).to(self.conv1.weight)


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))
