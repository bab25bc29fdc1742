"""Doctests in their own colours: GitHub knows a session as ``python``, Pygments as ``pycon``."""

from __future__ import annotations

from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Name the blocks that begin with a prompt as sessions."""
    return markdown.replace("```python\n>>> ", "```pycon\n>>> ")
