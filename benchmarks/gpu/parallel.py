"""The comparison of ``benchmarks/cpu/parallel.py`` with a GPU for each process, over NCCL.

    python benchmarks/gpu/parallel.py --json benchmarks/results/parallel-gpu.json
    python benchmarks/gpu/parallel.py --network resnet101 --blocks 2 8 33 --batch 256 --json FILE

Times are taken by CUDA events. Idle shares are those of all steps, filling included. Awaits its
first run on several GPUs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from parallel_step import launch

if __name__ == "__main__":
    chosen = launch.parsed(__doc__, "cuda")
    count = torch.cuda.device_count()
    if count < chosen.processes:
        sys.exit(f"error: {chosen.processes} processes need as many GPUs, this machine has {count}")
    launch.run(chosen)
