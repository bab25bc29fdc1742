"""Blocks in several processes beside DDP and pipelines of BP: seconds, idle time, memory, bytes.

    python benchmarks/cpu/parallel.py --json benchmarks/results/parallel.json

Two processes of one thread each, gloo. Every round runs each contender for some steps, in an order
that moves on: each rule in both processes and in one (the other waits, blocked), BP in one process
of one and of two threads, DDP, GPipe and 1F1B with stages that were fastest in a trial. Nothing
else should run meanwhile. Memory and bytes are of steps of their own, which are not timed; before
all, gradients of DDP and the pipelines are compared with BP's.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from parallel_step import launch

if __name__ == "__main__":
    launch.run(launch.parsed(__doc__, "cpu"))
