"""A recorded step: everything around the recording, with a graph that runs the step anew."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import localgrad
from localgrad import CapturedStep, LocalgradError
from localgrad import methods as M

from zoo import batch, build


class Rerun:
    """Has a CUDA graph's way with memory: what a call made stays in place and is written over."""

    def __init__(self, learner: nn.Module) -> None:
        self.learner = learner

    def record(self, run: Callable[[], Any], warmup: int) -> Any:
        for _ in range(warmup + 1):
            self.out = run()
        self.run = run
        self.gradients = [p.grad for p in self.learner.parameters()]
        return self.out

    def replay(self) -> None:
        out = self.run()
        found = [p.grad for p in self.learner.parameters()]
        for static, new in zip([*self.out, *self.gradients], [*out, *found], strict=True):
            if static is not None:
                static.copy_(new)


class Fails:
    def record(self, run: Callable[[], Any], warmup: int) -> Any:
        raise RuntimeError("operation not permitted: device-side\nmore")

    def replay(self) -> None: ...


def capture(learner: localgrad.LocalLearner, x: Tensor, y: Any, **options: Any) -> CapturedStep:
    return CapturedStep(learner, x, y, graph=Rerun(learner), **options)


def make(rule: M.Method = M.BackLink(), chain: str = "dropout") -> Any:  # noqa: B008
    x, y = batch(chain)
    return localgrad.decouple(build(chain), rule, example_input=x), x, y


def everything(learner: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> list[Tensor]:
    state = [] if optimizer is None else [*optimizer.state.values()]
    tensors = [v for s in state for v in s.values() if isinstance(v, Tensor)]
    return [t.detach().clone() for t in (*learner.state_dict().values(), *tensors)]


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=torch.tensor(0.01), capturable=True),
}


@pytest.fixture(autouse=True)
def _capturable_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch allows ``capturable`` on accelerators alone; the arithmetic needs none."""
    from torch.optim import adam

    monkeypatch.setattr(adam, "_get_capturable_supported_devices", lambda *a, **b: ["cpu"])


def train(name: str, steps_before: int, captured: bool) -> list[Tensor]:
    """Take steps as they are, then three recorded ones or three more; return all that came out."""
    learner, x, y = make()
    optimizer = OPTIMIZERS[name](learner.parameters())
    torch.manual_seed(1)

    def plain(x: Tensor, y: Tensor) -> localgrad.StepOutput:
        learner.zero_grad()
        out: localgrad.StepOutput = learner.step(x, y)
        optimizer.step()
        return out

    for _ in range(steps_before):
        plain(x, y)
    step = plain
    if captured:
        before, random = everything(learner, optimizer), torch.get_rng_state()
        gradients = [p.grad for p in learner.parameters()]
        recorded = capture(learner, x, y, optimizer=optimizer)
        after = everything(learner, optimizer)
        assert all(map(torch.equal, after[: len(before)], before))
        assert not any(t.any() for t in after[len(before) :])  # an optimizer's new state
        assert all(p.grad is g for p, g in zip(learner.parameters(), gradients, strict=True))
        assert torch.equal(torch.get_rng_state(), random)
        step = recorded.step
    outs = [step(x, y) for _ in range(3)]
    results = [t for out in outs for t in (out.logits, *out.losses)]
    return [*everything(learner, optimizer), *results]


@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_recording_changes_nothing_and_trains_alike(name: str, steps_before: int) -> None:
    plain, recorded = (train(name, steps_before, captured) for captured in (False, True))
    assert all(map(torch.equal, plain, recorded))


def test_gradients_are_of_the_batch_alone_and_come_back_after_zero_grad() -> None:
    learner, x, y = make()
    captured = capture(learner, x, y)
    torch.manual_seed(5)
    captured.step(x, y)
    first = [p.grad for p in learner.parameters()]
    values = [g.clone() for g in first if g is not None]
    learner.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    captured.step(x, y)
    again = [p.grad for p in learner.parameters()]
    assert all(a is b for a, b in zip(first, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip((g for g in again if g is not None), values,
                                                 strict=True))  # fmt: skip


def test_outputs_are_not_written_over() -> None:
    learner, x, y = make()
    captured = capture(learner, x, y)
    out = captured.step(x, y)
    kept = out.logits.clone(), [loss.clone() for loss in out.losses]
    captured.step(1 - x, y)
    assert torch.equal(out.logits, kept[0])
    assert all(map(torch.equal, out.losses, kept[1]))


def test_other_batches_modes_and_autocast_run_as_they_are() -> None:
    learner, x, y = make(M.Greedy())
    captured = capture(learner, x, y)
    short = captured.step(x[:3], y[:3])
    assert short.logits.shape[0] == 3
    learner.eval()
    captured.step(x, y)
    learner.train()
    captured.step(x, y.to(torch.int64).clone())
    assert (captured.replays, captured.plain) == (1, 2)
    learner.float()
    single = CapturedStep(learner, x.float(), y, graph=Rerun(learner))
    with torch.autocast("cpu", torch.bfloat16):
        single.step(x.float(), y)
    assert (single.replays, single.plain) == (0, 1)


def test_short_batches_train_with_the_optimizer_too() -> None:
    learner, x, y = make(M.Greedy(), "mlp")
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    other = copy.deepcopy(learner)
    captured = capture(learner, x, y, optimizer=optimizer)
    captured.step(x[:3], y[:3])
    other.step(x[:3], y[:3])
    torch.optim.SGD(other.parameters(), lr=0.1).step()
    assert all(map(torch.equal, everything(learner), everything(other)))


def test_what_would_go_wrong_silently_is_refused() -> None:
    learner, x, y = make()
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    captured = capture(learner, x, y, optimizer=optimizer)
    optimizer.param_groups[0]["lr"] = 0.2
    with pytest.raises(LocalgradError, match="the learning rate changed since"):
        captured.step(x, y)
    captured = capture(learner, x, y)
    next(learner.parameters()).requires_grad_(False)
    with pytest.raises(LocalgradError, match="were moved, replaced, frozen or thawed"):
        captured.step(x, y)


def test_needs_a_cuda_device_and_an_optimizer_that_can_be_recorded() -> None:
    learner, x, y = make()
    with pytest.raises(LocalgradError, match="the model is on cpu, the batch on cpu; move both"):
        CapturedStep(learner, x, y)
    checkpointed, _, _ = make(M.Backprop("unit"))
    with pytest.raises(LocalgradError, match="block 0 computes activations again"):
        capture(checkpointed, x, y)
    with pytest.raises(LocalgradError, match=r"the step cannot be recorded \(.*device-side"):
        CapturedStep(learner, x, y, graph=Fails())
    parameters = list(learner.parameters())
    refused = [
        (torch.optim.Adam(parameters), "Adam keeps numbers on the host"),
        (torch.optim.SGD(parameters, 0.1, momentum=0.9, dampening=0.1), "with dampening"),
        (torch.optim.SGD(parameters, torch.tensor(0.1)), "fused=True"),
        (torch.optim.RMSprop(parameters, capturable=True), "RMSprop has no state yet"),
    ]
    for optimizer, message in refused:
        with pytest.raises(LocalgradError, match=message):
            capture(learner, x, y, optimizer=optimizer)
    with pytest.raises(LocalgradError, match="a scaler looks at gradients"):
        capture(learner, x, y, optimizer=refused[0][0], scaler=object())
    with pytest.raises(LocalgradError, match="warmup=0"):
        capture(learner, x, y, warmup=0)
