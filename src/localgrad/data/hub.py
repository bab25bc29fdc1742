"""Data sets downloaded from the Hugging Face hub."""

from __future__ import annotations

from typing import Any

from localgrad.data.extra import extra, no_bars_in_files
from localgrad.data.specs import Spec
from localgrad.errors import LocalgradError


def download(spec: Spec) -> dict[str, Any]:
    """The train and test splits of a data set on the hub, through the library's own cache.

    Args:
        spec: with a ``hub_name``.

    Returns:
        ``{"train": ..., "test": ...}``, each a ``datasets.Dataset``.

    Raises:
        LocalgradError: if it cannot be downloaded, or has no such split.
    """
    datasets = extra("datasets", f"to download {spec.hub_name}")
    names = {"train": "train", "test": spec.test_split}
    options: dict[str, Any] = {}
    if spec.hub_files:
        options["data_files"] = {name: spec.hub_files.format(split=name) for name in names.values()}
    try:
        with no_bars_in_files(datasets):
            splits = datasets.load_dataset(spec.hub_name, **options)
    # The library passes on whatever its network stack and parsers raise.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        gated = "gated" in reason.lower() or "401" in reason
        login = "accept its terms on its page and log in by `hf auth login`, or " if gated else ""
        raise LocalgradError(
            f"cannot download {spec.hub_name} ({type(error).__name__}: {reason}); what has come is "
            f"kept in {_cache()} and used by the next try: {login}pass a path to a folder of its "
            "parquet files, or set LOCALGRAD_DATA to one"
        ) from error
    for name in names.values():
        if name not in splits:
            raise LocalgradError(
                f"{spec.hub_name} has no split {name}, only {', '.join(splits)}: pass a path to a "
                "folder of parquet files instead"
            )
    return {split: splits[name] for split, name in names.items()}


def _cache() -> str:
    return str(extra("huggingface_hub.constants", "to download data sets").HF_HUB_CACHE)
