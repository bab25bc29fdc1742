"""Local learning on traced models: gradients, reach, back-propagation, release."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import localgrad
from foreign import inputs, make, targets
from localgrad import LocalgradError
from localgrad import methods as M

from oracle import oracle_gradients

pytestmark = pytest.mark.filterwarnings("ignore")  # the packages' own


@pytest.mark.parametrize("name", ["resnet", "vit", "skips", "t5"])
def test_one_block_has_the_gradients_of_backprop_bit_for_bit(name: str) -> None:
    model, x, y = make(name), inputs(name), targets()
    plain = copy.deepcopy(model)
    torch.manual_seed(2)
    F.cross_entropy(plain(x), y).backward()
    learner = localgrad.decouple(model, "backprop", example_input=x)
    torch.manual_seed(2)
    learner.step(x, y)
    for (key, a), (_, b) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), key
        if a.grad is not None and "relative_attention" in key:  # its parts are added in turn
            torch.testing.assert_close(a.grad, b.grad)
        elif a.grad is not None:
            assert torch.equal(a.grad, b.grad), key


def test_training_after_release_equals_training_never_decoupled() -> None:
    def train(model: nn.Module) -> list[Tensor]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(2):
            optimizer.zero_grad()
            torch.manual_seed(step)
            F.cross_entropy(model(inputs("resnet")), targets()).backward()
            optimizer.step()
        return list(model.state_dict().values())

    model = make("resnet")
    never = copy.deepcopy(model)
    start = copy.deepcopy(model.state_dict())
    learner = localgrad.decouple(model, M.AugLocal(2), example_input=inputs("resnet"))
    learner.step(inputs("resnet"), targets())
    learner.release().load_state_dict(start)
    assert all(map(torch.equal, train(model), train(never)))


RULES = [
    M.Greedy(), M.Greedy(head="conv_mlp"), M.BackLink(), M.BackLink(length=2, weight=0.5),
    M.BackLink(length=9, combine="replace"), M.DeepSupervision(), M.BWBPF(), M.AugLocal(1),
    M.DGL(), M.PredSim(),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("name", ["resnet", "vit", "skips"])
def test_gradients_equal_the_oracle(name: str, rule: M.Method) -> None:
    model, x = make(name).double(), inputs(name).double()
    learner = localgrad.decouple(model, rule, blocks=3, example_input=x)
    check_gradients(learner, x)


def check_gradients(learner: localgrad.LocalLearner, x: Tensor) -> None:
    torch.manual_seed(7)
    expected = oracle_gradients(learner, x, targets())
    torch.manual_seed(7)
    learner.step(x, targets())
    for key, parameter in learner.named_parameters():
        if key not in expected:
            assert parameter.grad is None, key
            continue
        size = float(expected[key].norm())
        assert parameter.grad is not None, key
        assert float((parameter.grad - expected[key]).norm()) < 1e-9 * size + 1e-12, key


@pytest.mark.parametrize("rule", [M.Greedy(), M.BackLink(), M.AugLocal(1)], ids=str)
@pytest.mark.parametrize("name", ["resnet", "swin", "bert", "t5", "skips"])
def test_the_audit_finds_no_violation(name: str, rule: M.Method) -> None:
    x = inputs(name)
    learner = localgrad.decouple(make(name), rule, blocks=3, example_input=x)
    assert localgrad.audit(lambda: learner.step(x, targets()), learner).violations == []


def test_a_shared_position_bias_is_trained_by_the_block_that_makes_it() -> None:
    model, x = make("t5"), inputs("t5")
    table = next(p for key, p in model.named_parameters() if "relative_attention_bias" in key)
    learner = localgrad.decouple(model, "greedy", cuts=[1], example_input=x)
    own = [id(p) for p in learner.chain.units[1].parameters()]
    assert id(table) in own
    assert id(table) in [id(p) for p in learner.chain.units[2].borrowed()]
    assert id(table) not in [id(p) for p in learner.chain.units[2].parameters()]
    reach = localgrad.audit(lambda: learner.step(x, targets()), learner)
    assert [any("relative_attention" in key for key in row) for row in reach.parameters] == [
        True,
        False,
    ]
    # inside of one block, with a link that waits, every path counts
    learner.release()
    linked = localgrad.decouple(model.double(), M.BackLink(), cuts=[2], example_input=x)
    model.zero_grad()
    check_shared_gradient(linked, x, table)


def check_shared_gradient(learner: localgrad.LocalLearner, x: Tensor, table: Tensor) -> None:
    model = learner.backbone.eval()  # no dropout between the two runs
    learner.step(x, targets())
    found = table.grad
    head, hidden = learner.heads[0], x
    for unit in learner.chain.units[:3]:
        hidden = unit(hidden)
    loss = F.cross_entropy(head(hidden), targets())
    (expected,) = torch.autograd.grad(loss, [table])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert not model.training


def test_link_in_layers_and_token_numbers() -> None:
    x = inputs("bert")
    rule = M.BackLink(length=2, length_unit="layer")
    learner = localgrad.decouple(make("bert"), rule, blocks=3, example_input=x)
    assert learner.layers is not None
    reach = localgrad.audit(lambda: learner.step(x, targets()), learner)
    assert reach.violations == []


@pytest.mark.parametrize("checkpoint", ["unit", "sqrt"])
def test_checkpointing_a_traced_model(checkpoint: str) -> None:
    model, x, y = make("resnet"), inputs("resnet"), targets()
    plain = copy.deepcopy(model)
    F.cross_entropy(plain(x), y).backward()
    localgrad.decouple(model, M.Backprop(checkpoint), example_input=x).step(x, y)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    assert all(map(torch.equal, model.buffers(), plain.buffers()))


def test_tied_weights_across_blocks_are_refused() -> None:
    shared = nn.Linear(4, 4)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.last = shared, shared, nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.again(torch.relu(self.first(x)))))

    with pytest.raises(LocalgradError, match="tied weights"):
        localgrad.decouple(Twice(), "greedy", example_input=torch.randn(4, 4))


def test_a_language_model_scores_every_token() -> None:
    x = inputs("gpt2_lm")

    def loss(scores: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(scores.flatten(0, 1), y.flatten())

    for rule in (M.Greedy(), M.BackLink(), M.AugLocal(1)):
        model = make("gpt2_lm")
        learner = localgrad.decouple(model, rule, blocks=3, example_input=x, loss=loss)
        assert localgrad.audit(partial(learner.step, x, x), learner).violations == []
        assert all(scores.shape == (4, 7, 40) for scores in learner.exits(x))
    with pytest.raises(LocalgradError, match="head 'dgl' scores whole inputs"):
        localgrad.decouple(make("gpt2_lm"), "dgl", example_input=x, loss=loss)


def test_a_classifier_that_reads_the_token_numbers_again() -> None:
    model, x = make("gpt2_classifier"), inputs("gpt2_classifier")
    x[:, -2:] = 0  # padding: the score is that of the last token before it
    learner = localgrad.decouple(model, "greedy", blocks=2, example_input=x)
    assert learner.chain.names == ("transformer.wte", "transformer.h.0", "transformer.h.1")
    assert localgrad.audit(partial(learner.step, x, targets()), learner).violations == []
    model.eval()
    assert torch.equal(learner.step(x, targets()).logits, model(x).logits)
    with pytest.raises(LocalgradError, match=r"unit 'tail' reads the network's input again"):
        learner.chain.tail(torch.zeros(4, 7, 16))
