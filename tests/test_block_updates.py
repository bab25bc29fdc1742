"""Updates block by block: the bits of one update at the end, with fewer gradients alive."""

from __future__ import annotations

import contextlib
import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.lr_scheduler import CosineAnnealingLR

import localgrad
from localgrad import LocalgradError, measure_memory
from localgrad import methods as M
from localgrad.losses import next_token
from localgrad.networks import resnet20
from test_gradients import RULES
from test_ties import TOKENS, Three, X, Y, gpt

from zoo import batch, build

Make = Callable[[Any], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(
        p, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-3, foreach=True
    ),
    "sgd fused": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
    "adamw foreach": lambda p: torch.optim.AdamW(p, 0.01, foreach=True, amsgrad=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
}


def two_groups(learner: localgrad.LocalLearner) -> list[dict[str, Any]]:
    """As Hugging Face's Trainer has it: no weight decay on vectors."""
    parameters = list(learner.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0, "lr": 0.02},
    ]


def flat(state: Any) -> list[Any]:
    per_parameter = [state["state"][key] for key in sorted(state["state"])]
    return [v for s in (*per_parameter, *state["param_groups"]) for v in s.values()]


def assert_same(
    first: tuple[nn.Module, torch.optim.Optimizer], second: tuple[nn.Module, torch.optim.Optimizer]
) -> None:
    for (name, a), b in zip(
        first[0].state_dict().items(), second[0].state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    ours, theirs = (flat(optimizer.state_dict()) for _, optimizer in (first, second))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


def both_ways(
    learner: localgrad.LocalLearner,
    make: Make,
    x: Tensor,
    y: Tensor,
    steps: int = 3,
    schedule: bool = False,
) -> None:
    """Train a learner and its twin, by blocks and at the end, and compare."""
    found = []
    for by_block in (True, False):
        one = copy.deepcopy(learner)
        start = [p.detach().clone() for p in one.parameters()]
        optimizer = make(two_groups(one))
        scheduler = CosineAnnealingLR(optimizer, steps) if schedule else None
        torch.manual_seed(11)
        for _ in range(steps):
            if by_block:
                one.step(x, y, update=optimizer)
                assert all(p.grad is None for p in one.parameters())
            else:
                one.step(x, y)
                optimizer.step()
                optimizer.zero_grad()
            if scheduler is not None:
                scheduler.step()
        assert any(not torch.equal(a, b) for a, b in zip(start, one.parameters(), strict=True))
        found.append((one, optimizer))
    assert_same(*found)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS.keys() - {"momentum"}))
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_bits_of_one_update_at_the_end(rule: M.Method, optimizer: str) -> None:
    x, y = batch("residual")
    learner = localgrad.decouple(build("residual"), rule, example_input=x)
    both_ways(learner, OPTIMIZERS[optimizer], x, y, schedule=optimizer.startswith("sgd"))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_dropout_and_uneven_blocks(rule: M.Method) -> None:
    if isinstance(rule, M.AugLocal) and rule.depth > 1:
        rule = M.AugLocal(1)
    x, y = batch("dropout")
    learner = localgrad.decouple(build("dropout"), rule, cuts=[0, 3], example_input=x)
    both_ways(learner, OPTIMIZERS["adamw"], x, y)


TIED = [
    M.Backprop("unit"), M.Greedy(), M.BackLink(), M.BackLink(length=9, keep_error=False),
    M.BackLink(length=9, combine="replace"), M.AugLocal(1), M.BWBPF(), M.DeepSupervision(),
]  # fmt: skip


@pytest.mark.parametrize("rule", TIED, ids=str)
@pytest.mark.parametrize("ties", ["first", "last", "untie"])
def test_tied_weights_wait_for_their_last_reader(ties: str, rule: M.Method) -> None:
    torch.manual_seed(0)
    cuts = None if isinstance(rule, M.Backprop) else ["a", "b", "c"]
    learner = localgrad.decouple(Three().double(), rule, cuts=cuts, example_input=X, ties=ties)
    both_ways(learner, OPTIMIZERS["nesterov"], X, Y)


@pytest.mark.filterwarnings("ignore")  # transformers' own
@pytest.mark.parametrize("rule", [M.Greedy(), M.BackLink(keep_error=False)], ids=str)
@pytest.mark.parametrize("ties", ["first", "last", "untie"])
def test_a_language_model_with_tied_embeddings(ties: str, rule: M.Method) -> None:
    learner = localgrad.decouple(
        gpt(), rule, blocks=4, example_input=TOKENS, loss=next_token, ties=ties
    )
    both_ways(learner, OPTIMIZERS["adamw fused"], TOKENS, TOKENS, steps=2)


class Positions(nn.Module):
    """Every layer reads what is made of the first one's parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((6,), 0.3))
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(4)])
        self.end = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        gain = self.scale.exp()
        for layer in self.layers:
            x = torch.tanh(layer(x) * gain)
        out: Tensor = self.end(x)
        return out


@pytest.mark.parametrize("rule", TIED, ids=str)
def test_a_parameter_that_later_units_of_a_traced_model_read(rule: M.Method) -> None:
    torch.manual_seed(0)
    learner = localgrad.decouple(Positions().double(), rule, example_input=X)
    both_ways(learner, OPTIMIZERS["adamw"], X, Y)


@pytest.mark.parametrize("rule", [M.BackLink(), M.AugLocal(1), M.Greedy()], ids=str)
def test_under_autocast(rule: M.Method) -> None:
    x, y = batch("residual")
    x = x.float()
    learner = localgrad.decouple(build("residual").float(), rule, example_input=x)
    with torch.autocast("cpu", torch.bfloat16):
        both_ways(learner, OPTIMIZERS["adamw"], x, y)


def test_gradients_of_earlier_batches_count() -> None:
    x, y = batch("network")
    found = []
    for by_block in (True, False):
        learner = localgrad.decouple(build("network"), M.BackLink(), blocks=4, example_input=x)
        optimizer = OPTIMIZERS["adamw"](learner.parameters())
        for start in range(0, 8, 2):
            last = start % 4 == 2
            rows = slice(start, start + 2)
            learner.step(x[rows], y[rows], update=optimizer if by_block and last else None)
            if last and not by_block:
                optimizer.step()
                optimizer.zero_grad()
        found.append((learner, optimizer))
    assert_same(*found)


def test_frozen_and_strange_parameters_stay() -> None:
    x, y = batch("mlp")
    learner = localgrad.decouple(build("mlp"), M.BackLink(), example_input=x)
    strange = nn.Parameter(torch.ones(3, dtype=torch.float64))
    strange.grad = torch.ones_like(strange)
    frozen = learner.backbone[3].weight.requires_grad_(False)
    before = frozen.clone()
    trained = [p for p in learner.parameters() if p is not frozen]
    optimizer = torch.optim.SGD([*trained, strange], 0.1)
    learner.step(x, y, update=optimizer)
    assert strange.grad is not None
    assert torch.equal(strange, torch.ones(3, dtype=torch.float64))
    assert torch.equal(frozen, before)
    assert [len(g["params"]) for g in optimizer.param_groups] == [len(trained) + 1]
    frozen.requires_grad_(True)  # thawed, and no optimizer holds it
    with pytest.raises(LocalgradError, match=r"does not hold parameter 'backbone.3.weight'"):
        learner.step(x, y, update=optimizer)


def test_a_new_optimizer_and_new_parameters() -> None:
    x, y = batch("mlp")
    learner = localgrad.decouple(build("mlp"), M.Greedy(), example_input=x)
    learner.step(x, y, update=torch.optim.SGD(learner.parameters(), 0.1))
    layer = learner.backbone[3]
    layer.weight = nn.Parameter(layer.weight.detach() * 2)
    before = layer.weight.detach().clone()
    learner.step(x, y, update=torch.optim.SGD(learner.parameters(), 0.1))
    assert not torch.equal(layer.weight, before)


def test_an_error_on_the_way_leaves_the_optimizer_whole() -> None:
    x, y = batch("mlp")
    learner = localgrad.decouple(build("mlp"), M.Greedy(), example_input=x)
    optimizer = OPTIMIZERS["nesterov"](two_groups(learner))
    held = [list(group["params"]) for group in optimizer.param_groups]
    calls = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("no more")

    handle = optimizer.register_step_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no more"):
        learner.step(x, y, update=optimizer)
    handle.remove()
    assert [[id(p) for p in g["params"]] for g in optimizer.param_groups] == [
        [id(p) for p in group] for group in held
    ]
    first, second, third, *others = (stage.units[-1].parts[-2].weight for stage in learner._stages)
    assert first.grad is second.grad is None  # updated
    assert third.grad is not None  # complete, and not lost
    assert all(p.grad is None for p in others)  # not reached
    assert set(optimizer.state) >= {first, second}
    assert third not in optimizer.state
    learner.step(x, y, update=optimizer)
    assert all(p.grad is None for p in learner.parameters())


def test_mistakes_are_named_before_the_step() -> None:
    x, y = batch("mlp")
    learner = localgrad.decouple(build("mlp"), M.Greedy(), example_input=x)
    half = torch.optim.SGD(learner.backbone.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu")
    for options, message in [
        ({"update": half}, r"does not hold parameter 'heads.0.1.weight', .* learner.parameters"),
        ({"update": "sgd"}, "update is a str: expected a torch optimizer"),
        ({"update": torch.optim.LBFGS(learner.parameters())}, "LBFGS looks at all"),
        ({"update": half, "scaler": scaler}, "a scaler must see all gradients before it decides"),
        ({"scaler": 65536.0}, "scaler is a float: expected a torch.amp.GradScaler"),
    ]:
        with pytest.raises(LocalgradError, match=message) as caught:
            learner.step(x, y, **options)
        assert "\n" not in str(caught.value)
    assert all(p.grad is None for p in learner.parameters())


def test_the_optimizer_is_not_kept_alive() -> None:
    x, y = batch("mlp")
    learner = localgrad.decouple(build("mlp"), M.Greedy(), example_input=x)
    optimizer = torch.optim.SGD(learner.parameters(), 0.1)
    learner.step(x, y, update=optimizer)
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None


def test_the_audit_sees_the_same_reach() -> None:
    x, y = batch("mlp")
    learner = localgrad.decouple(build("mlp"), M.BackLink(), example_input=x)
    optimizer = OPTIMIZERS["nesterov"](learner.parameters())
    before = copy.deepcopy(learner.state_dict())
    plain = localgrad.audit(lambda: learner.step(x, y), learner)
    reach = localgrad.audit(
        lambda: learner.step(x, y, update=optimizer), learner, optimizer=optimizer
    )
    assert reach.violations == []
    assert torch.equal(reach.matrix, plain.matrix)
    assert all(torch.equal(v, before[k]) for k, v in learner.state_dict().items())


# --- memory


def test_nothing_needs_computing_to_count_it() -> None:
    """Under fake tensors a step with updates takes the bytes that a real one takes."""
    found = []
    for mode in (contextlib.nullcontext(), FakeTensorMode(allow_non_fake_inputs=True)):
        learner = localgrad.decouple(
            resnet20(), M.BackLink(), blocks=4, example_input=torch.rand(2, 3, 32, 32)
        )
        with mode:
            x, y = torch.rand(2, 3, 32, 32), torch.zeros(2, dtype=torch.long)
            found.append(in_steady_state(learner, OPTIMIZERS["adamw"], x, y, True))
    assert found[0] == found[1]


def in_steady_state(
    learner: localgrad.LocalLearner, make: Make, x: Tensor, y: Tensor, by_block: bool
) -> localgrad.Memory:
    optimizer = make(learner.parameters())

    def whole() -> None:
        if by_block:
            learner.step(x, y, update=optimizer)
        else:
            learner.step(x, y)
            optimizer.step()
            optimizer.zero_grad()

    whole()  # the optimizer's state is there from now on
    return measure_memory(whole, learner, optimizer)


WEIGHT = 256 * 256 * 4  # bytes


@pytest.mark.parametrize(
    ("rule", "alive"),
    [
        (M.Greedy(), 1),
        (M.BackLink(head="pool_linear"), 1),  # the head's goes before the one that waited comes
        (M.BackLink(head="pool_linear", keep_error=False), 1),
        (M.BackLink(length=9, combine="replace", head="pool_linear"), 1),
        (M.DeepSupervision(), 6),  # every loss trains the first block: nothing can go early
        (M.Backprop(), 6),
    ],
    ids=str,
)
def test_gradients_of_one_block_are_alive(rule: M.Method, alive: int) -> None:
    """Six equal weights and a batch of one: what is neither weight nor state is gradients."""
    sums = []
    for by_block in (False, True):
        torch.manual_seed(0)
        layers = [nn.Linear(256, 256, bias=False) for _ in range(6)]
        model = nn.Sequential(*layers, nn.Linear(256, 4))
        x, y = torch.randn(1, 256), torch.zeros(1, dtype=torch.long)
        learner = localgrad.decouple(model, rule, example_input=x)
        memory = in_steady_state(learner, OPTIMIZERS["momentum"], x, y, by_block)
        assert memory.gradients == 0
        assert memory.optimizer == memory.parameters
        sums.append((memory.total - memory.parameters - memory.optimizer) // WEIGHT)
    assert sums == [6, alive]


@pytest.mark.parametrize(
    ("rule", "optimizer", "at_the_end", "by_block"),
    [
        (M.Greedy(), "momentum", 3_403_756, 3_122_140),
        (M.Greedy(), "adamw fused", 4_505_864, 4_224_248),
        (M.Greedy(), "adamw foreach", 5_509_212, 4_224_248),
        (M.BackLink(), "momentum", 6_055_144, 5_803_736),
        (M.AugLocal(1), "momentum", 8_688_240, 7_304_332),
        (M.DGL(), "momentum", 8_744_428, 6_747_632),
    ],
    ids=str,
)
def test_the_peak_of_resnet20_falls(
    rule: M.Method, optimizer: str, at_the_end: int, by_block: int
) -> None:
    makes: dict[str, Make] = {
        **OPTIMIZERS,
        "adamw foreach": lambda p: torch.optim.AdamW(p, 0.01, foreach=True),
    }
    found = []
    for blockwise in (False, True):
        torch.manual_seed(0)
        x, y = torch.randn(2, 3, 32, 32), torch.randint(10, (2,))
        learner = localgrad.decouple(resnet20(), rule, blocks=10, example_input=x)
        found.append(in_steady_state(learner, makes[optimizer], x, y, blockwise))
    assert [memory.total for memory in found] == [at_the_end, by_block]
    # with updates at the end, all gradients are alive beside the last blocks' activations; by
    # block, nothing but weights and state is beside what one block takes
    alone = found[1].total - found[1].parameters - found[1].optimizer
    assert alone == found[1].activations
