"""What the actions of a schedule cost, in seconds and bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from localgrad.errors import LocalgradError
from localgrad.parallel.schedule import Action


@dataclass(frozen=True)
class BlockCosts:
    """One block on one micro-batch.

    Args:
        forward: seconds of the units.
        local: seconds of the backward; in local learning with the head's forward and backward.
        crossing: seconds that the local error takes across the link's segment, where there is one.
        link: seconds of the weight gradients that wait for a link.
        update: seconds of the optimizer, a step.
        border: bytes of the output.
        activations: bytes from the forward until the backward is done, the input included.
        waiting: of those, bytes that stay until the link is done.
        work: most bytes beyond ``activations`` while the block is at work.
        parameters: bytes of parameters, head included.
        state: bytes of gradients and optimizer state.
    """

    forward: float
    local: float
    crossing: float = 0.0
    link: float = 0.0
    update: float = 0.0
    border: int = 0
    activations: int = 0
    waiting: int = 0
    work: int = 0
    parameters: int = 0
    state: int = 0

    @property
    def seconds(self) -> float:
        """Seconds of all that the block does in a step of one micro-batch."""
        return self.forward + self.local + self.crossing + self.link + self.update


@dataclass(frozen=True)
class Costs:
    """Blocks, and what is between ranks.

    Args:
        blocks: in order.
        bandwidth: bytes a second, of each direction between two ranks.
        latency: seconds until a message begins to arrive.
        overlap: messages travel while the sender computes; False: the sender waits until its
            message has arrived.
        targets: bytes of a micro-batch's targets.
        replicas: of each block (data parallelism), among which a reduce runs.

    Raises:
        LocalgradError: a value that is negative or none.
    """

    blocks: tuple[BlockCosts, ...]
    bandwidth: float = math.inf
    latency: float = 0.0
    overlap: bool = True
    targets: int = 0
    replicas: int = 1

    def __post_init__(self) -> None:
        if not self.bandwidth > 0:
            raise LocalgradError(f"bandwidth={self.bandwidth!r}: expected bytes/s above 0")
        if not (self.latency >= 0 and math.isfinite(self.latency)):
            raise LocalgradError(f"latency={self.latency!r}: expected seconds, 0 or more")
        for k, block in enumerate(self.blocks):
            for name, value in vars(block).items():
                if not (value >= 0 and math.isfinite(value)):
                    raise LocalgradError(f"block {k}: {name}={value!r}: expected 0 or more")

    @classmethod
    def alike(cls, blocks: int) -> Costs:
        """Return blocks whose forward, backward and link take a second, and nothing else any."""
        return cls((BlockCosts(1.0, 1.0, link=1.0),) * blocks)

    def seconds(self, action: Action, linked: bool) -> float:
        """Return what an action takes on its device; of a reduce, what it takes in all.

        Args:
            action: no send, no receive.
            linked: the block's last units wait for a link.
        """
        block = self.blocks[action.block]
        if action.kind == "local":
            return block.local + (block.crossing if linked else 0.0)
        if action.kind == "reduce":
            # a ring: each replica sends every part but one twice (Patarasuk & Yuan, 2009)
            hops = 2 * (self.replicas - 1)
            return hops * (self.latency + block.parameters / self.replicas / self.bandwidth)
        times = {
            "forward": block.forward,
            "backward": block.local,
            "link": block.link,
            "step": block.update,
        }
        return times[action.kind]

    def bytes(self, action: Action) -> int:
        """Return what a send, a receive or a reduce carries away from a rank."""
        if action.kind == "reduce":
            parameters = self.blocks[action.block].parameters
            return round(2 * (self.replicas - 1) / self.replicas * parameters)
        if action.what == "targets":
            return self.targets
        # an error is as large as the border that it crosses
        return self.blocks[action.block - (action.what == "error")].border
