"""The pages of docs/ with cells, as notebooks under examples/notebooks/, without output.

    make notebooks          write them again, after a change of a page

Links lead to the pages in docs/, and roles such as {func}`nelbo.compare` are the names in them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS, FOLDER = ROOT / "docs", ROOT / "examples" / "notebooks"
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.M | re.S)
HEAD = re.compile(r"\A---\nfile_format: mystnb\n.*?^---\n", re.M | re.S)
ROLE = re.compile(r"\{\w+\}`~?([^`<]*?)(?: ?<[^>]*>)?`")
LINK = re.compile(r"\]\((?!\w+:)([^)#]+)(#[^)]*)?\)")


def notebooks() -> dict[str, str]:
    """The text of every notebook by its file name."""
    pages = [page for page in sorted(DOCS.rglob("*.md")) if "_build" not in page.parts and HEAD.match(page.read_text())]
    stems = [page.stem for page in pages]
    names = [p.stem if stems.count(p.stem) == 1 else f"{p.parent.name}_{p.stem}" for p in pages]
    made = zip(names, pages, strict=True)
    return {f"{name}.ipynb": json.dumps(notebook(page), indent=1, ensure_ascii=False) + "\n" for name, page in made}


def notebook(page: Path) -> dict[str, Any]:
    """One page: text and cells in turn."""
    cells, parts = [], CELL.split(HEAD.sub("", page.read_text()))
    for k, part in enumerate(parts):
        text = part.strip("\n") if k % 2 else _text(part, page)
        if not text:
            continue
        common = {"id": f"cell-{len(cells)}", "metadata": {}, "source": text.splitlines(keepends=True)}
        code = {"cell_type": "code", "execution_count": None, **common, "outputs": []}
        cells.append(code if k % 2 else {"cell_type": "markdown", **common})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _text(part: str, page: Path) -> str:
    def link(match: re.Match[str]) -> str:
        target = (page.parent / match[1]).resolve().relative_to(ROOT)
        return f"](../../{target}{match[2] or ''})"

    return LINK.sub(link, ROLE.sub(r"`\1`", part)).strip("\n")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    made = notebooks()
    for old in FOLDER.glob("*.ipynb"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"{len(made)} notebooks in {FOLDER}")
