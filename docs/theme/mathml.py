"""Formulas as MathML, made when the site is built: browsers draw it, no script is needed.

``pymdownx.arithmatex`` finds ``$..$`` and ``$$..$$`` in the Markdown, which GitHub renders as well.
"""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_content(html: str, **_: Any) -> str:
    """Turn every formula of a page into MathML."""
    html = INLINE.sub(lambda found: convert(unescape(found[1])), html)
    return BLOCK.sub(lambda found: _block(unescape(found[1])), html)


def _block(tex: str) -> str:
    return f'<div class="formula">{convert(tex, display="block")}</div>'
