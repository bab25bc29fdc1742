"""A vision transformer for small images: timm's, at the size of ViT-Tiny.

Patches of 4x4 make 64 tokens of a 32x32 image. It classifies the mean over tokens rather than a
class token, which plain ViTs of this size learn better from (Beyer, Zhai, Kolesnikov, "Better plain
ViT baselines for ImageNet-1k", 2022, arXiv 2205.01580), and which is what a local head reads too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from localgrad.errors import LocalgradError
from localgrad.networks.library import imported
from localgrad.networks.option_checks import check_counts


def vit_cifar(
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: int | Sequence[int] = 32,
    patch_size: int = 4,
    width: int = 192,
    depth: int = 9,
    heads: int = 3,
    drop_path: float = 0.0,
) -> nn.Module:
    """timm's ``VisionTransformer`` for small images; 4.0 million parameters by default.

    Args:
        num_classes: logits to give.
        in_channels: channels of the images.
        image_size: pixels a side, or (height, width): it takes no other size.
        patch_size: pixels a side of a patch; must divide the image.
        width: features of a token; a multiple of ``heads``.
        depth: transformer layers.
        heads: attention heads of a layer.
        drop_path: stochastic depth, the rate at the last layer.

    Returns:
        timm's module, with timm's names and initial weights.

    Raises:
        LocalgradError: for an option out of range, or where timm cannot be imported.
    """
    check_counts(
        num_classes=num_classes,
        in_channels=in_channels,
        patch_size=patch_size,
        width=width,
        depth=depth,
        heads=heads,
    )
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or any(side < 1 or side % patch_size for side in sides):
        size = "x".join(map(str, sides))
        raise LocalgradError(f"patch_size {patch_size} does not divide images of {size} pixels")
    if width % heads:
        raise LocalgradError(f"width {width} is no multiple of heads {heads}")
    timm: Any = imported("timm", "vision")
    network: nn.Module = timm.models.vision_transformer.VisionTransformer(
        img_size=sides,
        patch_size=patch_size,
        in_chans=in_channels,
        num_classes=num_classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        drop_path_rate=drop_path,
        class_token=False,
        global_pool="avg",
    )
    return network
