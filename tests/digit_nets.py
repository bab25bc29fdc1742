"""Networks for the digits that a user might name by import path, most of them with a catch."""

from __future__ import annotations

from torch import nn

from localgrad import decouple


def mlp(hidden: int = 16) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(64, hidden), nn.ReLU()),
        *(nn.Linear(hidden, hidden), nn.ReLU()),
        *(nn.Linear(hidden, hidden), nn.ReLU()),
        nn.Linear(hidden, 10),
    )


def dropout() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.3)),
        *(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.3)),
        nn.Linear(16, 10),
    )


def colour_mlp() -> nn.Module:
    """For images of 32x32x3, which digits are not."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), nn.ReLU(), nn.Linear(16, 10))


def seven_classes() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 7))


def tied() -> nn.Module:
    """Two layers with one weight."""
    model = mlp()
    model[3].weight = model[5].weight
    return model


_kept: list[object] = []


def decoupled() -> nn.Module:
    model = mlp()
    _kept.append(decouple(model, "backprop"))
    return model


def no_module() -> object:
    return "a network"


def failing() -> nn.Module:
    raise RuntimeError("no licence\nfor this network")


def two_classes() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.3)),
        *(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.3)),
        nn.Linear(16, 2),
    )
