"""PredSim (Nokland & Eidnes, ICML 2019, arXiv 1901.06656).

    L_k = (1 - beta) * MSE(S(conv_k(x_k)), S(onehot(y))) + beta * task_loss(head_k(x_k), y)

with S the matrix of cosine similarities between the rows of the batch and beta = 0.01. The loss
depends on the batch size. The classifier's weights start at zero, as in the authors' code; there
the last layer's task loss is scaled by beta too (with an optimizer of its own), here it is not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

from localgrad.chain import Chain
from localgrad.decoupling import Decoupling, Part
from localgrad.errors import LocalgradError
from localgrad.methods.blocks import every_unit, local_blocks


@dataclass(frozen=True)
class PredSim:
    """Isolated blocks with a similarity-matching and a prediction loss.

    Args:
        beta: weight of the prediction loss, 0..1.
        values: the classifier sees the feature map pooled to at most so many numbers.
    """

    beta: float = 0.01
    values: int = 2048
    name: ClassVar[str] = "predsim"

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise LocalgradError(f"PredSim beta={self.beta}: must be between 0 and 1")
        if self.values < 1:
            raise LocalgradError(f"PredSim values={self.values}: must be at least 1")

    def __call__(self, chain: Chain, cuts: tuple[int, ...] | None) -> Decoupling:
        """Return isolated blocks, by default one a unit."""
        blocks = local_blocks(
            every_unit(chain, cuts),
            lambda k: Part("predsim", {"values": self.values}),
            lambda k: Part("predsim", {"beta": self.beta}),
        )
        return Decoupling(self.name, chain.names, blocks, asdict(self))
