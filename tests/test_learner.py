"""The learner in a user's loop: training, saving, what is left alone, what is refused."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import localgrad
from localgrad import Block, Chain, Decoupling, LocalgradError, LocalLearner, Part
from localgrad import methods as M
from localgrad.networks import resnet_cifar
from test_gradients import IMAGE_RULES, RULES

from zoo import CHAINS, batch, build


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def assert_equal(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        if value is None or b[name] is None:
            assert value is b[name], name
        else:
            assert torch.equal(value, b[name]), name


# --- the user's loop


@pytest.mark.parametrize("rule", [*RULES, *IMAGE_RULES], ids=str)
def test_six_lines_train(rule: M.Method) -> None:
    x, y = batch("residual", size=16)
    model = build("residual")

    learner = localgrad.decouple(model, rule, example_input=x)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.05, momentum=0.9)
    history = []
    for _ in range(30):
        out = learner.step(x, y)
        optimizer.step()
        optimizer.zero_grad()
        history.append([float(loss) for loss in out.losses])

    assert out.logits.shape == (16, 5)
    assert not out.logits.requires_grad
    assert len(out.losses) == len(learner.decoupling)
    assert all(loss.dim() == 0 and not loss.requires_grad for loss in out.losses)
    last = history[-1][-1]
    assert last < 0.8 * history[0][-1]
    # every local loss falls too; a contrast has a floor of its own
    for first, final in zip(history[0], history[-1], strict=True):
        assert final < first


def test_logits_are_the_models() -> None:
    x, y = batch("residual")
    model = build("residual")
    expected = copy.deepcopy(model)(x)
    learner = localgrad.decouple(model, "greedy", example_input=x)
    assert torch.equal(learner.step(x, y).logits, expected)


def test_the_learner_is_the_backbone_when_called() -> None:
    x, _ = batch("residual")
    model = build("residual").eval()
    learner = localgrad.decouple(model, "greedy", example_input=x)
    assert learner.backbone is model
    assert torch.equal(learner(x), model(x))


@pytest.mark.parametrize("name", CHAINS)
def test_the_model_is_left_alone(name: str) -> None:
    x, _ = batch(name)
    model, plain = build(name), build(name)
    assert dict(model.named_modules()).keys() == dict(plain.named_modules()).keys()
    for rule in RULES:
        model = build(name)
        learner = localgrad.decouple(model, rule, example_input=x)
        assert_equal(bits(model), bits(plain))
        assert list(model.state_dict()) == list(plain.state_dict())
        assert all(p.grad is None for p in learner.parameters())
        assert all(not m._forward_hooks and not m._backward_hooks for m in model.modules())
        learner.eval()
        assert torch.equal(model(x), copy.deepcopy(plain).eval()(x))


def test_eval_mode_of_the_backbone_is_kept() -> None:
    x, y = batch("residual")
    model = build("residual")
    model[1].eval()  # a frozen batch norm
    kept = bits(model[1])
    learner = localgrad.decouple(model, M.BackLink(length_unit="layer"), example_input=x)
    assert [m.training for m in model] == [i != 1 for i in range(len(model))]
    learner.step(x, y)
    assert [m.training for m in model] == [i != 1 for i in range(len(model))]
    assert_equal(bits(model[1]), kept)
    assert model[3].bn1.num_batches_tracked == 1


@pytest.mark.parametrize("rule", [*RULES, *IMAGE_RULES], ids=str)
def test_a_step_counts_the_batch_once(rule: M.Method) -> None:
    x, y = batch("residual")
    model, plain = build("residual"), build("residual")
    plain(x)
    learner = localgrad.decouple(model, rule, example_input=x)
    learner.step(x, y)
    assert_equal(dict(model.named_buffers()), dict(plain.named_buffers()))
    for name, value in learner.heads.named_buffers():
        assert not name.endswith("num_batches_tracked") or value == 1


# --- saving


def test_the_backbones_state_dict_loads_into_a_fresh_model(tmp_path: Path) -> None:
    x, y = batch("residual")
    model = build("residual")
    learner = localgrad.decouple(model, "greedy", example_input=x)
    learner.step(x, y)
    torch.optim.SGD(learner.parameters(), lr=0.1).step()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    fresh = build("residual", seed=1)
    fresh.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(fresh.eval()(x), model.eval()(x))


@pytest.mark.parametrize("rule", [M.BackLink(), M.AugLocal(2), M.PredSim()], ids=str)
def test_the_learners_state_dict_goes_on_to_the_bit(rule: M.Method, tmp_path: Path) -> None:
    x, y = batch("residual")

    def train(learner: LocalLearner, optimizer: torch.optim.Optimizer) -> None:
        learner.step(x, y)
        optimizer.step()
        optimizer.zero_grad()

    learner = localgrad.decouple(build("residual"), rule, example_input=x)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=0.01)
    train(learner, optimizer)
    keys = set(learner.state_dict())
    assert {k.split(".")[0] for k in keys} == {"backbone", "heads"}
    torch.save([learner.state_dict(), optimizer.state_dict()], tmp_path / "c.pt")

    again = localgrad.decouple(build("residual", seed=9), rule, example_input=x)
    other = torch.optim.AdamW(again.parameters(), lr=0.01)
    state, optimizer_state = torch.load(tmp_path / "c.pt", weights_only=True)
    again.load_state_dict(state)
    other.load_state_dict(optimizer_state)
    for _ in range(2):
        train(learner, optimizer)
        train(again, other)
    assert_equal(bits(learner), bits(again))


def test_deepcopy_is_independent() -> None:
    x, y = batch("residual")
    rule = M.BackLink(length_unit="layer")
    learner = localgrad.decouple(build("residual"), rule, example_input=x)
    learner.step(x, y)  # a copy must work after a step too
    learner.zero_grad()
    twin = copy.deepcopy(learner)
    before = bits(learner)
    out = twin.step(x, y)
    assert all(p.grad is None for p in learner.parameters())
    assert_equal(bits(learner), before)
    expected = learner.step(x, y)
    assert torch.equal(out.logits, expected.logits)
    assert_equal(gradients(twin), gradients(learner))
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    assert not torch.equal(twin.backbone[0].weight, learner.backbone[0].weight)
    assert torch.equal(twin.chain.units[0].parts[0].weight, twin.backbone[0].weight)


# --- one owner at a time


def test_a_model_has_one_learner() -> None:
    x, _ = batch("mlp")
    model = build("mlp")
    learner = localgrad.decouple(model, "greedy", example_input=x)
    for taken in (model, learner):
        with pytest.raises(LocalgradError, match="decoupled already: call release"):
            localgrad.decouple(taken, "greedy", example_input=x)
    assert learner.release() is model
    with pytest.raises(LocalgradError, match="was released"):
        learner.step(*batch("mlp"))
    localgrad.decouple(model, M.BackLink(), example_input=x).step(*batch("mlp"))


def test_a_learner_that_is_gone_frees_its_model() -> None:
    x, _ = batch("mlp")
    model = build("mlp")
    learner = localgrad.decouple(model, "greedy", example_input=x)
    learner.step(*batch("mlp"))
    del learner
    gc.collect()
    localgrad.decouple(model, "greedy", example_input=x)


def test_a_refused_call_leaves_the_model_free() -> None:
    x, _ = batch("mlp")
    model = build("mlp")
    with pytest.raises(LocalgradError):
        localgrad.decouple(model, M.Greedy("nothing"), example_input=x)
    localgrad.decouple(model, "greedy", example_input=x)


def test_after_release_backprop_is_as_if_never_decoupled() -> None:
    x, y = batch("residual")
    plain = build("residual")
    for rule in RULES:
        model = build("residual")
        localgrad.decouple(model, rule, example_input=x).release()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        reference = copy.deepcopy(plain)
        other = torch.optim.SGD(reference.parameters(), lr=0.1)
        for _ in range(2):
            for net, steps in ((model, optimizer), (reference, other)):
                F.cross_entropy(net(x), y).backward()
                steps.step()
                steps.zero_grad()
        assert_equal(bits(model), bits(reference))


# --- exits


@pytest.mark.parametrize("chain", ["mlp", "residual"])
def test_exits_are_the_heads_by_hand(chain: str) -> None:
    x, _ = batch(chain)
    learner = localgrad.decouple(build(chain), M.Greedy(), cuts=[0, 2], example_input=x).eval()
    scores = learner.exits(x)
    model = learner.chain
    first = model.units[0](x)
    third = model.units[2](model.units[1](first))
    assert len(scores) == 3
    assert torch.equal(scores[0], learner.heads[0](first))
    assert torch.equal(scores[1], learner.heads[1](third))
    assert torch.equal(scores[2], learner.backbone(x))
    assert not any(s.requires_grad for s in scores)


def test_exits_of_heads_without_a_classifier() -> None:
    x, _ = batch("residual")
    contrast = M.InfoPro(first=(1, 1), last=(1, 1))
    learner = localgrad.decouple(build("residual"), contrast, blocks=2, example_input=x)
    assert learner.exits(x)[0] is None
    learner.release()
    learner = localgrad.decouple(learner.backbone, M.PredSim(), blocks=2, example_input=x)
    assert [s.shape for s in learner.exits(x)] == [(8, 5), (8, 5)]


# --- one step at the end, or one a block


@pytest.mark.parametrize("make", ["sgd", "adamw"])
@pytest.mark.parametrize(
    "rule",
    [M.Greedy(), M.DGL(), M.AugLocal(2), M.BWBPF(), M.BackLink(), M.BackLink(2, combine="replace")],
    ids=str,
)
@pytest.mark.parametrize("chain", ["residual", "dropout"])
def test_a_step_per_block_equals_one_at_the_end(chain: str, rule: M.Method, make: str) -> None:
    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        if make == "sgd":
            return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)
        return torch.optim.AdamW(parameters, lr=0.01)

    x, y = batch(chain)
    whole = localgrad.decouple(build(chain), rule, example_input=x)
    single = optimizer(whole.parameters())
    learner = localgrad.decouple(build(chain), rule, example_input=x)
    optimizers = []
    for stage in learner._stages:
        parts = [*(part for unit in stage.units for part in unit.parts)]
        parts += stage.head.parts if stage.head is learner.chain.tail else [stage.head]
        optimizers.append(optimizer([p for part in parts for p in part.parameters()]))

    def finish(k: int) -> None:
        optimizers[k].step()
        optimizers[k].zero_grad()

    for seed in range(3):
        torch.manual_seed(seed)
        whole.step(x, y)
        single.step()
        single.zero_grad()

        torch.manual_seed(seed)
        border, waiting = x, None
        for k, group in enumerate(learner._groups):
            walk = group.forward(border, y, x)
            border = walk.border
            error = group.local(walk)
            if waiting is not None:
                before, its_walk = waiting
                before.receive(its_walk, error)
                before.finish(its_walk)
                finish(k - 1)  # before the blocks that follow have run
            waiting = (group, walk) if group.linked else None
            if waiting is None:
                finish(k)
        assert_equal(bits(whole), bits(learner))


# --- precision


@pytest.mark.parametrize("rule", [*RULES, *IMAGE_RULES], ids=str)
def test_autocast(rule: M.Method) -> None:
    x, y = batch("residual", size=16)
    x = x.float()
    full = localgrad.decouple(build("residual").float(), rule, example_input=x)
    half = localgrad.decouple(build("residual").float(), rule, example_input=x)
    full.step(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        out = half.step(x, y)
        assert torch.is_autocast_enabled("cpu")
    assert all(loss.isfinite() for loss in out.losses)
    expected, found = [], []
    for p, q in zip(full.parameters(), half.parameters(), strict=True):
        if p.grad is None:
            assert q.grad is None
            continue
        assert q.grad is not None
        assert q.grad.dtype == torch.float32
        expected.append(p.grad.flatten())
        found.append(q.grad.flatten())
    # bfloat16 keeps 8 bits: about 1 % a layer, and a ReLU near zero may change side
    error = (torch.cat(expected) - torch.cat(found)).norm() / torch.cat(expected).norm()
    assert error < 0.2


@pytest.mark.parametrize("rule", [M.Backprop(), M.Backprop("unit")], ids=str)
def test_autocast_of_one_block_is_that_of_torch(rule: M.Method) -> None:
    x, y = batch("residual")
    x = x.float()
    plain, model = build("residual").float(), build("residual").float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(plain(x), y)
    loss.backward()
    learner = localgrad.decouple(model, rule)
    with torch.autocast("cpu", torch.bfloat16):
        out = learner.step(x, y)
    assert torch.equal(out.losses[0], loss.detach())
    assert_equal(gradients(model), gradients(plain))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_of_the_model(dtype: torch.dtype) -> None:
    x, y = batch("residual")
    x = x.to(dtype)
    learner = localgrad.decouple(build("residual").to(dtype), M.BackLink(), example_input=x)
    out = learner.step(x, y)
    assert {out.logits.dtype, *(loss.dtype for loss in out.losses)} == {dtype}
    assert {p.grad.dtype for p in learner.parameters()} == {dtype}


# --- parts of the model that do not learn, or learn in an unusual way


@pytest.mark.parametrize("rule", [M.Greedy(), M.BackLink(), M.BWBPF(), M.Backprop()], ids=str)
def test_a_frozen_last_block(rule: M.Method) -> None:
    """Its loss trains nothing, which back-propagation does not mind either."""
    x, y = batch("mlp")
    model = build("mlp")
    for part in list(model)[-3:]:
        part.requires_grad_(False)
    learner = localgrad.decouple(model, rule, example_input=x)
    out = learner.step(x, y)
    assert len(out.losses) == len(learner.decoupling)
    assert model[1].weight.grad is not None
    assert model[-1].weight.grad is None
    assert model[-3].weight.grad is None


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.layer(x).relu(), 0.5, self.training)


@pytest.mark.parametrize("how", ["unit", "sqrt"])
def test_checkpointing_repeats_the_same_random_numbers(how: str) -> None:
    """Also where no module is called dropout: the masks of the second forward once differed."""
    x, y = torch.randn(6, 8), torch.randint(3, (6,))
    found = []
    for rule in (M.Backprop(), M.Backprop(how)):
        torch.manual_seed(0)
        model = nn.Sequential(*(Noisy() for _ in range(5)), nn.Linear(8, 3))
        learner = localgrad.decouple(model, rule)
        learner.step(x, y)
        found.append((gradients(model), torch.get_rng_state()))
    assert_equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


class Detached(nn.Module):
    """A unit that passes no error on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.detach())


@pytest.mark.parametrize("keep_error", [True, False])
def test_a_link_without_an_error_keeps_the_local_gradient(keep_error: bool) -> None:
    x, y = torch.randn(6, 8), torch.randint(3, (6,))
    found = []
    for rule in (M.Greedy(), M.BackLink(head="pool_linear", keep_error=keep_error)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), Detached(), nn.Linear(8, 3))
        learner = localgrad.decouple(model, rule, example_input=x)
        learner.step(x, y)
        found.append(gradients(learner))
    assert_equal(found[0], found[1])


def test_checkpointed_blocks_with_links() -> None:
    """Recomputed activations serve the local error and the link alike."""
    x, y = batch("residual")
    plain = M.BackLink(head="pool_linear")(Chain.of(build("residual")), (2, 5))
    data = plain.to_dict()
    for block in data["blocks"]:
        block["checkpoint"] = "unit"
    found = []
    for decoupling in (plain, Decoupling.from_dict(data)):
        learner = localgrad.decouple(build("residual"), decoupling, example_input=x)
        learner.step(x, y)
        found.append({**gradients(learner), **dict(learner.named_buffers())})
    assert_equal(found[0], found[1])


def tied(first: int, second: int) -> nn.Sequential:
    layers = [nn.Linear(6, 6) for _ in range(4)]
    layers[second].weight = layers[first].weight
    return nn.Sequential(*layers, nn.Linear(6, 3))


def test_tied_weights() -> None:
    x, y = torch.randn(5, 6), torch.randint(3, (5,))
    with pytest.raises(
        LocalgradError, match=r"'1.weight' .* is used in blocks 0 and 1 \(tied weights"
    ):
        localgrad.decouple(tied(1, 2), "greedy", blocks=2, example_input=x)
    with pytest.raises(LocalgradError, match=r"'0\.weight' .* is used in blocks 0 and 3"):
        localgrad.decouple(tied(0, 3), "greedy", example_input=x)
    model = tied(0, 1)
    learner = localgrad.decouple(model, "greedy", blocks=2, example_input=x)
    learner.step(x, y)
    head = learner.heads[0]
    expected = torch.autograd.grad(F.cross_entropy(head(model[1](model[0](x))), y), model[0].weight)
    torch.testing.assert_close(model[0].weight.grad, expected[0])
    localgrad.decouple(tied(0, 3), "backprop").step(x, y)


# --- refused


def test_the_input_must_have_the_shape_that_heads_were_built_for() -> None:
    x, y = batch("residual")
    learner = localgrad.decouple(build("residual"), "greedy", example_input=x)
    with pytest.raises(LocalgradError, match=r"inputs of shape \(3, 4, 4\), .* for \(3, 8, 8\)"):
        learner.step(x[:, :, :4, :4], y)
    learner.step(x[:2], y[:2])  # the batch size is free


def test_a_wrong_example_names_the_unit() -> None:
    with pytest.raises(LocalgradError, match=r"unit '0' cannot take an input of shape \(1, 8, 8\)"):
        localgrad.decouple(build("residual"), "greedy", example_input=torch.zeros(2, 1, 8, 8))


def test_heads_need_an_example() -> None:
    with pytest.raises(LocalgradError, match="greedy builds heads from shapes: give example_input"):
        localgrad.decouple(build("residual"), "greedy")
    localgrad.decouple(build("residual"), "backprop").step(*batch("residual"))


def test_the_network_must_give_scores() -> None:
    layers = [nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Conv2d(4, 5, 1))
    x, y = torch.rand(2, 3, 4, 4), torch.randint(5, (2, 4, 4))
    with pytest.raises(LocalgradError, match=r"returns \(5, 4, 4\) per input: expected"):
        localgrad.decouple(model, "greedy", example_input=x)
    # without heads a score per pixel is fine
    localgrad.decouple(model, "backprop", example_input=x).step(x, y)


def test_a_batch_of_one_under_batch_norm() -> None:
    x, y = batch("dropout")
    learner = localgrad.decouple(build("dropout"), M.Greedy(), example_input=x)
    with pytest.raises(LocalgradError, match="block 0: batch norm cannot train on a batch of 1"):
        learner.step(x[:1], y[:1])
    x, y = batch("residual")
    learner = localgrad.decouple(build("residual"), M.DGL(), example_input=x)
    with pytest.raises(LocalgradError, match="block 0: batch norm cannot train on a batch of 1"):
        learner.step(x[:1], y[:1])
    learner.zero_grad()
    learner.step(x[:2], y[:2])  # and goes on


def test_a_loss_may_raise_errors_of_its_own() -> None:
    x, y = batch("mlp")

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        raise ValueError("mine")

    learner = localgrad.decouple(build("mlp"), "greedy", example_input=x, loss=loss)
    with pytest.raises(ValueError, match="mine"):
        learner.step(x, y)


def test_a_step_without_gradients_is_refused() -> None:
    x, y = batch("mlp")
    learner = localgrad.decouple(build("mlp"), "greedy", example_input=x)
    with torch.no_grad(), pytest.raises(LocalgradError, match=r"outside of torch.no_grad\(\)"):
        learner.step(x, y)


class NoName:
    def __call__(self, chain: Chain, cuts: tuple[int, ...] | None) -> Decoupling:
        raise AssertionError


class NoDecoupling(NoName):
    name = "nothing"

    def __call__(self, chain: Chain, cuts: tuple[int, ...] | None) -> Any:
        return None


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("gredy", "unknown method 'gredy'; did you mean 'greedy'"),
        ("?", "unknown method '?'; choose from backprop".replace("?", r"\?")),
        (3, "3 is not a method: it needs a name and a call"),
        (None, "None is not a method"),
        (NoName(), "is not a method"),
        (M.Greedy, "Greedy'> is not a method"),
        (NoDecoupling(), "method 'nothing' returned None, not a Decoupling"),
    ],
)
def test_what_is_no_method(method: Any, message: str) -> None:
    with pytest.raises(LocalgradError, match=message):
        localgrad.decouple(build("mlp"), method, example_input=batch("mlp")[0])


@pytest.mark.parametrize("model", [None, 3, nn.ReLU(), M.Greedy()], ids=str)
def test_what_is_no_chain(model: Any) -> None:
    with pytest.raises(LocalgradError, match="cannot be cut"):
        localgrad.decouple(model, "greedy")


# --- somebody else's method


class EveryOther:
    """Blocks of two units, linear heads; neither registered nor derived from anything."""

    name = "every_other"

    def __call__(self, chain: Chain, cuts: tuple[int, ...] | None) -> Decoupling:
        last = (len(chain) - 1) // 2 * 2
        pairs = [Block(k, k + 2, Part("pool_linear")) for k in range(0, last, 2)]
        return Decoupling(self.name, chain.names, (*pairs, Block(last, len(chain))))


def test_a_third_partys_method_needs_no_registration() -> None:
    x, y = batch("residual")
    learner = localgrad.decouple(build("residual"), EveryOther(), example_input=x)
    greedy = localgrad.decouple(build("residual"), M.Greedy(), cuts=[1, 3], example_input=x)
    assert isinstance(EveryOther(), M.Method)
    assert learner.decoupling.method == "every_other"
    learner.step(x, y)
    greedy.step(x, y)
    assert_equal(gradients(learner), gradients(greedy))
    assert localgrad.audit(lambda: learner.step(x, y), learner).violations == []


@pytest.mark.parametrize("channels_last", [False, True])
def test_built_in_network_in_either_layout(channels_last: bool) -> None:
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = resnet_cifar(14, width=4).to(memory_format=layout)
    x = torch.rand(4, 3, 16, 16).contiguous(memory_format=layout)
    learner = localgrad.decouple(model, M.BackLink(), example_input=x)
    learner.step(x, torch.randint(10, (4,)))
    for p in learner.parameters():
        assert p.grad is not None
        assert p.grad.stride() == p.stride()


CALLS: list[Callable[[nn.Module], Any]] = [
    lambda m: localgrad.decouple(m, "greedy", blocks=2.5, example_input=batch("mlp")[0]),
    lambda m: localgrad.decouple(m, "greedy", blocks=2, cuts=["1"], example_input=batch("mlp")[0]),
    lambda m: localgrad.decouple(m, "greedy", cuts=["11"], example_input=batch("mlp")[0]),
]


@pytest.mark.parametrize("call", CALLS)
def test_errors_of_the_chain_come_through(call: Callable[[nn.Module], Any]) -> None:
    with pytest.raises(LocalgradError):
        call(build("mlp"))


@pytest.mark.parametrize("method", [M.Greedy(), M.BackLink(), M.BackLink(2)], ids=str)
def test_group_norm_first_in_a_channels_last_block(method: Any) -> None:
    """torch's backward of such a norm ends the process (torch 2.13, CPU)."""
    torch.manual_seed(0)
    units = [nn.Sequential(nn.GroupNorm(1, 8), nn.Conv2d(8, 8, 3, padding=1)) for _ in range(3)]

    x = torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last)
    plain = nn.Sequential(*units, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    learner = localgrad.decouple(plain, method, example_input=x)
    learner.step(x, torch.tensor([0, 2]))
    assert all(p.grad is not None for p in learner.parameters())


def _linear_chain() -> nn.Sequential:
    torch.manual_seed(0)
    sizes = [(4, 8), (8, 8), (8, 8), (8, 3)]
    layers = [part for size in sizes for part in (nn.Linear(*size), nn.ReLU())][:-1]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("frozen", [[0], [2], [4], [0, 2], [0, 2, 4]], ids=str)
@pytest.mark.parametrize(
    "method",
    [M.Greedy(), M.BackLink(), M.BackLink(keep_error=False), M.BackLink(combine="replace")],
    ids=str,
)
def test_freezing_after_decoupling_is_as_freezing_before(method: Any, frozen: list[int]) -> None:
    x, y = torch.randn(16, 4), torch.randint(3, (16,))
    found = []
    for when in ("before", "after", "thawed"):
        model = _linear_chain()
        if when != "after":
            for i in frozen:
                model[i].requires_grad_(False)
        if when == "before":
            torch.manual_seed(1)
            learner = localgrad.decouple(model, method, blocks=3, example_input=x)
        else:
            if when == "thawed":
                model.requires_grad_(True)
                model[0].requires_grad_(False)
            torch.manual_seed(1)
            learner = localgrad.decouple(model, method, blocks=3, example_input=x)
            model.requires_grad_(True)
            for i in frozen:
                model[i].requires_grad_(False)
        learner.step(x, y)
        found.append([p.grad for p in learner.parameters()])
    for grads in found[1:]:
        for ours, theirs in zip(found[0], grads, strict=True):
            assert (ours is None) == (theirs is None)
            assert ours is None or torch.equal(ours, theirs)


def test_replaced_parameters_are_noticed() -> None:
    model = _linear_chain()
    x, y = torch.randn(16, 4), torch.randint(3, (16,))
    learner = localgrad.decouple(model, "backlink", blocks=3, example_input=x)
    state = {name: value.clone() for name, value in learner.state_dict().items()}
    learner.load_state_dict(state, assign=True)
    with pytest.raises(LocalgradError, match="was replaced after decouple"):
        learner.step(x, y)


@pytest.mark.parametrize("given", [{"granularity": "layer"}, {"units": ["0", "2"]}], ids=str)
def test_a_chain_keeps_its_units(given: dict[str, Any]) -> None:
    chain = localgrad.Chain.of(_linear_chain())
    with pytest.raises(LocalgradError, match=r"a chain has its units: .* Chain\.of"):
        localgrad.decouple(chain, "greedy", example_input=torch.randn(2, 4), **given)
