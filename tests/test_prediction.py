"""What is predicted under fake tensors is what real steps take, to the byte."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import foreign
import localgrad
from localgrad import LocalgradError, losses, measure_memory, predict_flops, predict_memory
from localgrad import methods as M
from localgrad.networks import gpt, resnet20

SGD = functools.partial(torch.optim.SGD, lr=1e-3, momentum=0.9)
ADAMW = functools.partial(torch.optim.AdamW, lr=1e-3)
IMAGES = (3, 32, 32)

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": resnet20,
    "traced resnet": foreign.small_resnet,
    "traced vit": foreign.small_vit,
    "dropout": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(3072, 64),
        nn.Dropout(0.5),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, 32),
        nn.Dropout(0.1),
        nn.Linear(32, 32),
        nn.Linear(32, 10),
    ),
}


@functools.cache
def chain(name: str) -> localgrad.Chain:
    shape = foreign.IMAGES if name.startswith("traced") else IMAGES
    return localgrad.Chain.of(NETWORKS[name](), torch.rand(2, *shape))


RULES = [M.Backprop(), M.Backprop("unit"), M.Greedy(), M.BackLink(), M.AugLocal(1)]


def measured(
    learner: localgrad.LocalLearner,
    x: Tensor,
    y: Tensor,
    make: Callable[..., torch.optim.Optimizer],
) -> localgrad.Memory:
    optimizer = make(learner.parameters())

    def whole() -> None:
        optimizer.zero_grad()
        learner.step(x, y)
        optimizer.step()

    step = measure_memory(lambda: learner.step(x, y), learner)
    whole()
    steady = measure_memory(whole, learner, optimizer)
    return localgrad.Memory(
        step.activations, steady.parameters, steady.gradients, steady.optimizer, steady.total
    )


@pytest.mark.parametrize("make", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_bytes_as_real_steps(
    name: str, rule: M.Method, make: Callable[..., torch.optim.Optimizer]
) -> None:
    torch.manual_seed(0)
    shape = foreign.IMAGES if name.startswith("traced") else IMAGES
    x, y = torch.rand(6, *shape), torch.randint(3, (6,))
    blocks = None if isinstance(rule, M.Backprop) else 3
    learner = localgrad.decouple(chain(name), rule, blocks=blocks, example_input=x[:2])
    before = {key: value.clone() for key, value in learner.state_dict().items()}
    state = torch.get_rng_state()
    predicted = predict_memory(learner, x[:2], batch=6, optimizer=make)
    flops = predict_flops(learner, x)
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in learner.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(p.grad is None for p in learner.parameters())
    assert predicted == measured(learner, x, y, make)
    learner.zero_grad()
    assert flops == localgrad.measure_flops(lambda: learner.step(x, y))
    learner.zero_grad()
    learner.release()


def test_a_language_model_with_tied_weights() -> None:
    torch.manual_seed(0)
    model = gpt(vocabulary=17, context=12, layers=3, width=16, heads=2, dropout=0.1)
    x = torch.randint(17, (4, 12))
    learner = localgrad.decouple(
        model, M.BackLink(), example_input=x, loss=losses.next_token, ties="first"
    )
    predicted = predict_memory(learner, x[:2], batch=4, optimizer=ADAMW)
    assert predicted == measured(learner, x, x, ADAMW)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_under_autocast_but_for_what_batch_norm_saves(precision: str) -> None:
    """A real batch norm keeps its statistics in fp32, a fake one in its input's precision."""
    torch.manual_seed(0)
    x, y = torch.rand(16, *IMAGES), torch.randint(10, (16,))
    learner = localgrad.decouple(resnet20(), M.Greedy(), blocks=3, example_input=x)
    kind = torch.bfloat16 if precision == "bf16" else torch.float16
    with torch.autocast("cpu", kind):
        found = measure_memory(lambda: learner.step(x, y), learner)
    learner.zero_grad()
    predicted = predict_memory(learner, x, precision=precision)
    assert 0 <= found.activations - predicted.activations < 0.001 * found.activations
    assert predicted.activations < 0.6 * predict_memory(learner, x).activations


@pytest.mark.parametrize("rule", [M.Greedy(), M.BackLink()], ids=str)
def test_updates_by_block(rule: M.Method) -> None:
    torch.manual_seed(0)
    x, y = torch.rand(4, *IMAGES), torch.randint(10, (4,))
    learner = localgrad.decouple(resnet20(), rule, example_input=x)
    predicted = predict_memory(learner, x, optimizer=ADAMW, update="block")
    assert predicted.total < predict_memory(learner, x, optimizer=ADAMW).total
    optimizer = ADAMW(learner.parameters())
    learner.step(x, y, update=optimizer)
    found = measure_memory(lambda: learner.step(x, y, update=optimizer), learner, optimizer)
    assert (predicted.total, predicted.optimizer) == (found.total, found.optimizer)


def test_gradients_that_are_there_stay() -> None:
    x, y = torch.rand(4, *IMAGES), torch.randint(10, (4,))
    learner = localgrad.decouple(resnet20(), "greedy", example_input=x)
    learner.step(x, y)
    before = [None if p.grad is None else p.grad.clone() for p in learner.parameters()]
    predict_memory(learner, x, optimizer=SGD)
    for parameter, gradient in zip(learner.parameters(), before, strict=True):
        assert parameter.grad is not None
        assert gradient is not None
        assert torch.equal(parameter.grad, gradient)


def test_a_decoupling_with_its_model() -> None:
    x = torch.rand(2, *IMAGES)
    model = resnet20()
    learner = localgrad.decouple(model, "backlink", blocks=4, example_input=x)
    expected, decoupling = predict_memory(learner, x, batch=64), learner.decoupling
    learner.release()
    assert predict_memory(decoupling, x, model=model, batch=64) == expected
    localgrad.decouple(model, decoupling, example_input=x)  # it was released again


def test_an_example_without_content_will_do() -> None:
    x = torch.rand(2, *IMAGES)
    learner = localgrad.decouple(resnet20(), "greedy", example_input=x)
    assert predict_memory(learner, x.to("meta"), batch=8) == predict_memory(learner, x, batch=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "int8"}, "precision 'int8' must be one of 'fp32', 'bf16', 'fp16'"),
        ({"update": "block"}, "update='block': must be 'step', or 'block' with an optimizer"),
        ({"update": "late", "optimizer": SGD}, "update='late': must be"),
        ({"batch": 0}, "batch=0: must be a whole number"),
        ({"batch": 2.5}, "batch=2.5: must be a whole number"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(torch.ones(1))])}, "optimizer is a SGD: give"),
        ({"seconds": 0.0}, "too large to predict a step of it in 0 s"),
    ],
)
def test_bad_input(change: dict[str, object], message: str) -> None:
    x = torch.rand(2, *IMAGES)
    learner = localgrad.decouple(resnet20(), "greedy", example_input=x)
    with pytest.raises(LocalgradError, match=message):
        predict_memory(learner, x, **change)  # type: ignore[arg-type]
    learner.step(x, torch.tensor([1, 2]))  # nothing was lost


def test_a_decoupling_without_its_model() -> None:
    x = torch.rand(2, *IMAGES)
    decoupling = localgrad.decouple(resnet20(), "greedy", example_input=x).decoupling
    with pytest.raises(LocalgradError, match="knows no sizes: give model="):
        predict_memory(decoupling, x)
