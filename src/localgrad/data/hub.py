"""Data sets downloaded from the Hugging Face hub."""

from __future__ import annotations

from localgrad.data.encoded import EncodedRows
from localgrad.data.extra import extra
from localgrad.data.parquet import rows_of
from localgrad.errors import LocalgradError


def download(hub_name: str) -> dict[str, list[EncodedRows]]:
    """The train and test rows of a data set on the hub, through the library's own cache.

    Args:
        hub_name: such as ``"uoft-cs/cifar10"``.

    Raises:
        LocalgradError: if it cannot be downloaded.
    """
    datasets = extra("datasets", f"to download {hub_name}")
    try:
        splits = datasets.load_dataset(hub_name)
    # The library passes on whatever its network stack and parsers raise.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise LocalgradError(
            f"cannot download {hub_name} ({type(error).__name__}: {reason}): pass a path to a "
            "folder of its parquet files, or set LOCALGRAD_DATA to one"
        ) from error
    rows = {}
    for split in ("train", "test"):
        if split not in splits:
            raise LocalgradError(
                f"{hub_name} has no split {split}, only {', '.join(splits)}: pass a path to a "
                "folder of parquet files instead"
            )
        table = splits[split]
        for column, feature in table.features.items():
            if isinstance(feature, datasets.Image):
                # As stored: the library would decode each image to an object of its own.
                table = table.cast_column(column, datasets.Image(decode=False))
        rows[split] = [rows_of(table.with_format("arrow")[:], f"{hub_name} ({split})")]
    return rows
