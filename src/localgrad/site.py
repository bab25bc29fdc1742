"""Where a head stands: what it receives, and what it has to return."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from localgrad.chain import Chain
from localgrad.errors import LocalgradError
from localgrad.layout import Arrange, channel_axis, pool_for


@dataclass(frozen=True)
class Site:
    """Where a head stands.

    Args:
        chain: the network.
        unit: index of the block's last unit, whose output the head receives.
        shapes: output shape of each unit, without the batch dimension.
        classes: size of the network's output.
        image: shape of the network's input, without the batch dimension.
        tokens: number of tokens, where the network scores each of them (a language model); heads
            then do so too.
    """

    chain: Chain
    unit: int
    shapes: list[torch.Size]
    classes: int
    image: torch.Size
    tokens: int | None = None

    @property
    def arrange(self) -> Arrange:
        """The layer that brings the unit's output into the order of :attr:`shape`."""
        raw = self.shapes[self.unit]
        return Arrange(channel_axis(self.chain.units[self.unit], raw), len(raw))

    @property
    def shape(self) -> torch.Size:
        """Shape that the head receives: ``(channels, height, width)``, ``(tokens, channels)`` or
        ``(features,)``, wherever the unit has its channels."""
        return self.arrange.shape(self.shapes[self.unit])

    @property
    def is_map(self) -> bool:
        """Whether the head receives a feature map."""
        return len(self.shape) == 3

    @property
    def width(self) -> int:
        """Channels of a feature map or of a token, or features of a vector."""
        return self.shape[0] if self.is_map else self.shape[-1]

    @property
    def last_width(self) -> int:
        """Channels of the last unit that gives a feature map."""
        maps = [shape for shape in self.shapes if len(shape) == 3]
        return self.arrange.shape(maps[-1])[0] if maps else self.width

    def pool(self) -> nn.Module:
        """Return the layer that leaves ``(batch, width)``: the mean over positions or tokens.

        Where the network scores each token it is a layer norm over ``(batch, tokens, width)``:
        what leaves a transformer's layer grows from layer to layer, and the network's own scores
        have a norm before them too.
        """
        if not self.shape:
            raise LocalgradError(
                f"a head at unit {self.chain.names[self.unit]!r} got one number per input: "
                "expected channels"
            )
        if self.tokens is None:
            return pool_for(self.shape)
        if len(self.shape) != 2 or self.shape[0] != self.tokens:
            raise LocalgradError(
                f"the network scores each of {self.tokens} tokens, but unit "
                f"{self.chain.names[self.unit]!r} returns {tuple(self.shape)}: cut elsewhere"
            )
        return nn.LayerNorm(self.width)

    def only_whole_inputs(self, head: str) -> None:
        """Refuse a network that scores every token."""
        if self.tokens is not None:
            raise LocalgradError(
                f"head {head!r} scores whole inputs, the network scores each token: use "
                "'pool_linear', 'conv_mlp' or 'auglocal'"
            )
