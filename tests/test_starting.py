"""What the command line sets before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = "import os, localgrad; print(os.environ.get('GOMP_SPINCOUNT'))"


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("localgrad", {}, "10000"),
        ("localgrad", {"GOMP_SPINCOUNT": "7"}, "7"),
        ("localgrad", {"OMP_WAIT_POLICY": "active"}, "None"),
        ("other_program", {}, "None"),
    ],
)
def test_threads_of_a_command_that_wait_soon_sleep(
    tmp_path: Path, name: str, given: dict[str, str], expected: str
) -> None:
    (tmp_path / name).write_text(SCRIPT)
    settings = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    own = {key: value for key, value in os.environ.items() if key not in settings} | given
    line = [sys.executable, str(tmp_path / name)]
    found = subprocess.run(line, env=own, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == expected
