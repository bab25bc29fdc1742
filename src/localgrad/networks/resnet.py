"""ResNets with four stages: ResNet-18, 34, 50, 101 and 152.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1. Parameters are named
as torchvision names them, so that its weights load where the stem is ImageNet's.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from localgrad.errors import LocalgradError
from localgrad.layers import GlobalAvgPool
from localgrad.networks.bottleneck import BasicBlock, Bottleneck
from localgrad.networks.option_checks import check_choice, check_counts
from localgrad.networks.residual_block import conv3x3, he_normal
from localgrad.networks.stage_splits import stage_cuts

BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
}
STEMS = ("cifar", "imagenet")


class ResNet(nn.Module):
    """A stem, four stages of residual blocks, pool and classifier; built by :func:`resnet`.

    Maps images ``(batch, in_channels, height, width)`` of any size to logits
    ``(batch, num_classes)``. Its units are the stem and every residual block.
    """

    def __init__(
        self,
        stages: tuple[int, ...],
        block: type[BasicBlock] | type[Bottleneck],
        num_classes: int,
        stem: str,
        in_channels: int,
        width: int,
    ) -> None:
        super().__init__()
        self.stages, self.stem = stages, stem
        if stem == "imagenet":
            conv = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
            self.conv1 = he_normal(conv)
        else:
            self.conv1 = conv3x3(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        if stem == "imagenet":
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = width
        for index, count in enumerate(stages):
            inside = width * 2**index
            blocks = []
            for position in range(count):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(block(channels, inside, stride))
                channels = inside * block.expansion
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
        self.avgpool = GlobalAvgPool()
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        if self.stem == "imagenet":
            x = self.maxpool(x)
        for stage in range(1, len(self.stages) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.fc(self.avgpool(x))
        return logits

    def chain_units(self) -> dict[str, tuple[str, ...]]:
        """The label of each unit, in order, with the names of the submodules it runs.

        >>> units = resnet18(width=4).chain_units()
        >>> units["stem"], units["3.1"], len(units)
        (('conv1', 'bn1', 'relu'), ('layer3.1',), 9)
        """
        pool = ("maxpool",) if self.stem == "imagenet" else ()
        blocks = {
            f"{stage}.{index}": (f"layer{stage}.{index}",)
            for stage, count in enumerate(self.stages, start=1)
            for index in range(count)
        }
        return {"stem": ("conv1", "bn1", "relu", *pool), **blocks}

    def chain_tail(self) -> tuple[str, ...]:
        """The names of the submodules that run after the last unit, in order."""
        return ("avgpool", "fc")

    def chain_cuts(self) -> dict[int, tuple[str, ...]]:
        """Cuts by number of blocks, from :mod:`localgrad.networks.stage_splits`.

        >>> resnet18(width=4).chain_cuts()[4]
        ('1.1', '2.1', '3.1')
        """
        return stage_cuts(self.stages)


def resnet(
    stages: Sequence[int],
    block: str = "bottleneck",
    num_classes: int = 10,
    stem: str = "cifar",
    in_channels: int = 3,
    width: int = 64,
) -> ResNet:
    """A ResNet of any number of residual blocks in each stage.

    Args:
        stages: residual blocks in each stage, such as ``(3, 4, 6, 3)``.
        block: ``"basic"`` (two 3x3 convolutions) or ``"bottleneck"``.
        num_classes: logits to give.
        stem: ``"cifar"``, a 3x3 convolution of stride 1, or ``"imagenet"``, a 7x7 convolution of
            stride 2 and a max-pool of stride 2.
        in_channels: channels of the images.
        width: channels of the stem and of the first stage's 3x3 convolutions; every later stage
            has twice as many as the one before it.

    Returns:
        The network, newly initialised: convolutions He-normal (fan out), batch norm at weight 1
        and bias 0, the classifier at PyTorch's default.

    Raises:
        LocalgradError: for an option out of range.

    >>> import torch
    >>> network = resnet([1, 1, 1, 1], "basic", num_classes=5, width=4)
    >>> network(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 5])
    """
    if isinstance(stages, str) or not isinstance(stages, Sequence) or not stages:
        raise LocalgradError(f"stages must be a list such as [3, 4, 6, 3]; got {stages!r}")
    check_counts(**{f"stages[{i}]": count for i, count in enumerate(stages)})
    check_counts(num_classes=num_classes, in_channels=in_channels, width=width)
    check_choice("block", block, tuple(BLOCKS))
    check_choice("stem", stem, STEMS)
    return ResNet(tuple(stages), BLOCKS[block], num_classes, stem, in_channels, width)


def resnet18(
    num_classes: int = 10, stem: str = "cifar", in_channels: int = 3, width: int = 64
) -> ResNet:
    """ResNet-18: 9 units, 11.2 million parameters. See :func:`resnet`."""
    return resnet((2, 2, 2, 2), "basic", num_classes, stem, in_channels, width)


def resnet34(
    num_classes: int = 10, stem: str = "cifar", in_channels: int = 3, width: int = 64
) -> ResNet:
    """ResNet-34: 17 units, 21.3 million parameters. See :func:`resnet`."""
    return resnet((3, 4, 6, 3), "basic", num_classes, stem, in_channels, width)


def resnet50(
    num_classes: int = 10, stem: str = "cifar", in_channels: int = 3, width: int = 64
) -> ResNet:
    """ResNet-50: 17 units, 23.5 million parameters. See :func:`resnet`."""
    return resnet((3, 4, 6, 3), "bottleneck", num_classes, stem, in_channels, width)


def resnet101(
    num_classes: int = 10, stem: str = "cifar", in_channels: int = 3, width: int = 64
) -> ResNet:
    """ResNet-101: 34 units, 42.5 million parameters. See :func:`resnet`."""
    return resnet((3, 4, 23, 3), "bottleneck", num_classes, stem, in_channels, width)


def resnet152(
    num_classes: int = 10, stem: str = "cifar", in_channels: int = 3, width: int = 64
) -> ResNet:
    """ResNet-152: 51 units, 58.2 million parameters. See :func:`resnet`."""
    return resnet((3, 8, 36, 3), "bottleneck", num_classes, stem, in_channels, width)
