"""Whether heads and losses can be built where a decoupling puts them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from localgrad import heads, losses
from localgrad.chain import Chain
from localgrad.decoupling import Decoupling
from localgrad.errors import LocalgradError
from localgrad.model_state import device_of, dtype_of, evaluation
from localgrad.site import Site


def check_parts(decoupling: Decoupling) -> None:
    """Refuse heads and losses that nobody knows.

    Raises:
        LocalgradError: names the block and what is known.
    """
    for k, block in enumerate(decoupling.blocks):
        try:
            if block.head is not None:
                losses.resolve(block.head.name, "head", heads.HEADS)
            losses.build(block.loss, losses.Goal(F.cross_entropy, 2))
        except LocalgradError as error:
            raise LocalgradError(f"block {k}: {error}") from error


def check_heads(
    decoupling: Decoupling,
    chain: Chain,
    shapes: Sequence[torch.Size],
    out: torch.Size,
    example_input: Tensor,
) -> None:
    """Build every head where it is to stand, run it once, and forget it.

    Args:
        decoupling: for the chain.
        chain: the network; it and the random state stay as they are.
        shapes, out: what :meth:`Chain.shapes` returns.
        example_input: a batch for the network.

    Raises:
        LocalgradError: a head does not fit the shape that it stands at; names the block and unit.
    """
    classes, tokens = (out[-1] if out else 0), (out[0] if len(out) == 2 else None)
    device = device_of(chain.model)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        for k, block in enumerate(decoupling.blocks):
            if block.head is None:
                continue
            unit = block.stop - 1
            site = Site(chain, unit, list(shapes), classes, example_input.shape[1:], tokens)
            try:
                head = heads.placed(heads.build(block.head, site), chain.model)
                with evaluation(head.modules()):
                    head(torch.zeros(2, *shapes[unit], dtype=dtype_of(chain.model), device=device))
            except (LocalgradError, RuntimeError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise LocalgradError(
                    f"block {k}: its head {block.head.name!r} does not fit where it comes to "
                    f"stand, after unit {chain.names[unit]!r} with shape {tuple(shapes[unit])}: "
                    f"{reason}; give the block another head in the file, such as pool_linear"
                ) from error
