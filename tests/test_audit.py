"""Measured reach against declared reach, planted violations, and that nothing stays changed."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import localgrad
from localgrad import LocalgradError, LocalLearner, Reach, audit
from localgrad import methods as M
from test_decoupling import rows
from test_gradients import IMAGE_RULES, RULES

from zoo import batch, build


def audited(learner: LocalLearner, x: Tensor, y: Tensor) -> Reach:
    return audit(lambda: learner.step(x, y), learner)


@pytest.mark.parametrize("cut", ["all", "two"])
@pytest.mark.parametrize("rule", [*RULES, *IMAGE_RULES], ids=str)
@pytest.mark.parametrize("chain", ["mlp", "plain_conv", "residual", "dropout"])
def test_measured_is_declared(chain: str, rule: M.Method, cut: str) -> None:
    if isinstance(rule, M.InfoPro) and chain in ("mlp", "dropout"):
        pytest.skip("InfoPro's decoder needs images")
    if isinstance(rule, M.AugLocal) and cut == "two":
        pytest.skip("AugLocal needs depth + 2 blocks")
    x, y = batch(chain)
    blocks = 2 if cut == "two" else None
    learner = localgrad.decouple(build(chain), rule, blocks=blocks, example_input=x)
    reach = audited(learner, x, y)
    assert reach.violations == []
    assert reach.matrix.tolist() == learner.reach()
    assert reach.units == (*learner.chain.names, "tail")
    if learner.heads:
        assert reach.heads is not None
        expected = torch.eye(len(learner.decoupling), len(learner.heads), dtype=torch.bool)
        assert torch.equal(reach.heads, expected)
    else:
        assert reach.heads is None


def test_layer_links_reach_part_of_a_unit() -> None:
    x, y = batch("residual")
    rule = M.BackLink(length_unit="layer", head="pool_linear")
    learner = localgrad.decouple(build("residual"), rule, cuts=["4"], example_input=x)
    reach = audited(learner, x, y)
    assert reach.violations == []
    prefix = "backbone.4."
    # the unit before the border has a projection: it ends in conv2 and the projection alike
    assert {n.removeprefix(prefix) for n in reach.parameters[1] if n.startswith(prefix)} == {
        "conv2.weight", "bn2.weight", "bn2.bias",
        "shortcut.conv.weight", "shortcut.bn.weight", "shortcut.bn.bias",
    }  # fmt: skip
    assert "backbone.4.conv1.weight" in reach.parameters[0]
    assert not any(n.startswith("heads") for n in reach.parameters[1])


def test_reach_by_parameter() -> None:
    x, y = batch("mlp")
    learner = localgrad.decouple(build("mlp"), "greedy", blocks=2, example_input=x)
    reach = audited(learner, x, y)
    first = {"backbone.1.weight", "backbone.1.bias", "backbone.3.weight", "backbone.3.bias"}
    assert reach.parameters[0] == first | {"heads.0.1.weight", "heads.0.1.bias"}


# --- planted violations


def test_a_falsified_declaration() -> None:
    x, y = batch("mlp")
    learner = localgrad.decouple(build("mlp"), M.BackLink(), example_input=x)
    blocks = list(learner.decoupling.blocks)
    blocks[2] = dataclasses.replace(blocks[2], link=None)
    learner.decoupling = dataclasses.replace(learner.decoupling, blocks=tuple(blocks))
    reach = audited(learner, x, y)
    assert reach.violations == ["loss 2 trains unit '3', against its declaration"]
    blocks[2] = dataclasses.replace(blocks[2], link=localgrad.Link(2))
    blocks[1] = dataclasses.replace(blocks[1], link=localgrad.Link(1))
    learner.decoupling = dataclasses.replace(learner.decoupling, blocks=tuple(blocks))
    assert audited(learner, x, y).violations == []  # block 1 is one unit long: 2 reach no further


def blockwise(forget: int | None, summed: bool) -> tuple[Callable[[], None], nn.Module, Any, Any]:
    """Return a hand-written block-wise step over three blocks, its model, units and declaration."""
    torch.manual_seed(0)
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3))
    heads = nn.ModuleList(nn.Linear(8, 4) for _ in range(3))
    model = nn.ModuleDict({"blocks": blocks, "heads": heads})
    x, y = torch.randn(6, 8), torch.randint(4, (6,))

    def step() -> None:
        h, losses = x, []
        for k, (block, head) in enumerate(zip(blocks, heads, strict=True)):
            h = block(h if k == forget else h.detach())
            losses.append(F.cross_entropy(head(h), y))
            if not summed:
                losses[-1].backward(retain_graph=True)
        if summed:
            torch.stack(losses).sum().backward()

    units = {f"b{k}": list(block.parameters()) for k, block in enumerate(blocks)}
    return step, model, units, torch.eye(3, dtype=torch.bool).tolist()


@pytest.mark.parametrize("summed", [False, True])
def test_a_hand_written_step_that_forgets_one_detach(summed: bool) -> None:
    step, model, units, declared = blockwise(forget=2, summed=summed)
    reach = audit(step, model, units=units, declared=declared)
    assert reach.violations == ["loss 2 trains unit 'b1', against its declaration"]
    assert reach.matrix.tolist() == rows("#.. .#. .##")
    assert "heads.1.weight" in reach.parameters[1]
    assert "heads.1.weight" not in reach.parameters[2]


@pytest.mark.parametrize("summed", [False, True])
def test_a_hand_written_step_that_is_right(summed: bool) -> None:
    """Losses that are summed before one backward are told apart all the same."""
    step, model, units, declared = blockwise(forget=None, summed=summed)
    reach = audit(step, model, units=units, declared=declared)
    assert reach.violations == []
    assert reach.matrix.tolist() == declared


def test_a_declared_unit_that_is_not_trained() -> None:
    step, model, units, declared = blockwise(forget=None, summed=False)
    declared[2][0] = True
    reach = audit(step, model, units=units, declared=declared)
    assert reach.violations == ["loss 2 does not train unit 'b0', against its declaration"]


def test_plain_models_take_their_children_as_columns() -> None:
    _, model, _, _ = blockwise(forget=None, summed=False)
    x, y = torch.randn(6, 8), torch.randint(4, (6,))
    reach = audit(lambda: F.cross_entropy(model["heads"][0](x), y).backward(), model)
    assert reach.units == ("blocks", "heads")
    assert reach.matrix.tolist() == rows(".#")
    assert reach.declared is None
    assert reach.violations == []


# --- the step is left as it was found


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    state = {f"state {k}": v.clone() for k, v in model.state_dict().items()}
    for name, p in model.named_parameters():
        state[f"grad {name}"] = None if p.grad is None else p.grad.clone()
        for key, value in optimizer.state.get(p, {}).items():
            state[f"optimizer {name} {key}"] = value.clone() if isinstance(value, Tensor) else value
    state["rng"] = torch.get_rng_state()
    return state


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        same = torch.equal(value, b[key]) if isinstance(value, Tensor) else value == b[key]
        assert same, key


@pytest.mark.parametrize("make", ["sgd", "adamw"])
@pytest.mark.parametrize("chain", ["residual", "dropout"])
@pytest.mark.parametrize("before", [0, 1])
def test_everything_is_as_before(chain: str, make: str, before: int) -> None:
    x, y = batch(chain)
    learner = localgrad.decouple(build(chain), M.BackLink(), example_input=x)
    optimizer: torch.optim.Optimizer
    if make == "sgd":
        optimizer = torch.optim.SGD(learner.parameters(), lr=0.1, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(learner.parameters(), lr=0.1)

    def train() -> None:
        learner.step(x, y)
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()

    for _ in range(before):
        train()
    next(learner.parameters()).grad = None  # one without, the others with a gradient
    objects = [p.grad for p in learner.parameters()]
    modes = [m.training for m in learner.modules()]
    state = snapshot(learner, optimizer)
    reach = audit(train, learner, optimizer=optimizer)
    assert reach.violations == []
    assert_same(snapshot(learner, optimizer), state)
    assert all(p.grad is g for p, g in zip(learner.parameters(), objects, strict=True))
    assert [m.training for m in learner.modules()] == modes
    torch.manual_seed(0)
    train()  # and it goes on as if nothing had happened
    assert all(p.isfinite().all() for p in learner.parameters())


def test_everything_is_as_before_when_the_step_fails() -> None:
    x, y = batch("mlp")
    learner = localgrad.decouple(build("mlp"), "greedy", example_input=x)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1, momentum=0.9)
    calls = 0

    def train() -> None:
        nonlocal calls
        learner.step(x, y)
        optimizer.step()
        calls += 1
        if calls == 3:
            raise KeyError("planted")

    state = snapshot(learner, optimizer)
    with pytest.raises(KeyError, match="planted"):
        audit(train, learner, optimizer=optimizer)
    assert_same(snapshot(learner, optimizer), state)
    assert not any(p._backward_hooks for p in learner.parameters())


# --- what it is given


def test_a_step_without_a_loss() -> None:
    model = build("mlp")
    x, _ = batch("mlp")
    with pytest.raises(LocalgradError, match="no loss that the audit can see"):
        audit(lambda: model(x).sum(), model)


def test_what_does_not_fit() -> None:
    step, model, units, declared = blockwise(forget=None, summed=False)
    with pytest.raises(
        LocalgradError, match=r"declared is \(2, 3\), the step has 3 losses and the"
    ):
        audit(step, model, units=units, declared=declared[:2])
    stranger = {"b0": list(nn.Linear(2, 2).parameters())}
    with pytest.raises(LocalgradError, match="unit 'b0' holds a parameter that the model does not"):
        audit(step, model, units=stranger)


class Halve(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)


class WithBareUnit(nn.Module):
    """A unit without parameters, which no loss can train."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.shrink = nn.Conv2d(3, 4, 3, padding=1), Halve()
        self.b, self.pool = nn.Conv2d(4, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Flatten(), nn.Linear(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.b(self.shrink(self.a(x)))))

    def chain_units(self) -> dict[str, tuple[str, ...]]:
        return {"a": ("a",), "shrink": ("shrink",), "b": ("b",)}

    def chain_tail(self) -> tuple[str, ...]:
        return ("pool", "fc")


@pytest.mark.parametrize("rule", [M.Greedy(), M.BackLink(length=2), M.Backprop()], ids=str)
def test_units_with_nothing_to_train_are_no_violation(rule: M.Method) -> None:
    x, y = torch.rand(4, 3, 8, 8), torch.randint(5, (4,))
    torch.manual_seed(0)
    learner = localgrad.decouple(WithBareUnit(), rule, cuts=["shrink"], example_input=x)
    reach = audited(learner, x, y)
    assert reach.violations == []
    assert not reach.matrix[:, 1].any()

    model = build("mlp")
    x, y = batch("mlp")
    model[3].requires_grad_(False)
    learner = localgrad.decouple(model, rule, cuts=["3"], example_input=x)
    reach = audited(learner, x, y)
    assert reach.violations == []
    assert not reach.matrix[:, 1].any()


# --- what it shows


def example(units: tuple[str, ...], declared: bool = True) -> Reach:
    matrix = torch.tensor(rows("#.. ##. ..#"))
    claim = torch.tensor(rows("#.. .#. .##")) if declared else None
    nothing = (frozenset[str](),) * 3
    return Reach(units, matrix, claim, None, nothing)


def test_text() -> None:
    assert str(example(("stem", "1", "tail"))) == (
        "     s   t\n"
        "     t   a\n"
        "     e   i\n"
        "loss m 1 l\n"
        "   0 # . .\n"
        "   1 ! # .\n"
        "   2 . ? #\n"
        "violations: 2"
    )
    assert str(example(("a", "b", "c"), declared=False)) == (
        "loss a b c\n   0 # . .\n   1 # # .\n   2 . . #"
    )


def test_violations_in_words() -> None:
    assert example(("a", "b", "c")).violations == [
        "loss 1 trains unit 'a', against its declaration",
        "loss 2 does not train unit 'b', against its declaration",
    ]
    heads = torch.tensor(rows("#. ## .."))
    reach = dataclasses.replace(example(("a", "b", "c"), declared=False), heads=heads)
    assert reach.violations == ["loss 1 trains head 0"]
    heads = torch.tensor(rows("#. .. .."))
    reach = dataclasses.replace(example(("a", "b", "c"), declared=False), heads=heads)
    assert reach.violations == ["loss 1 does not train head 1"]


def test_dict() -> None:
    assert example(("a", "b", "c")).to_dict() == {
        "losses": ["0", "1", "2"],
        "units": ["a", "b", "c"],
        "measured": rows("#.. ##. ..#"),
        "declared": rows("#.. .#. .##"),
        "violations": example(("a", "b", "c")).violations,
    }
    assert example(("a", "b", "c"), declared=False).to_dict()["declared"] is None


def test_picture(tmp_path: Path) -> None:
    path = tmp_path / "reach.svg"
    example(("a<b", "c&d", 'e"')).plot(str(path))
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    assert [e.text for e in root.iter(f"{space}text")] == ["a<b", "c&d", 'e"', "0", "1", "2"]
    colours = [e.get("fill") for e in root.iter(f"{space}rect")]
    assert len(colours) == 9
    assert colours.count("#d62728") == 2
    assert colours.count("#2a6fbb") == 3
    for e in root.iter(f"{space}rect"):
        assert float(e.get("x", 0)) + float(e.get("width", 0)) <= float(root.get("width", 0))
        assert float(e.get("y", 0)) + float(e.get("height", 0)) <= float(root.get("height", 0))
