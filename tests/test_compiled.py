"""Compiled steps: one graph a segment, the gradients of plain steps, nothing else touched."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import localgrad
from foreign import inputs, make, targets
from localgrad import LocalgradError
from localgrad import methods as M
from localgrad.networks import gpt
from test_gradients import compare

from zoo import batch, build

RULES: list[tuple[M.Method, str]] = [
    (M.Backprop(), "mlp"),
    (M.DGL(), "mlp"),
    (M.InfoPro(first=(1, 0.5), last=(0.5, 1)), "plain_conv"),
    (M.AugLocal(1), "mlp"),
    (M.DeepSupervision(), "mlp"),
    (M.BackLink(), "residual"),
    (M.BackLink(keep_error=False, head="pool_linear"), "mlp"),
    (M.BackLink(length_unit="layer", head="pool_linear"), "residual"),
    (M.BackLink(length=9, combine="replace", weight=0.5), "mlp"),
]
# torch's own, where it looks at tensors to compile anew
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _nothing_stays_compiled() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def learner_of(rule: M.Method, chain: str = "residual", **options: Any) -> Any:
    x, y = batch(chain)
    return localgrad.decouple(build(chain), rule, example_input=x, **options), x, y


def compile_quickly(learner: localgrad.LocalLearner, x: Tensor, y: Tensor, **options: Any) -> Any:
    return learner.compile(x, y, **{"keep": "always", "backend": "aot_eager", **options})


def segments(learner: localgrad.LocalLearner) -> int:
    """Return how many runs of units and heads there are."""
    count = 0
    for group in learner._groups:
        for stage in group.stages:
            linked = group.linked if stage is group.stages[-1] else 0
            count += (len(stage.units) > linked) + (linked > 0) + 1
    return count


@pytest.mark.parametrize(("rule", "chain"), RULES, ids=str)
def test_a_graph_a_segment_and_the_gradients_of_the_oracle(rule: M.Method, chain: str) -> None:
    learner, x, y = learner_of(rule, chain, blocks=3)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    report = compile_quickly(learner, x, y)
    assert report.kept
    assert report.graphs == segments(learner)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == report.graphs
    assert report.difference <= 1e-12
    compare(learner, x, y)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == report.graphs


def test_a_link_is_walked_for_errors_then_for_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """No product of matrices is computed that the plain step does not compute."""
    from torch._dynamo.backends import debugging

    from localgrad import walked_twice

    learner, x, y = learner_of(M.BackLink(head="pool_linear"), "mlp")
    called: list[str] = []
    monkeypatch.setattr(debugging, "boxed_nop", lambda graph, examples: counting(graph))

    def counting(graph: Any) -> Any:
        def run(args: list[Any]) -> Any:
            called.extend(
                walked_twice._asked
                for n in graph.graph.nodes
                if n.target is torch.ops.aten.mm.default
            )
            return graph(*args)

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    compile_quickly(learner, x, y, check=False)
    called.clear()
    learner.step(x, y)
    middle = len(learner._groups) - 2  # the first one's input needs no error, the last has no link
    assert called.count(walked_twice.ERRORS) == middle
    assert called.count(walked_twice.WEIGHTS) == middle + 1


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, x, y = learner_of(M.BackLink(), "dropout", blocks=2)
    learner.step(x, y)
    calls: list[int] = []
    learner.backbone.calls = calls
    learner.backbone[1].register_forward_hook(lambda *_: calls.append(1))
    learner.backbone[1].register_forward_hook(lambda *_: None)
    state = {key: value.clone() for key, value in learner.state_dict().items()}
    gradients = [(p, p.grad, p.grad.clone()) for p in learner.parameters()]
    random, keys = torch.get_rng_state(), list(learner.backbone.state_dict())
    versions = [p._version for p in learner.parameters()]
    report = compile_quickly(learner, x, y, keep="if_faster", repeats=1, fallback=True)
    assert report.plain_ms is not None
    assert report.compiled_ms is not None
    assert all(torch.equal(value, state[key]) for key, value in learner.state_dict().items())
    assert list(learner.backbone.state_dict()) == keys
    assert all(p.grad is g and torch.equal(g, value) for p, g, value in gradients)
    assert torch.equal(torch.get_rng_state(), random)
    assert [p._version for p in learner.parameters()] == versions


def test_training_is_the_same_with_dropout_and_norms() -> None:
    found = []
    for compiled in (False, True):
        learner, x, y = learner_of(M.BackLink(), "dropout", blocks=2)
        if compiled:
            compile_quickly(learner, x, y)
        optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
        torch.manual_seed(1)
        for rows in (8, 8, 3):  # the last, short batch runs as it is
            optimizer.zero_grad()
            learner.step(x[:rows], y[:rows])
            optimizer.step()
        found.append(list(learner.state_dict().values()))
    for plain, other in zip(*found, strict=True):
        torch.testing.assert_close(plain, other, rtol=1e-9, atol=1e-12)


def test_kept_only_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    from localgrad import compiled

    learner, x, y = learner_of(M.Greedy(), "mlp", blocks=2)
    for times, kept in (((1.0, 0.5), True), ((1.0, 1.5), False)):
        monkeypatch.setattr(compiled, "_timed", lambda *_, found=times: found)
        report = compile_quickly(learner, x, y, keep="if_faster")
        assert report.kept is kept
        assert any(group.runs for group in learner._groups) is kept
        word = "kept" if kept else "not kept"
        assert str(report).endswith(
            f"a step takes {1e3 * times[1]:.1f} ms, plain 1000.0 ms; {word}"
        )


class Breaks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        out: Tensor = self.linear(x)
        return out


def broken() -> tuple[localgrad.LocalLearner, Tensor, Tensor]:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), Breaks(), nn.Linear(6, 6), nn.Linear(6, 3))
    x, y = torch.randn(8, 6), torch.randint(3, (8,))
    return localgrad.decouple(model, M.Greedy(), example_input=x), x, y


def test_a_graph_break_is_one_line_that_names_the_block() -> None:
    learner, x, y = broken()
    with pytest.raises(LocalgradError) as caught:
        compile_quickly(learner, x, y)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("block 1: torch.compile cannot make one graph of its units (")
    assert "give fallback=True" in text
    assert not any(group.runs for group in learner._groups)
    report = compile_quickly(learner, x, y, fallback=True)
    assert list(report.plain) == ["block 1 units"]
    assert report.graphs == segments(learner) - 1
    assert "block 1 units stays plain: " in str(report)
    compare_with_plain(learner, x, y)


def compare_with_plain(learner: localgrad.LocalLearner, x: Tensor, y: Tensor) -> None:
    other = copy.deepcopy(learner)
    for group in other._groups:
        group.runs = {}
    for each in (learner, other):
        each.zero_grad()
        torch.manual_seed(0)
        each.step(x, y)
    for p, q in zip(learner.parameters(), other.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad)


def test_wrong_gradients_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.backends import debugging

    nop = debugging.boxed_nop

    def spoilt(graph: Any, examples: Any) -> Any:
        run = nop(graph, examples)

        def twice(args: list[Any]) -> Any:
            return [v * 1.1 if isinstance(v, Tensor) and v.dim() == 2 else v for v in run(args)]

        twice._boxed_call = True  # type: ignore[attr-defined]
        return twice

    monkeypatch.setattr(debugging, "boxed_nop", spoilt)
    learner, x, y = learner_of(M.Greedy(), "mlp", blocks=2)
    with pytest.raises(LocalgradError, match="compiled steps differ from plain ones: the "):
        compile_quickly(learner, x, y)
    assert not any(group.runs for group in learner._groups)
    assert compile_quickly(learner, x, y, check=False).difference is None


def test_a_checkpointed_block_is_refused_or_left() -> None:
    learner, x, y = learner_of(M.Backprop("sqrt"), "mlp")
    with pytest.raises(LocalgradError, match="block 0: its units are checkpointed"):
        compile_quickly(learner, x, y)
    report = compile_quickly(learner, x, y, fallback=True)
    assert (report.graphs, list(report.plain)) == (1, ["block 0 units"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": "yes"}, "keep='yes': expected one of 'if_faster', 'always'"),
        ({"repeats": 0}, "repeats=0: must be a whole number"),
        ({"fullgraph": False}, "compile does not take 'fullgraph'"),
        ({"backend": "inductor", "mode": "reduce-overhead"}, "localgrad.CapturedStep"),
        ({"mode": "max-autotune-no-cudagraphs"}, "mode '.*' is inductor's"),
        ({"backend": "inductor", "mode": "fast"}, "mode 'fast': Unrecognized mode"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    learner, x, y = learner_of(M.Greedy(), "mlp", blocks=2)
    with pytest.raises(LocalgradError, match=message):
        compile_quickly(learner, x, y, **options)


def test_audit_counters_copies_release_and_hooks() -> None:
    learner, x, y = learner_of(M.BackLink(), blocks=2)
    plain = localgrad.measure_memory(lambda: learner.step(x, y), learner).activations
    learner.zero_grad()
    flops = localgrad.measure_flops(lambda: learner.step(x, y))
    learner.zero_grad()
    compile_quickly(learner, x, y)
    assert not localgrad.audit(lambda: learner.step(x, y), learner).violations
    learner.zero_grad()
    assert localgrad.measure_memory(lambda: learner.step(x, y), learner).activations == plain
    assert localgrad.measure_flops(lambda: learner.step(x, y)) == flops
    calls: list[int] = []
    handle = learner.backbone[3].conv1.register_forward_hook(lambda *_: calls.append(1))
    learner.step(x, y)  # a hook that comes later is not passed over
    assert calls == [1]
    handle.remove()
    learner.step(x, y)
    assert calls == [1]
    twin = copy.deepcopy(learner)
    compare(twin, x, y)  # compiles for itself: its own weights
    assert all(run is not learner._groups[0].runs[key] for key, run in twin._groups[0].runs.items())
    groups = learner._groups
    learner.release()
    assert not any(group.runs for group in groups)


def test_freezing_afterwards_is_seen() -> None:
    learner, x, y = learner_of(M.BackLink(), blocks=2)
    compile_quickly(learner, x, y)
    for frozen in ("0.weight", "4.conv2.weight"):
        learner.backbone.get_parameter(frozen).requires_grad_(False)
        learner.zero_grad()
        learner.step(x, y)
        for name, p in learner.backbone.named_parameters():
            assert (p.grad is None) == (not p.requires_grad), name


@pytest.mark.parametrize("name", ["resnet18", "vit", "gpt"])
def test_traced_models(name: str) -> None:
    options: dict[str, Any] = {}
    if name == "resnet18":
        models = pytest.importorskip("torchvision.models")
        model, x, y = models.resnet18(num_classes=5), torch.rand(2, 3, 32, 32), torch.tensor([0, 4])
    elif name == "vit":
        pytest.importorskip("timm")
        model, x, y = make("vit"), inputs("vit"), targets()
    else:
        pytest.importorskip("transformers")
        model = gpt(vocabulary=11, context=8, layers=2, width=8, heads=2, dropout=0.1)
        x = y = torch.randint(11, (4, 8))
        options = {"ties": "first", "loss": localgrad.losses.next_token}
    rule = M.Greedy() if name == "vit" else M.BackLink(head="pool_linear")
    learner = localgrad.decouple(model, rule, blocks=2, example_input=x, **options)
    report = compile_quickly(learner, x, y)
    assert report.graphs == segments(learner)
    assert not report.plain
    compare_with_plain(learner, x, y)


def test_inductor_with_a_cold_a_warm_and_a_misleading_cache(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    script = Path(__file__).with_name("compiled_in_process.py")
    for what in ("first", "then"):
        done = subprocess.run(
            [sys.executable, script, what], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        print(found)
    assert found["cold"] < 1e-5
    assert found["warm"] < 1e-5
    assert found["hits"] > 0
    assert found["misled"] > 0.1, "torch tells the caches apart now: the key is not needed any more"
    report = found["report"]
    assert report["graphs"] == 4
    assert report["difference"] < 1e-4
    assert report["kept"] is (report["compiled_ms"] < report["plain_ms"])
