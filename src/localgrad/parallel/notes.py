"""What the processes of a run write for each other in the launcher's store.

The store is torchrun's, and outlives the processes that it has started. It holds short texts.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, Store

PATIENCE = 5.0  # seconds that an answer of the store may take


class Notes:
    """Texts by name. Every call raises RuntimeError where the store is gone."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @classmethod
    def find(cls) -> Notes | None:
        """Return those of this attempt of the launcher; None where there is no launcher."""
        try:
            if int(os.environ["WORLD_SIZE"]) < 2:
                return None
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            # torch says in many lines that nobody listens
            socket.create_connection((host, port), timeout=PATIENCE).close()
            wait = timedelta(seconds=PATIENCE)
            store = TCPStore(host, port, None, False, wait, wait_for_workers=False)
        except (KeyError, ValueError, OSError, RuntimeError):
            return None
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return cls(PrefixStore(f"localgrad/{attempt}", store))

    def put(self, name: str, text: str = "") -> None:
        """Write a note."""
        self._store.set(name, text)

    def first(self, name: str, text: str) -> str:
        """Write a note if there is none yet; return the one that is there."""
        return bytes(self._store.compare_set(name, "", text)).decode()

    def has(self, *names: str) -> bool:
        """Return whether all of them are there."""
        return bool(self._store.check(list(names)))

    def get(self, name: str) -> str:
        """Return a note that is there."""
        return bytes(self._store.get(name)).decode()

    def several(self, names: Sequence[str]) -> list[str]:
        """Return notes that are there."""
        return [bytes(found).decode() for found in self._store.multi_get(list(names))]

    def drop(self, name: str) -> None:
        """Remove a note, if it is there."""
        self._store.delete_key(name)
