"""VGG-11, 13, 16 and 19 with batch norm.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR
2015, table 1, columns A, B, D and E. For small images, BWBPF (Cheng et al., ICASSP 2024, released
code ``distributed/VGG.py``) and most work on CIFAR take the convolutions with bias and batch norm,
and one linear layer in place of the three of the paper: ``classifier="linear"``. The paper's
classifier is ``"mlp"``, as torchvision builds it. Parameters are named as torchvision names them.
"""

from __future__ import annotations

from torch import Tensor, nn

from localgrad.errors import LocalgradError
from localgrad.layers import GlobalAvgPool
from localgrad.networks.option_checks import check_choice, check_counts
from localgrad.networks.residual_block import he_normal
from localgrad.networks.stage_splits import stage_cuts

#: Depth to convolutions in each of the five stages, which end in a max-pool.
STAGES = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
CLASSIFIERS = ("linear", "mlp")


class VGG(nn.Module):
    """Convolutions in five stages, each with a max-pool at its end; built by :func:`vgg`.

    Maps images ``(batch, in_channels, height, width)``, of 32 pixels or more a side, to logits
    ``(batch, num_classes)``. A unit is a convolution with its batch norm and ReLU, and with the
    max-pool that follows.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int,
        in_channels: int,
        width: int,
        classifier: str,
        batch_norm: bool,
        hidden: int,
    ) -> None:
        super().__init__()
        self.stages = STAGES[depth]
        self._units: dict[str, tuple[str, ...]] = {}
        layers: list[nn.Module] = []
        channels = in_channels
        for stage, count in enumerate(self.stages, start=1):
            inside = width * min(2 ** (stage - 1), 8)
            for index in range(count):
                first = len(layers)
                conv = he_normal(nn.Conv2d(channels, inside, 3, padding=1))
                assert conv.bias is not None
                nn.init.zeros_(conv.bias)
                layers.append(conv)
                if batch_norm:
                    layers.append(nn.BatchNorm2d(inside))
                layers.append(nn.ReLU(inplace=True))
                if index == count - 1:
                    layers.append(nn.MaxPool2d(2, stride=2))
                parts = tuple(f"features.{i}" for i in range(first, len(layers)))
                self._units[f"{stage}.{index}"] = parts
                channels = inside
        self.features = nn.Sequential(*layers)
        self.classifier: nn.Module
        if classifier == "mlp":
            self.avgpool: nn.Module = nn.AdaptiveAvgPool2d((7, 7))
            self.flatten = nn.Flatten()
            self.classifier = _mlp(channels * 7 * 7, hidden, num_classes)
            self._tail: tuple[str, ...] = ("avgpool", "flatten", "classifier")
        else:
            self.avgpool = GlobalAvgPool()
            self.classifier = nn.Linear(channels, num_classes)
            self._tail = ("avgpool", "classifier")

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        for name in self._tail:
            x = self.get_submodule(name)(x)
        return x

    def chain_units(self) -> dict[str, tuple[str, ...]]:
        """The label of each unit, in order, with the names of the submodules it runs.

        >>> vgg11(width=4).chain_units()["1.0"]
        ('features.0', 'features.1', 'features.2', 'features.3')
        """
        return dict(self._units)

    def chain_tail(self) -> tuple[str, ...]:
        """The names of the submodules that run after the last unit, in order."""
        return self._tail

    def chain_cuts(self) -> dict[int, tuple[str, ...]]:
        """Cuts by number of blocks: BWBPF's five stages, and one convolution each.

        >>> vgg19(width=4).chain_cuts()[5]
        ('1.1', '2.1', '3.3', '4.3')
        """
        return stage_cuts(self.stages)


def _mlp(features: int, hidden: int, num_classes: int) -> nn.Sequential:
    linears = (nn.Linear(features, hidden), nn.Linear(hidden, hidden))
    last = nn.Linear(hidden, num_classes)
    for linear in (*linears, last):
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
    layers: list[nn.Module] = []
    for linear in linears:
        layers += [linear, nn.ReLU(inplace=True), nn.Dropout(0.5)]
    return nn.Sequential(*layers, last)


def vgg(
    depth: int,
    num_classes: int = 10,
    in_channels: int = 3,
    width: int = 64,
    classifier: str = "linear",
    batch_norm: bool = True,
    hidden: int = 4096,
) -> VGG:
    """A VGG with ``depth`` layers, counted as in the paper.

    Args:
        depth: 11, 13, 16 or 19.
        num_classes: logits to give.
        in_channels: channels of the images.
        width: channels of the first stage; the later ones have 2, 4, 8 and 8 times as many.
        classifier: ``"linear"``, global average pool and one linear layer (for small images), or
            ``"mlp"``, the paper's three linear layers on a map of 7x7.
        batch_norm: after every convolution, as in BWBPF's code; the paper has none.
        hidden: width of the hidden layers of ``"mlp"``.

    Returns:
        The network, newly initialised: convolutions He-normal (fan out) with bias 0, batch norm
        at weight 1 and bias 0, the linear classifier at PyTorch's default, the layers of
        ``"mlp"`` with a standard deviation of 0.01.

    Raises:
        LocalgradError: for an option out of range.

    >>> import torch
    >>> vgg(11, num_classes=5, width=4)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 5])
    """
    if depth not in STAGES:
        raise LocalgradError(f"depth must be one of {', '.join(map(str, STAGES))}; got {depth!r}")
    check_counts(num_classes=num_classes, in_channels=in_channels, width=width, hidden=hidden)
    check_choice("classifier", classifier, CLASSIFIERS)
    return VGG(depth, num_classes, in_channels, width, classifier, batch_norm, hidden)


def vgg11(
    num_classes: int = 10,
    in_channels: int = 3,
    width: int = 64,
    classifier: str = "linear",
    batch_norm: bool = True,
    hidden: int = 4096,
) -> VGG:
    """VGG-11: 8 units, 9.2 million parameters. See :func:`vgg`."""
    return vgg(11, num_classes, in_channels, width, classifier, batch_norm, hidden)


def vgg13(
    num_classes: int = 10,
    in_channels: int = 3,
    width: int = 64,
    classifier: str = "linear",
    batch_norm: bool = True,
    hidden: int = 4096,
) -> VGG:
    """VGG-13: 10 units, 9.4 million parameters. See :func:`vgg`."""
    return vgg(13, num_classes, in_channels, width, classifier, batch_norm, hidden)


def vgg16(
    num_classes: int = 10,
    in_channels: int = 3,
    width: int = 64,
    classifier: str = "linear",
    batch_norm: bool = True,
    hidden: int = 4096,
) -> VGG:
    """VGG-16: 13 units, 14.7 million parameters. See :func:`vgg`."""
    return vgg(16, num_classes, in_channels, width, classifier, batch_norm, hidden)


def vgg19(
    num_classes: int = 10,
    in_channels: int = 3,
    width: int = 64,
    classifier: str = "linear",
    batch_norm: bool = True,
    hidden: int = 4096,
) -> VGG:
    """VGG-19: 16 units, 20.0 million parameters. See :func:`vgg`."""
    return vgg(19, num_classes, in_channels, width, classifier, batch_norm, hidden)
