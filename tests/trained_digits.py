"""A small network on the digits, and the plain loop that every adapter must equal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from localgrad import LocalLearner, decouple

RATE, MOMENTUM, BATCH = 0.1, 0.9, 32


def digits(count: int = 320, dtype: torch.dtype = torch.float32) -> TensorDataset:
    data = load_digits()
    images = torch.from_numpy(data.images[:count]).to(dtype)[:, None] / 16
    return TensorDataset(images, torch.from_numpy(data.target[:count]))


def loader(data: TensorDataset, size: int = BATCH) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(data, size)


def network(norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


class Named(nn.Module):
    """The network with a forward of transformers' kind."""

    main_input_name = "pixel_values"

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = network() if net is None else net

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(pixel_values)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def learner(model: nn.Module | None = None, method: Any = "backlink") -> LocalLearner:
    """Cut in three; the heads are the same in every call."""
    model = network() if model is None else model
    torch.manual_seed(1)
    example = torch.rand(2, 1, 8, 8, dtype=next(model.parameters()).dtype)
    return decouple(model, method, blocks=3, example_input=example)


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, RATE, momentum=MOMENTUM)


def plain_loop(
    one: LocalLearner,
    data: TensorDataset,
    epochs: int = 2,
    accumulate: int = 1,
    clip: float | None = None,
    decay: Callable[[int], float] | None = None,
    scale: float | None = None,
) -> LocalLearner:
    """Train with mean gradients over ``accumulate`` batches; the last update of an epoch may have
    fewer. ``decay``: factor on the learning rate by the number of updates; ``scale``: in fp16,
    where a scaler starts."""
    scaler = torch.amp.GradScaler("cpu", enabled=scale is not None, init_scale=scale or 1.0)
    half = torch.autocast("cpu", torch.float16, enabled=scale is not None)
    optimizer = sgd(one.parameters())
    updates = 0
    for _ in range(epochs):
        batches = list(loader(data))
        for start in range(0, len(batches), accumulate):
            together = batches[start : start + accumulate]
            for x, y in together:
                if scale is None:  # another precision may be around it
                    one.step(x, y)
                else:
                    with half:
                        one.step(x, y, scaler=scaler)
            for p in one.parameters():
                if p.grad is not None and len(together) > 1:
                    p.grad /= len(together)
            scaler.unscale_(optimizer)
            if clip is not None:
                nn.utils.clip_grad_norm_(one.parameters(), clip)
            if decay is not None:
                optimizer.param_groups[0]["lr"] = RATE * decay(updates)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            updates += 1
    return one


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules hold the same bits, buffers included."""
    pairs = list(zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    return len(pairs) > 0 and all(torch.equal(a, b) for a, b in pairs)


def accuracy(model: nn.Module, data: TensorDataset) -> float:
    x, y = data.tensors
    training = model.training
    with torch.no_grad():
        out = model.eval()(x)
    model.train(training)
    logits = out["logits"] if isinstance(out, dict) else out
    return float((logits.argmax(1) == y).float().mean())
