"""torchvision's wheel for CUDA imports beside a CPU build of torch once these names exist."""

from __future__ import annotations

import contextlib
import importlib.util

import torch

if importlib.util.find_spec("torchvision") is not None:
    for _name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # a CPU build of torchvision defines them itself
            torch.library.define(
                f"torchvision::{_name}",
                "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            )

collect_ignore = ["two_processes.py", "compiled_in_process.py"]  # scripts that tests start
