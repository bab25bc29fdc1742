"""Imports point downwards: the core imports torch alone, reports import no model."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "localgrad"
BELOW = {"networks", "data", "experiment", "search", "report", "cli", "adapters"}
CORE = [path for path in SOURCE.rglob("*.py") if not BELOW & set(path.relative_to(SOURCE).parts)]


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(SOURCE)))
def test_core_imports_torch_alone(path: Path) -> None:
    for name in imported(path):
        top = name.split(".")[0]
        assert top in sys.stdlib_module_names or top in ("torch", "localgrad"), name
        if path.name != "__main__.py":
            assert not (top == "localgrad" and name.split(".")[1:2] and name.split(".")[1] in BELOW)


@pytest.mark.parametrize(
    ("room", "allowed"),
    [("report", {"errors", "report"}), ("networks", {"errors", "layers", "networks"}),
     ("data", {"errors", "data"}), ("adapters", {"errors", "assembly", "learner", "adapters"})],
)  # fmt: skip
def test_rooms_know_little_of_each_other(room: str, allowed: set[str]) -> None:
    for path in (SOURCE / room).rglob("*.py"):
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "localgrad" and len(parts) > 1:
                assert parts[1] in allowed, f"{path.name} imports {name}"


def test_core_loads_no_extra() -> None:
    """``import localgrad`` works where nothing but torch is installed."""
    code = (
        "import sys, localgrad; "
        "extras = {'yaml', 'pydantic', 'rich', 'pyarrow', 'sklearn', 'matplotlib', 'datasets', "
        "'lightning', 'transformers', 'accelerate', 'optuna', 'sqlalchemy'}; "
        "assert not extras & set(sys.modules), extras & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
