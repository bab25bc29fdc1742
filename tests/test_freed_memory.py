"""Memory that was freed stays with the process: the kernel is asked for no page twice."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch, localgrad

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(12 * 2**20)  # 48 MiB, above what malloc keeps of itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(2)
print(faults(10))
print(localgrad.keep_freed_memory())
faults(2)
print(faults(10))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone")
def test_no_page_comes_twice() -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    before, kept, after = found.stdout.split()
    if kept == "False":
        pytest.skip("not the GNU C library")
    assert int(before) >= 10 * 48  # at 1 MiB a page or less
    assert int(after) < int(before) / 20
