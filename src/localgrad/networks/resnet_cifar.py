"""ResNets for small images, generated from their depth.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2: a 3x3 stem,
then three stages of n residual blocks with 16, 32 and 64 channels; depth = 6n + 2.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from localgrad.errors import LocalgradError
from localgrad.layers import GlobalAvgPool
from localgrad.networks.option_checks import check_counts, is_count
from localgrad.networks.published_cuts import PUBLISHED
from localgrad.networks.residual_block import ResidualBlock, conv3x3

_STAGES = (1, 2, 3)


class CifarResNet(nn.Module):
    """A stem, three stages of residual blocks, and a head; built by :func:`resnet_cifar`.

    Maps images ``(batch, in_channels, height, width)`` of any size to logits
    ``(batch, num_classes)``. Its units, in the sense of ``chain_units``, are the stem and every
    residual block.
    """

    def __init__(
        self, depth: int, num_classes: int, in_channels: int, width: int, shortcut: str
    ) -> None:
        super().__init__()
        self.depth = depth
        self.blocks_per_stage = (depth - 2) // 6
        self.stem = nn.Sequential(
            OrderedDict(
                conv=conv3x3(in_channels, width),
                bn=nn.BatchNorm2d(width),
                relu=nn.ReLU(inplace=True),
            )
        )
        self.stage1 = self._stage(width, width, 1, shortcut)
        self.stage2 = self._stage(width, 2 * width, 2, shortcut)
        self.stage3 = self._stage(2 * width, 4 * width, 2, shortcut)
        self.head = nn.Sequential(
            OrderedDict(pool=GlobalAvgPool(), fc=nn.Linear(4 * width, num_classes))
        )

    def _stage(self, in_channels: int, channels: int, stride: int, shortcut: str) -> nn.Sequential:
        first = ResidualBlock(in_channels, channels, stride, shortcut)
        rest = [
            ResidualBlock(channels, channels, 1, shortcut) for _ in range(self.blocks_per_stage - 1)
        ]
        return nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.stage1(x)
        x = self.stage2(x)
        x = self.stage3(x)
        logits: Tensor = self.head(x)
        return logits

    def chain_units(self) -> dict[str, tuple[str, ...]]:
        """The label of each unit, in order, with the names of the submodules it runs.

        >>> units = resnet_cifar(14).chain_units()
        >>> list(units), units["2.1"]
        (['stem', '1.0', '1.1', '2.0', '2.1', '3.0', '3.1'], ('stage2.1',))
        """
        blocks = {
            f"{stage}.{index}": (f"stage{stage}.{index}",)
            for stage in _STAGES
            for index in range(self.blocks_per_stage)
        }
        return {"stem": ("stem",), **blocks}

    def chain_tail(self) -> tuple[str, ...]:
        """The names of the submodules that run after the last unit, in order."""
        return ("head.pool", "head.fc")

    def chain_cuts(self) -> dict[int, tuple[str, ...]]:
        """Published cuts by number of blocks: the last unit of every block but the final one.

        Empty for a depth that was not published.

        >>> resnet32().chain_cuts()[4]
        ('1.2', '2.1', '3.0')
        """
        return dict(PUBLISHED.get(self.depth, {}))


def resnet_cifar(
    depth: int,
    num_classes: int = 10,
    in_channels: int = 3,
    width: int = 16,
    shortcut: str = "projection",
) -> CifarResNet:
    """A ResNet for small images with ``depth`` layers (He et al. 2016, section 4.2).

    Args:
        depth: layers with weights, counted as in the paper: 6n + 2 for n = 1, 2, ...
        num_classes: logits to give.
        in_channels: channels of the images.
        width: channels of the first stage; the second and third have two and four times as many.
        shortcut: where the shape changes, ``"projection"`` (1x1 convolution and batch norm, as
            in InfoPro's and AugLocal's released code) or ``"pad"`` (zero channels, as in the
            paper).

    Returns:
        The network, newly initialised: convolutions He-normal (fan out), batch norm at weight 1
        and bias 0, the classifier at PyTorch's default.

    Raises:
        LocalgradError: for a depth that is not 6n + 2, a number below 1, or an unknown shortcut.

    >>> import torch
    >>> network = resnet_cifar(14, num_classes=100)
    >>> network(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 100])
    """
    if not is_count(depth) or depth < 8 or (depth - 2) % 6:
        raise LocalgradError(f"depth must be 6n + 2 (8, 14, 20, ...); got {depth!r}{_near(depth)}")
    check_counts(num_classes=num_classes, in_channels=in_channels, width=width)
    return CifarResNet(depth, num_classes, in_channels, width, shortcut)


def _near(depth: object) -> str:
    if not isinstance(depth, int) or depth < 8:
        return ""
    below = depth - (depth - 2) % 6
    return f"; the nearest are {below} and {below + 6}"


def resnet20(
    num_classes: int = 10, in_channels: int = 3, width: int = 16, shortcut: str = "projection"
) -> CifarResNet:
    """ResNet-20 for small images: 10 units, 0.27 million parameters. See :func:`resnet_cifar`."""
    return resnet_cifar(20, num_classes, in_channels, width, shortcut)


def resnet32(
    num_classes: int = 10, in_channels: int = 3, width: int = 16, shortcut: str = "projection"
) -> CifarResNet:
    """ResNet-32 for small images: 16 units, 0.47 million parameters. See :func:`resnet_cifar`."""
    return resnet_cifar(32, num_classes, in_channels, width, shortcut)


def resnet44(
    num_classes: int = 10, in_channels: int = 3, width: int = 16, shortcut: str = "projection"
) -> CifarResNet:
    """ResNet-44 for small images: 22 units, 0.66 million parameters. See :func:`resnet_cifar`."""
    return resnet_cifar(44, num_classes, in_channels, width, shortcut)


def resnet56(
    num_classes: int = 10, in_channels: int = 3, width: int = 16, shortcut: str = "projection"
) -> CifarResNet:
    """ResNet-56 for small images: 28 units, 0.86 million parameters. See :func:`resnet_cifar`."""
    return resnet_cifar(56, num_classes, in_channels, width, shortcut)


def resnet110(
    num_classes: int = 10, in_channels: int = 3, width: int = 16, shortcut: str = "projection"
) -> CifarResNet:
    """ResNet-110 for small images: 55 units, 1.7 million parameters. See :func:`resnet_cifar`."""
    return resnet_cifar(110, num_classes, in_channels, width, shortcut)
