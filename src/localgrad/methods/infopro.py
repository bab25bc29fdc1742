"""InfoPro: information propagation loss (Wang et al., ICLR 2021, arXiv 2101.10832).

    L_k = l1_k * BCE(decoder_k(x_k), image) + l2_k * (contrast(head_k(x_k), y) or cross-entropy)

l1 and l2 go linearly from the first block's pair to that of the last block with a head. The
published pairs (CIFAR-10, contrast) are the default for ResNet-32 (16 units) and ResNet-110
(55 units); other chains take ResNet-32's pair of the nearest K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

from localgrad.chain import Chain
from localgrad.decoupling import Decoupling, Part
from localgrad.errors import LocalgradError
from localgrad.methods.blocks import every_unit, local_blocks

Pair = tuple[float, float]

# (units, K): (l1, l2) of the first block, of the last one with a head; released code
PUBLISHED: dict[tuple[int, int], tuple[Pair, Pair]] = {
    (16, 2): ((5, 1), (5, 1)),
    (16, 4): ((6, 0), (1, 2)),
    (16, 8): ((5, 0), (0, 2)),
    (16, 16): ((5, 0.05), (0.2, 0.5)),
    (55, 2): ((5, 0.5), (5, 0.5)),
    (55, 4): ((1, 0), (0, 1)),
    (55, 8): ((5, 0), (0, 1)),
    (55, 16): ((5, 0), (0.5, 1)),
}


@dataclass(frozen=True)
class InfoPro:
    """Isolated blocks that keep information about the image while they learn the classes.

    Args:
        mode: ``"contrast"`` (supervised contrast on 128 features) or ``"softmax"`` (task loss).
        first, last: (l1, l2) of the first block and of the last one with a head; None: published.
        mean, std: per-channel normalisation of the images, which the decoder's target undoes.
    """

    mode: str = "contrast"
    first: Sequence[float] | None = None
    last: Sequence[float] | None = None
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    name: ClassVar[str] = "infopro"

    def __post_init__(self) -> None:
        if self.mode not in ("contrast", "softmax"):
            raise LocalgradError(f"InfoPro mode={self.mode!r}: must be 'contrast' or 'softmax'")
        for key in ("first", "last"):
            pair = getattr(self, key)
            if pair is not None and (len(pair) != 2 or min(pair) < 0 or max(pair) <= 0):
                raise LocalgradError(
                    f"InfoPro {key}={pair}: give two numbers >= 0, at least one of them > 0"
                )

    def pairs(self, units: int, blocks: int) -> list[Pair]:
        """Return (l1, l2) of each block with a head.

        >>> InfoPro(first=(6, 0), last=(1, 2)).pairs(16, 4)
        [(6.0, 0.0), (3.5, 1.0), (1.0, 2.0)]
        """
        size = units if units in (16, 55) else 16
        nearest = min((2, 4, 8, 16), key=lambda k: abs(k - blocks))
        published = PUBLISHED[size, nearest]
        first, last = self.first or published[0], self.last or published[1]
        steps = max(blocks - 2, 1)
        return [
            (
                first[0] + (last[0] - first[0]) * k / steps,
                first[1] + (last[1] - first[1]) * k / steps,
            )
            for k in range(blocks - 1)
        ]

    def __call__(self, chain: Chain, cuts: tuple[int, ...] | None) -> Decoupling:
        """Return isolated blocks, by default one a unit."""
        ends = every_unit(chain, cuts)
        pairs = self.pairs(len(chain), len(ends))

        def head(k: int) -> Part:
            decode, classify = (weight > 0 for weight in pairs[k])
            return Part("infopro", {"decode": decode, "classify": classify, "mode": self.mode})

        def loss(k: int) -> Part:
            reconstruct, classify = pairs[k]
            options = {"reconstruct": reconstruct, "classify": classify}
            return Part("infopro", {**options, "mean": list(self.mean), "std": list(self.std)})

        blocks = local_blocks(ends, head, loss)
        options = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return Decoupling(self.name, chain.names, blocks, options)
