"""GPT-2 (Radford et al. 2019) in any size, as transformers builds it from a configuration."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from localgrad.errors import LocalgradError


def gpt(
    vocabulary: int,
    context: int,
    layers: int = 6,
    width: int = 96,
    heads: int = 4,
    dropout: float = 0.0,
    tied: bool = True,
) -> nn.Module:
    """transformers' ``GPT2LMHeadModel`` with random weights.

    It takes tokens, ``(batch, tokens)``, and returns an object with ``logits``, ``(batch, tokens,
    vocabulary)``.

    Args:
        vocabulary: number of different tokens.
        context: the longest row of tokens.
        layers: transformer layers.
        width: of a token's vector.
        heads: attention heads; they divide the width.
        dropout: of embeddings, attention and layers' outputs, 0..1.
        tied: one weight for the embedding and the last layer, as in GPT-2.

    Raises:
        LocalgradError: transformers is not installed, or a size does not fit.
    """
    sizes = {"vocabulary": vocabulary, "context": context, "layers": layers, "width": width,
             "heads": heads}  # fmt: skip
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise LocalgradError(f"gpt {name}={value!r}: must be a whole number of at least 1")
    if width % heads:
        raise LocalgradError(f"gpt heads={heads}: must divide the width, {width}")
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise LocalgradError(f"gpt dropout={dropout!r}: must be a number from 0 to below 1")
    if not isinstance(tied, bool):
        raise LocalgradError(f"gpt tied={tied!r}: must be true or false")
    library = _library()
    config = library.GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        resid_pdrop=dropout,
        tie_word_embeddings=tied,
        use_cache=False,
        bos_token_id=None,  # a text has no such marks
        eos_token_id=None,
    )
    model: nn.Module = library.GPT2LMHeadModel(config)
    return model


def _library() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise LocalgradError(
            "to build gpt, transformers must be installed: pip install localgrad[transformers]"
        ) from error
