"""timm's models by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from localgrad.networks.library import Facts, built, imported, unknown


def names() -> list[str]:
    """The models that timm builds."""
    timm: Any = imported("timm", "vision")
    return list(timm.list_models())


def load(name: str, facts: Facts | None, options: dict[str, Any]) -> nn.Module:
    """Build timm's model called ``name``, without pretrained weights unless options ask for them.

    Args:
        name: as in ``timm.list_models()``, with a pretrained tag or without.
        facts: of the data: classes, channels and, where a model is built for one image size, that
            size. Options win.
        options: keyword arguments of ``timm.create_model``.
    """
    timm: Any = imported("timm", "vision")
    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models())
    given: dict[str, Any] = {"pretrained": False}
    if facts is not None:
        given |= {"num_classes": facts.num_classes, "in_chans": facts.in_channels}
        about = timm.get_pretrained_cfg(name)
        if about is not None and about.fixed_input_size:
            given["img_size"] = facts.image_size
    return built(f"timm:{name}", lambda: timm.create_model(name, **{**given, **options}))
