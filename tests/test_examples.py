"""Every example runs, learns, and shows what it says it shows."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples"
PACKAGES = {
    "timm_model": "timm", "lightning_module": "lightning", "hf_trainer": "transformers",
    "accelerate_loop": "accelerate",
}  # fmt: skip


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example that the test is named after, under its own name: rules are found by name."""
    name = request.node.name.removeprefix("test_")
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason=f"{PACKAGES[name]} is not installed")
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in an empty folder, which stays empty; forget Accelerate's settings for the process."""
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def test_plain_loop(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    found = example.main()
    assert found.keys() == {"backprop", "greedy", "backlink"}
    assert min(found.values()) > 0.5
    printed = capsys.readouterr().out
    assert printed.count("accuracy of each block's exit") == 3
    assert "6, 9    pool_linear" in printed  # the table of blocks


def test_timm_model(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    found = example.main()
    assert found["backlink"][0] > 0.5
    assert found["backlink"][1] < found["backprop"][1]
    assert "blocks.3 " in capsys.readouterr().out  # units found by tracing


def test_own_rule(example: ModuleType) -> None:
    accuracy, reach = example.main()
    assert accuracy > 0.7
    assert reach.violations == []
    assert [row[:2] for row in reach.matrix.tolist()[:2]] == [[True, False], [True, True]]
    lines = (FOLDER / "own_rule.py").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if "the rule: from here" in line)
    stop = next(i for i, line in enumerate(lines) if "... to here" in line)
    assert 10 < stop - start - 1 < 40


def test_forgotten_detach(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    found = example.main()
    wrong, right = found["forgetful"].matrix, found["repaired"].matrix
    assert right.tolist() == [[k in (u, u - 4) for u in range(8)] for k in range(4)]
    assert (wrong != right).nonzero().tolist() == [[2, 1]]
    assert "   2 . # # . . . # ." in capsys.readouterr().out


# Lightning asks typing_extensions for a name that torch has deprecated
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_lightning_module(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = example.main()
    assert metrics["val_accuracy"] > 0.7
    assert "learner.backbone, learner.heads" in capsys.readouterr().out


def test_hf_trainer(example: ModuleType) -> None:
    accuracy, saved = example.main()
    assert accuracy > 0.4
    assert saved == pytest.approx(accuracy)


def test_accelerate_loop(example: ModuleType) -> None:
    assert example.main() > 0.7


def test_every_example_is_tested() -> None:
    names = {path.stem for path in FOLDER.glob("*.py")}
    assert names == {name.removeprefix("test_") for name in globals() if name[5:] in names}
