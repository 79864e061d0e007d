"""The library's source, coloured."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup


@cache
def highlighted(source: str) -> Markup:
    """Python as HTML, whose text is the source to the letter; the classes are pygments' short ones."""
    from markupsafe import Markup
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return Markup(highlight(source, PythonLexer(stripnl=False, ensurenl=False), HtmlFormatter(nowrap=True)))
