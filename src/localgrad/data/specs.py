"""What is published about each data set: where it lies, how it is fed, how it is augmented.

Class names, counts and sizes are read from the data. What stands here is what the data cannot
say. Sources of the augmentation: [I] InfoPro's released ``train.py`` (CIFAR, SVHN, STL-10), which
AugLocal's repeats; [B] BWBPF's released ``Main_tinyImage.py``; [A] AugLocal's released
``imagenet_DDP.py``; [H] He et al. 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Padding = Literal["reflect", "zero"]
Crop = Literal["pad", "resized"]


@dataclass(frozen=True)
class Spec:
    """A data set, or a kind of one's own.

    Attributes:
        name: what ``load`` takes.
        hub_name: the repository on the Hugging Face hub; ``None`` for one's own files.
        config: its configuration on the hub, which is also a folder of the repository.
        hub_files: pattern of the files to download, where the repository has more than we need;
            ``{split}`` stands for the split.
        label_column: the column of the labels in parquet files.
        test_split: the split to test on.
        classes: names of the classes, to put image folders in the published order; ``None``
            where the folders' own order is the published one.
        channels: 3 for colour, 1 for grey; ``None`` where the data says.
        mean: of each channel, 0 to 1; ``None`` to measure it on the training images.
        std: in the same units; ``None`` to measure it.
        crop: ``"pad"``: pad, then crop to the image's size. ``"resized"``: a random part of
            the image, resized (Szegedy et al. 2015, section 6); needs streaming.
        pad: pixels on each side; ``None`` for an eighth of the image's shorter side.
        padding: what the pad holds: the mirrored image, or zeros (black).
        flip: whether training images are mirrored left to right at random.
        size: pixels on each side of the images fed; ``None`` for their own.
        stream: whether images are read while training instead of held in memory.
        is_lossless: whether the authors published exact pixels, so that JPEG files are a copy.
    """

    name: str
    hub_name: str | None = None
    config: str | None = None
    hub_files: str | None = None
    label_column: str = "label"
    test_split: str = "test"
    classes: tuple[str, ...] | None = None
    channels: int | None = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: Crop = "pad"
    pad: int | None = 4
    padding: Padding = "reflect"
    flip: bool = True
    size: int | None = None
    stream: bool = False
    is_lossless: bool = False


FASHION_MNIST_CLASSES = (
    *("T - shirt / top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

_SPECS = (
    # Krizhevsky 2009. Reflection as in [I]; BWBPF's code pads with zeros, as [H] (section 4.2).
    Spec(
        name="cifar10",
        hub_name="uoft-cs/cifar10",
        config="plain_text",
        classes=(
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        is_lossless=True,
    ),
    # The hundred fine labels.
    Spec(
        name="cifar100",
        hub_name="uoft-cs/cifar100",
        config="cifar100",
        label_column="fine_label",
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        is_lossless=True,
    ),
    # Netzer et al. 2011: the 73,257 cropped digits, without the extra ones; pad 2, no flip [I].
    Spec(
        name="svhn",
        hub_name="ufldl-stanford/svhn",
        config="cropped_digits",
        hub_files="cropped_digits/{split}-*.parquet",
        classes=tuple("0123456789"),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        pad=2,
        padding="zero",
        flip=False,
        is_lossless=True,
    ),
    # Coates et al. 2011: the labelled images; pad 4 and flip [I].
    Spec(
        name="stl10",
        hub_name="tanganke/stl10",
        config="data",
        classes=(
            *("airplane", "bird", "car", "cat", "deer"),
            *("dog", "horse", "monkey", "ship", "truck"),
        ),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        padding="zero",
        is_lossless=True,
    ),
    # Le and Yang 2015. Tested on the validation images: the test labels are not public. Pad 4
    # and flip [B]; its code normalises by CIFAR-10's figures, we by this set's own.
    Spec(
        name="tiny-imagenet",
        hub_name="zh-plus/tiny-imagenet",
        config="data",
        test_split="valid",
        padding="zero",
    ),
    # Russakovsky et al. 2015; [A]. Tested on the 50,000 validation images.
    Spec(
        name="imagenet",
        hub_name="ILSVRC/imagenet-1k",
        config="data",
        hub_files="data/{split}-*.parquet",
        test_split="validation",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        crop="resized",
        size=224,
        stream=True,
    ),
    # Xiao et al. 2017, who augment nothing. Clothes may face either way, so we mirror; the
    # crop is SVHN's, since the objects fill the image.
    Spec(
        name="fashion-mnist",
        hub_name="zalando-datasets/fashion_mnist",
        config="fashion_mnist",
        classes=FASHION_MNIST_CLASSES,
        channels=1,
        mean=(0.2860,),
        std=(0.3530,),
        pad=2,
        padding="zero",
        is_lossless=True,
    ),
    # One's own files: everything is read or measured; CIFAR's crop in proportion.
    Spec(name="folder", channels=None, pad=None),
    Spec(name="parquet", channels=None, pad=None),
)

#: Every data set but ``digits``, by name.
SPECS = MappingProxyType({spec.name: spec for spec in _SPECS})
