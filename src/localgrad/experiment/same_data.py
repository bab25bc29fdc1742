"""Do all processes of a run have the same data?"""

from __future__ import annotations

from torch import Tensor

from localgrad.data import Dataset, TextDataset
from localgrad.parallel.agreement import digest
from localgrad.parallel.mesh import Mesh


def same_data(mesh: Mesh, data: Dataset | TextDataset) -> None:
    """Look whether every process has read the same data.

    Of images that are read while training, their number and labels are compared; the first batch
    is, too, with the first step.

    Raises:
        LocalgradError: on every process, naming the first that differs and in what.
    """
    facts = {f"data ({name})": str(value) for name, value in data.facts().items()}
    for split in ("train", "test"):
        held = getattr(data, split)
        facts[f"number of {split} inputs"] = str(len(held))
        for name in ("labels", "images", "tokens"):
            value = getattr(held, name, None)
            if isinstance(value, Tensor):
                facts[f"{split} {name}"] = digest(value)
    mesh.agree(facts, "give every process the same data (--data.path, LOCALGRAD_DATA)")
