"""Auxiliary networks (heads), built from the shape of what a block hands over.

A head builder is called as ``builder(site, **options)`` and returns a module from the block's
output, in the order of ``site.shape``, to logits ``(batch, classes)``, or to a
:class:`~localgrad.losses.HeadOutput`. A builder of one's own is any importable callable with that
signature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localgrad.decoupling import Part
from localgrad.errors import LocalgradError
from localgrad.layers import GlobalAvgPool
from localgrad.layout import Arrange, pool_for
from localgrad.losses import HeadOutput, resolve
from localgrad.recompute import run_units
from localgrad.renewal import like
from localgrad.site import Site


def pool_linear(site: Site) -> nn.Module:
    """Global average pool (for tokens: a norm) and one linear layer."""
    return nn.Sequential(site.pool(), nn.Linear(site.width, site.classes))


def _conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _conv_features(site: Site) -> tuple[list[nn.Module], int]:
    """InfoPro's auxiliary convolution, up to the pooled vector and its width.

    Channels double, with stride 2, until the width of the last stage is reached.
    """
    if not site.is_map:
        return [site.pool()], site.width
    last = site.last_width
    grows = site.width < last
    width = min(2 * site.width, last) if grows else site.width
    stride = 2 if grows and min(site.shape[1:]) > 1 else 1
    return [*_conv_bn_relu(site.width, width, 3, stride), GlobalAvgPool()], width


def conv_mlp(site: Site, features: int = 128) -> nn.Module:
    """InfoPro's "1c2f": 3x3 convolution, BN, ReLU, pool, linear, ReLU, linear.

    Tokens have no convolution, which would look ahead: norm, linear, ReLU, linear.
    """
    layers, width = _conv_features(site)
    layers += [nn.Linear(width, features), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(features, site.classes))


def dgl(site: Site) -> nn.Module:
    """DGL's head: pool to a quarter, three 1x1 convolutions, pool to 2x2, two hidden layers."""
    site.only_whole_inputs("dgl")
    layers: list[nn.Module] = [] if site.is_map else [site.pool()]
    width = site.width
    if site.is_map:
        height, breadth = (math.ceil(size / 4) for size in site.shape[1:])
        layers.append(nn.AdaptiveAvgPool2d((height, breadth)))
        for _ in range(3):
            layers += _conv_bn_relu(width, width, 1)
        height, breadth = min(2, height), min(2, breadth)
        layers += [nn.AdaptiveAvgPool2d((height, breadth)), nn.Flatten()]
        width *= height * breadth
    for _ in range(2):
        layers += [
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.Linear(width, site.classes))


class PredSimHead(nn.Module):
    """A convolution for the similarity matrix beside a pooled linear classifier."""

    def __init__(self, similarity: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.similarity, self.classifier = similarity, classifier

    def forward(self, x: Tensor) -> HeadOutput:
        """Return logits ``(batch, classes)`` and features of the input's shape."""
        return HeadOutput(logits=self.classifier(x), features=self.similarity(x))


def _pooled(size: int, pool: int) -> int:
    return math.ceil(size / pool)


def predsim(site: Site, values: int = 2048) -> nn.Module:
    """PredSim's head: a 3x3 convolution for the similarity, and a linear classifier.

    The classifier sees the map pooled to at most ``values`` numbers (the pool's height and width
    double in turn) and starts at zero, as in the released code.
    """
    site.only_whole_inputs("predsim")
    if not site.is_map:
        linear = nn.Linear(site.width, site.classes)
        nn.init.zeros_(linear.weight)
        head = PredSimHead(nn.Linear(site.width, site.width, bias=False), linear)
        return head if len(site.shape) == 1 else nn.Sequential(site.pool(), head)
    width, height, breadth = site.shape
    pool = [1, 1]
    while width * _pooled(height, pool[0]) * _pooled(breadth, pool[1]) > values:
        if pool[0] >= height and pool[1] >= breadth:
            break
        pool[0 if pool[0] <= pool[1] else 1] *= 2
    inputs = width * _pooled(height, pool[0]) * _pooled(breadth, pool[1])
    average = nn.AvgPool2d((pool[0], pool[1]), ceil_mode=True)
    linear = nn.Linear(inputs, site.classes)
    nn.init.zeros_(linear.weight)
    classifier = nn.Sequential(average, nn.Flatten(), linear)
    similarity = nn.Conv2d(width, width, 3, padding=1, bias=False)
    return PredSimHead(similarity, classifier)


class Decoder(nn.Module):
    """InfoPro's decoder: resize to the image, 3x3 convolution to 12, BN, ReLU, 3x3 to the image."""

    def __init__(self, width: int, image: torch.Size, hidden: int = 12) -> None:
        super().__init__()
        self.size = tuple(image[1:])
        conv = nn.Conv2d(hidden, image[0], 3, padding=1)
        self.layers = nn.Sequential(
            nn.Conv2d(width, hidden, 3, padding=1),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            conv,
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return an image in 0..1, ``(batch, channels, height, width)``."""
        if x.shape[2:] != self.size:
            x = F.interpolate(x, size=self.size, mode="bilinear", align_corners=True)
        *layers, squash = self.layers
        for layer in layers:
            x = layer(x)
        # in fp16 a sigmoid is soon 1 to the last bit, where the loss has no finite gradient
        image: Tensor = squash(x.to(torch.promote_types(x.dtype, torch.float32)))
        return image


class InfoProHead(nn.Module):
    """A decoder, and features for the contrast or logits for the task; either may be absent."""

    def __init__(self, decoder: nn.Module | None, classifier: nn.Module | None, mode: str) -> None:
        super().__init__()
        self.decoder, self.classifier, self.mode = decoder, classifier, mode

    def forward(self, x: Tensor) -> HeadOutput:
        """Run the branches that there are."""
        image = None if self.decoder is None else self.decoder(x)
        scores = None if self.classifier is None else self.classifier(x)
        if self.mode == "contrast":
            return HeadOutput(features=scores, image=image)
        return HeadOutput(logits=scores, image=image)


def infopro(site: Site, decode: bool, classify: bool, mode: str, features: int = 128) -> nn.Module:
    """InfoPro's two branches; ``mode`` is ``"contrast"`` or ``"softmax"``."""
    site.only_whole_inputs("infopro")
    if decode and not (site.is_map and len(site.image) == 3):
        raise LocalgradError("InfoPro's decoder needs feature maps and images")
    decoder = Decoder(site.width, site.image) if decode else None
    classifier = None
    if classify:
        layers, width = _conv_features(site)
        layers += [nn.Linear(width, features), nn.ReLU(inplace=True)]
        outputs = features if mode == "contrast" else site.classes
        classifier = nn.Sequential(*layers, nn.Linear(features, outputs))
    return InfoProHead(decoder, classifier, mode)


class Copies(nn.Sequential):
    """Copies of later units, then a classifier: AugLocal's head.

    Where its block recomputes activations, so do three or more copies, but for the last one, whose
    activations are needed first of all. (ResNet-32, K=16: that halves the peak at a depth of 6 for
    18 % more FLOPs; of two copies it would gain nothing.)

    ``ahead`` is the number of copies before the last one.
    """

    ahead: int = 0
    checkpoint: str | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        how = self.checkpoint if self.ahead > 1 and torch.is_grad_enabled() else None
        layers = list(self)
        x = run_units(layers[: self.ahead], x, how)
        for layer in layers[self.ahead :]:
            x = layer(x)
        return x


def auglocal(site: Site, units: list[str]) -> nn.Module:
    """AugLocal's head: fresh copies of later ``units``, pool, linear (BN before it if one copy).

    A copy takes a stride of 2 where what comes in is larger than what the unit itself returns;
    where it is more than twice as large, the next copy takes the next halving. In the CIFAR
    ResNets that is where the width steps up, which is what the released code looks at.
    """
    copies: list[nn.Module] = []
    arrange, shape = site.arrange, site.shapes[site.unit]
    weight = next(p for p in site.chain.model.parameters() if p.is_floating_point())
    for name in units:
        index = site.chain.index(name)
        seen, wanted = arrange.shape(shape), replace(site, unit=index)
        maps = len(seen) == 3 and wanted.is_map
        stride = 2 if maps and max(seen[1:]) > max(wanted.shape[1:]) else 1
        copy = like(site.chain.units[index], shape, stride, arrange.axis)
        with torch.no_grad():
            copy.eval()
            shape = copy(weight.new_zeros(2, *shape)).shape[1:]
            copy.train()
        copies.append(copy)
        arrange = Arrange(wanted.arrange.axis, len(shape))
    seen = arrange.shape(shape)
    width = seen[0] if len(seen) == 3 else seen[-1]
    order = [arrange] if arrange.needed else []
    single = len(units) == 1 and site.tokens is None
    norm = [nn.BatchNorm1d(width)] if single else []
    pool = replace(site, unit=site.chain.index(units[-1])).pool() if site.tokens else pool_for(seen)
    end = nn.Linear(width, site.classes)
    head = Copies(*copies, *order, pool, *norm, end)
    head.ahead = len(copies) - 1
    return head


HEADS: dict[str, Callable[..., nn.Module]] = {
    "pool_linear": pool_linear,
    "conv_mlp": conv_mlp,
    "dgl": dgl,
    "predsim": predsim,
    "infopro": infopro,
    "auglocal": auglocal,
}


def build(part: Part, site: Site) -> nn.Module:
    """Make the head that ``part`` names; convolutions start He-normal (fan out).

    Raises:
        LocalgradError: the head is unknown, cannot be imported, or refuses its options.
    """
    builder: Any = resolve(part.name, "head", HEADS)
    try:
        head: nn.Module = builder(site, **part.options)
    except TypeError as error:
        raise LocalgradError(f"head {part}: {error}") from error
    if not isinstance(head, nn.Module):
        raise LocalgradError(f"head {part} is a {type(head).__name__}: a builder returns a module")
    if site.arrange.needed and part.name != "auglocal":  # its copies take what units take
        head = nn.Sequential(site.arrange, head)
    if part.name in HEADS:
        for module in head.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return head


def placed(head: nn.Module, model: nn.Module) -> nn.Module:
    """Give a head the model's device, precision and memory layout."""
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    if like is None:
        return head
    head = head.to(like.device, like.dtype)
    maps = [p for p in model.parameters() if p.dim() == 4]
    last = torch.channels_last
    if any(not p.is_contiguous() and p.is_contiguous(memory_format=last) for p in maps):
        head = head.to(memory_format=last)  # type: ignore[call-overload]
    return head
