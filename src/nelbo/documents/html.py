"""HTML of results: the tables that the report and notebooks share, and what a notebook shows of a result.

jinja2 is imported when something is shown. The templates escape every text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class View:
    """What a notebook shows: a line of summary, a table (`kind` is a macro of tables.html, called with `arguments`),
    warnings, and facts by name."""

    summary: str
    kind: str
    arguments: tuple[Any, ...]
    warnings: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)


@cache
def environment(*folders: Path) -> Any:
    """A jinja2 environment of the templates in `folders` and of the tables that all share."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader([*folders, TEMPLATES], encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def rendered(view: View) -> str:
    """The view as a fragment of HTML with a style of its own; it takes the colours of the notebook."""
    return environment().get_template("notebook.html").render(view=view)
