"""What the command line sets before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = "import os, localgrad; print(os.environ.get('OMP_WAIT_POLICY'))"


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("localgrad", None, "passive"),
        ("localgrad", "active", "active"),
        ("other_program", None, "None"),
    ],
)
def test_threads_of_a_command_sleep_while_they_wait(
    tmp_path: Path, name: str, given: str | None, expected: str
) -> None:
    (tmp_path / name).write_text(SCRIPT)
    own = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    if given is not None:
        own["OMP_WAIT_POLICY"] = given
    line = [sys.executable, str(tmp_path / name)]
    found = subprocess.run(line, env=own, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == expected
