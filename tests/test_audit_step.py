"""The audit of a training step that somebody wrote, through the command line and in Python."""

from __future__ import annotations

import copy
import doctest
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import localgrad
from command import error_line, read
from localgrad import Reach, audit
from localgrad.cli import main
from localgrad.cli.users_step import audit_step
from localgrad.errors import LocalgradError
from localgrad.layer_columns import layer_columns
from test_decoupling import rows

ROOT = Path(__file__).parents[1]
EXAMPLES, PAGE = ROOT / "examples", ROOT / "docs" / "how-far-do-gradients-travel.md"
PICTURES = ROOT / "benchmarks" / "reach_pictures.py"


@pytest.fixture
def write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[[str], str]:
    """Write a module into the working folder; return its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def writes(text: str) -> str:
        name = f"step_of_{abs(hash(request.node.name))}"
        (tmp_path / f"{name}.py").write_text(
            "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n" + text
        )
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return writes


# --- the example


@pytest.mark.parametrize(
    ("function", "expected"),
    [("forgetful", "#... .#.. .##. ...#"), ("repaired", "#... .#.. ..#. ...#")],
)
def test_the_example_on_the_command_line(
    function: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path, plot = tmp_path / "reach.json", tmp_path / "reach.svg"
    words = ["--step", f"forgotten_detach:{function}", "--json", str(path), "--plot", str(plot)]
    assert main(["audit", *words]) == 0
    found = read(path)
    blocks, heads = rows(expected), torch.eye(4, dtype=torch.bool).tolist()
    assert found["measured"] == [a + b for a, b in zip(blocks, heads, strict=True)]
    assert found["units"] == [f"{part}.{k}" for part in ("blocks", "heads") for k in range(4)]
    source = (EXAMPLES / "forgotten_detach.py").read_text(encoding="utf-8").splitlines()
    line = 1 + next(i for i, text in enumerate(source) if "F.cross_entropy(" in text)
    assert found["names"] == [f"cross_entropy, forgotten_detach.py:{line}"] * 4
    out = capsys.readouterr().out
    assert f"   2 {'. # # .' if function == 'forgetful' else '. . # .'} . . # .\n" in out
    assert f"   3 cross_entropy, forgotten_detach.py:{line}\n" in out
    assert plot.read_text().startswith("<svg")


# --- the page about it


def test_the_pages_example() -> None:
    done = doctest.testfile(str(PAGE), module_relative=False)
    assert done.attempted > 5
    assert done.failed == 0


def test_the_pages_pictures_show_what_is_measured() -> None:
    spec = importlib.util.spec_from_file_location("reach_pictures", PICTURES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    expected = {
        "backprop": "#######",
        "greedy": "##..... ..##... ....###",
        "dgl": "##..... ..##... ....###",
        "predsim": "##..... ..##... ....###",
        "infopro": "##..... ..##... ....###",
        "backlink": "##..... .###... ...####",
        "backlink_replace": "#...... .##.... ...####",
        "auglocal": "#...... .#..... ..#.... ...####",
        "bwbpf": "##..... ..##... ....##. ......#",
        "deep_supervision": "##..... ####... ######. #######",
    }
    found = module.measured()
    pages = [PAGE, *(PAGE.parent / "rules").glob("*.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    for name, reach in found.items():
        if name in expected:
            assert reach.matrix.tolist() == rows(expected[name]), name
        picture = (PAGE.parent / f"reach-{name}.svg").read_text(encoding="utf-8")
        wrong = int((reach.matrix != reach.declared).sum()) if reach.declared is not None else 0
        cells = f"{int(reach.matrix.sum()) - wrong} cells agree, {wrong} violations"
        assert cells in picture, name
        if name in expected:
            small = (PAGE.parent / f"reach-small-{name}.svg").read_text(encoding="utf-8")
            assert small.count('class="yes"') == int(reach.matrix.sum())
        assert f"reach-{name}.svg)" in text
    assert found.keys() >= expected.keys()
    assert found["forgotten_detach"].violations == [
        "loss 2 trains unit 'blocks.1', against its declaration"
    ]


# --- what counts as a loss


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)


X, Y = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 3


def of(step: Callable[[Net], Any]) -> Reach:
    net = Net()
    return audit(lambda: step(net), net)


def test_a_loss_computed_by_hand() -> None:
    def step(net: Net) -> None:
        (net.b(net.a(X).detach()) ** 2).mean().backward()
        torch.autograd.backward([net.a(X).abs().sum()])

    reach = of(step)
    assert reach.matrix.tolist() == rows(".#. #..")
    assert [name.split(":")[0] for name in reach.names] == ["backward, test_audit_step.py"] * 2


def test_a_penalty_that_reaches_further_than_the_loss_that_it_is_added_to() -> None:
    def step(net: Net) -> None:
        h = net.b(net.a(X))
        (F.cross_entropy(net.c(h.detach()), Y) + 0.1 * h.square().mean()).backward()

    reach = of(step)
    assert reach.matrix.tolist() == rows("..# ###")  # the loss; all that backward is called on
    assert [name.partition(",")[0] for name in reach.names] == ["cross_entropy", "backward"]


def test_a_sum_of_losses_is_told_apart() -> None:
    def step(net: Net) -> None:
        h = net.b(net.a(X))
        loss = nn.CrossEntropyLoss()(net.c(h.detach()), Y) + F.mse_loss(h, torch.zeros(8, 6))
        (loss * 1024).backward()  # as a gradient scaler does

    reach = of(step)
    assert reach.matrix.tolist() == rows("..# ##.")
    assert [name.partition(",")[0] for name in reach.names] == ["cross_entropy", "mse_loss"]


def test_several_roots_of_one_backward() -> None:
    def step(net: Net) -> None:
        h = net.a(X)
        first, second = F.cross_entropy(net.c(net.b(h.detach())), Y), h.square().mean()
        torch.autograd.backward((first, second))

    assert of(step).matrix.tolist() == rows(".## #..")


def test_errors_that_are_passed_by_hand() -> None:
    def step(net: Net) -> None:
        h = net.a(X)
        leaf = h.detach().requires_grad_()
        F.cross_entropy(net.c(net.b(leaf)), Y).backward()
        torch.autograd.backward(h, leaf.grad)

    reach = of(step)
    assert reach.matrix.tolist() == rows("###")
    assert len(reach.names) == 1


@pytest.mark.parametrize("named", [False, True])
def test_gradients_asked_for_by_grad(named: bool) -> None:
    def step(net: Net) -> None:
        h = net.b(net.a(X))
        weights = list(net.b.parameters())
        error = torch.ones_like(h)
        if named:
            torch.autograd.grad(h, weights, grad_outputs=error, retain_graph=True)
        else:
            torch.autograd.grad(h, weights, error, retain_graph=True)
        for p, g in zip(weights, torch.autograd.grad(h.square().sum(), weights), strict=True):
            p.grad = g

    reach = of(step)
    assert reach.matrix.tolist() == rows(".#.")
    assert reach.names[0].startswith("grad, ")


def test_torch_is_left_as_it_was() -> None:
    before = torch.autograd.backward, torch.autograd.grad

    def step(net: Net) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        of(step)
    assert (torch.autograd.backward, torch.autograd.grad) == before


def test_a_step_that_does_other_things_each_time() -> None:
    calls = iter(range(100))

    def step(net: Net) -> None:
        for _ in range(1 + next(calls) % 2):
            F.cross_entropy(net.c(net.b(net.a(X))), Y).backward()

    with pytest.raises(LocalgradError, match="does not compute the same losses at every call"):
        of(step)


def test_a_learner_of_ours_and_the_same_rule_by_hand() -> None:
    """The same reach, whether a learner announces its losses or they are found."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    learner = localgrad.decouple(model, "greedy", cuts=["0"], example_input=X)
    ours = audit(lambda: learner.step(X, Y), learner)
    net, head = Net(), nn.Linear(6, 3)

    def step() -> None:
        x = F.relu(net.a(X))
        F.cross_entropy(head(x), Y).backward()
        F.cross_entropy(net.c(F.relu(net.b(x.detach()))), Y).backward()

    theirs = audit(step, nn.ModuleList([net, head]), layer_columns(net))
    assert ours.units == ("0", "2", "tail")
    assert ours.matrix.tolist() == theirs.matrix.tolist() == rows("#.. .##")
    assert ours.names == ()


# --- everything is as before


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("before", [0, 2])
def test_weights_gradients_and_optimizers_are_as_before(make: Any, before: int) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    options = {"momentum": 0.9} if make is torch.optim.SGD else {}
    optimizer = make(net.parameters(), lr=0.1, **options)
    seen: list[float] = []

    def step() -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(X), Y)
        seen.append(float(net[0].weight.detach().sum()))
        loss.backward()
        optimizer.step()

    def state() -> list[Any]:
        moments = [v for moments in optimizer.state.values() for v in moments.values()]
        return [
            *(v.clone() for v in net.state_dict().values()),
            *(None if p.grad is None else p.grad.clone() for p in net.parameters()),
            *(v.clone() if isinstance(v, Tensor) else v for v in moments),
            torch.get_rng_state(),
        ]

    for _ in range(before):
        step()
    kept, gradients = state(), [p.grad for p in net.parameters()]
    seen.clear()
    audit(step, net)  # it is not told of the optimizer
    found = state()
    assert len(found) == len(kept)
    for a, b in zip(found, kept, strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b
    assert all(p.grad is g for p, g in zip(net.parameters(), gradients, strict=True))
    assert len(seen) == 3
    assert len(set(seen)) == 1  # each time from the same weights


# --- columns


def test_columns() -> None:
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Module()
    model.embed = nn.Linear(4, 8)
    model.position = nn.Parameter(torch.zeros(8))
    model.layers = nn.ModuleList([block, copy.deepcopy(block), copy.deepcopy(block)])
    model.stage = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Sequential())
    model.act, model.head = nn.ReLU(), nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 2))
    found = layer_columns(model)
    assert list(found) == [
        "position", "embed", "layers.0", "layers.1", "layers.2", "stage.0", "head",
    ]  # fmt: skip
    assert [len(ps) for ps in found.values()] == [1, 2, 12, 12, 12, 2, 4]
    assert list(layer_columns(nn.Linear(2, 2))) == ["weight", "bias"]
    # few: taken apart once more
    assert list(layer_columns(nn.ModuleDict({"net": Net()}))) == [
        "net.a", "net.b", "net.c",
    ]  # fmt: skip


# --- mistakes

MADE = """
def made():
    model = nn.Linear(2, 2)
    def step():
        loss = model(torch.ones(1, 2)).sum()
        return fail(loss)
    return model, step
def fail(loss):
"""


@pytest.mark.parametrize(
    ("text", "function", "message", "line"),
    [
        (MADE + "    raise ValueError('no\\nway')\n", "made", "ValueError: no", 12),
        (MADE + "    return torch.ones(2, 3) @ torch.ones(2)\n", "made", "RuntimeError: size", 12),
        (MADE + "    F.linear(loss, 3).backward()\n", "made", "TypeError: ", 12),
        ("def made():\n    return 1 / 0\n", "made", "ZeroDivisionError: division by zero", 5),
        ("x = = 1\n", "made", "SyntaxError: invalid syntax", 4),
        ("import nothing_of_the_kind\n", "made", "ModuleNotFoundError: No module named", 4),
    ],
)
def test_an_error_in_the_users_code_names_file_and_line(
    text: str,
    function: str,
    message: str,
    line: int,
    write: Callable[[str], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = write(text)
    assert main(["audit", "--step", f"{name}:{function}"]) == 2
    said = error_line(capsys)
    assert said.startswith(f"error: --step '{name}:{function}': {tmp_path}/{name}.py:{line}: ")
    assert message in said
    assert main(["audit", "--step", f"{name}:{function}", "--debug"]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f():\n    return nn.Linear(2, 2)\n", "must return .model, step., .*; got a Linear$"),
        ("def f():\n    return 1, 2, 3\n", "got 3 values$"),
        ("def f():\n    return nn.Linear(2, 2), 3\n", "got a Linear and a int$"),
        ("def f():\n    return nn.ReLU(), print\n", "the model has no parameter that could be"),
        ("def f():\n    yield\n", "got a NoneType$"),
        ("f = 3\n", "has a int, no function, called 'f'$"),
        ("g = 3\n", "has no function called 'f'$"),
        ("def f(x):\n    pass\n", "TypeError: f.. missing 1 required positional argument: 'x'$"),
        ("def f():\n    return nn.Linear(2, 2), lambda: None\n", "no loss that the audit can see"),
    ],
)
def test_what_a_function_must_return(
    text: str, message: str, write: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = write(text)
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(".")
        with pytest.raises(LocalgradError, match=message):
            audit_step(f"{name}:f")
    assert main(["audit", "--step", f"{name}:f"]) == 2
    error_line(capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--step", "nothing_here:f"], "ModuleNotFoundError: No module named 'nothing_here'"),
        (["--step", "json"], "--step 'json': expected package.module:function"),
        (["--step", "json:dumps", "--blocks", "3"], "--step brings its own network and data"),
        (["--step"], "--step needs a value"),
    ],
)
def test_mistakes(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", *words]) == 2
    assert message in error_line(capsys)


def test_a_function_that_yields_cleans_up(write: Callable[[str], str]) -> None:
    text = """
done = []
def f():
    model = nn.Linear(2, 2)
    yield model, lambda: F.mse_loss(model(torch.ones(1, 2)), torch.zeros(1, 2)).backward()
    done.append("after")
def g():
    try:
        yield nn.Linear(2, 2), lambda: 1 / 0
    finally:
        done.append("failed")
"""
    name = write(text)
    assert main(["audit", "--step", f"{name}:f"]) == 0
    assert main(["audit", "--step", f"{name}:g"]) == 2
    assert sys.modules[name].done == ["after", "failed"]
