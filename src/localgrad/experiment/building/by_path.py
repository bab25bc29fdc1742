"""What an import path names, ``package.module:callable``: the user's own network or rule."""

from __future__ import annotations

import importlib
from typing import Any

from localgrad.errors import LocalgradError


def made_by(path: str, options: dict[str, Any], what: str) -> Any:
    """Call what ``package.module:callable`` names, with the options.

    Raises:
        LocalgradError: it cannot be imported, or the call fails, for whatever reason.
    """
    module, _, attribute = path.partition(":")
    try:
        builder = getattr(importlib.import_module(module), attribute)
        return builder(**options)
    except LocalgradError:
        raise
    # the code is the user's: it may raise anything
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise LocalgradError(
            f"{what} {path!r} cannot be built: {type(error).__name__}: {reason}"
        ) from error
