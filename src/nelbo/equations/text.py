"""An entry as text for a terminal."""

from __future__ import annotations

import textwrap

from nelbo.equations.entry import Entry
from nelbo.equations.readable import readable
from nelbo.equations.registry import catalogue
from nelbo.equations.verify import Result, line

WIDTH = 100


def show(id: str, result: Result | None = None) -> str:
    """Everything that the catalogue holds about an entry; `result` adds the figures of its check.

    Errors: UnknownNameError for an id that the catalogue does not have.
    """
    known = catalogue()
    e = known[id]
    parts = [f"{e.title}\n{e.id} · {e.group} · {e.kind}\ntags: {', '.join(e.tags)}"]
    parts.append(f"{_indented(readable(e.latex))}\n\nLaTeX\n{textwrap.indent(e.latex, '  ')}")
    parts.append(_wrapped(e.statement))
    if e.symbols:
        letters = {readable(symbol): meaning for symbol, meaning in e.symbols.items()}
        width = min(16, max(map(len, letters)))
        parts.append(_block("Symbols", [f"{letter:<{width}}  {meaning}" for letter, meaning in letters.items()]))
    if e.assumptions:
        parts.append(_block("Assumes", [readable(a) for a in e.assumptions]))
    if e.references:
        parts.append(_block("References", [str(r) for r in e.references]))
    parts.append(_sources(e))
    places = [f"{p.name}  ({p.file}:{p.line})" for p in known.implementations(id)]
    parts.append(_block("Implemented in", places or [e.code]))
    parts.append(_block("Related", [f"{o}: {known[o].title}" for o in e.related if o in known]))
    parts.append(_block("A step of", [f"the derivation {walk}" for walk in e.derivations]))
    if result is not None:
        parts.append(_block(f"Check: {'passed' if result.ok else 'FAILED'}", [line(row) for row in result.checks]))
        parts.append(f"Run it again: nelbo equations verify {e.id}")
    return "\n\n".join(p for p in parts if p)


def _sources(e: Entry) -> str:
    if e.beyond:
        return "Printed in none of the source documents."
    lines = []
    for s in e.sources:
        lines.append(f"{s.row}  {s.where}: {s.status}")
        if s.status != "correct":
            lines.append(f"    printed  {readable(s.printed)}")
        if s.right:
            lines.append(f"    right    {readable(s.right)}")
        if s.why:
            lines.append(f"    why      {readable(s.why)}")
        lines += [f"    seen     {x.split(': ', 1)[-1]}" for x in s.evidence]
    return _block("Sources", lines)


def _block(title: str, lines: list[str]) -> str:
    return "\n".join([title, *(_indented(one) for one in lines)]) if lines else ""


def _indented(text: str) -> str:
    lead = " " * (2 + len(text) - len(text.lstrip()))
    return textwrap.fill(
        text.strip(), WIDTH, initial_indent=lead, subsequent_indent=f"{lead}    ", break_long_words=False
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH)
