"""The parameters of a function or class as a list, from its docstring and its signature.

A docstring says what parameters mean in running text: `name: what it is. other, third: what these are.`, or in a
sentence `name and other are as of …`. Here each becomes an entry with its type and default, and the text keeps what is
said of none.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

_END = re.compile(r"(?:^|(?<=[.;] ))(?:Errors|Source|Returns?): ")
_AS_OF = re.compile(r"^(?P<names>.*?)\b(?:is|are) (?P<what>as of .*)$")
_SENTENCE = re.compile(r"(?<=[.;]) (?=\S)")


def documented(obj: Any, lines: Iterable[str], plain: Callable[[str], str]) -> list[str]:
    """Lines of reStructuredText: the docstring with a list of parameters after its first paragraph of prose.

    plain: makes a line of text into markup.
    """
    lines, parameters = list(lines), _parameters(obj)
    if not parameters:
        return lines
    kept, found = [], {}
    for block in _blocks(lines):
        rest = _taken(block, parameters, found) if _is_text(block) else block
        if rest:
            kept.append(rest)
    if not found and not (inspect.isclass(obj) or obj.__qualname__ == obj.__name__):
        return lines  # a method whose names say enough
    kept = [block for k, block in enumerate(kept) if not _is_bare_heading(kept, k)]
    out: list[str] = []
    place = _place(kept)
    for k, block in enumerate(kept):
        if k == place:
            out += _list(parameters, found, plain)
        out += [*block, ""]
    return out if place < len(kept) else [*out, *_list(parameters, found, plain)]


def _parameters(obj: Any) -> dict[str, inspect.Parameter]:
    try:
        signature = inspect.signature(obj)
    except (TypeError, ValueError):
        return {}
    return {name: p for name, p in signature.parameters.items() if name not in ("self", "cls") and name[0] != "_"}


def _blocks(lines: Iterable[str]) -> list[list[str]]:
    """Paragraphs, each a list of its lines; a heading and the indented lines below it are two."""
    blocks: list[list[str]] = [[]]
    for line in lines:
        if not line.strip():
            blocks.append([])
            continue
        before = blocks[-1]
        if before and before[-1].rstrip().endswith(":") and line.startswith(" ") > before[-1].startswith(" "):
            blocks.append([])
        blocks[-1].append(line)
    return [block for block in blocks if block]


def _is_text(block: list[str]) -> bool:
    return not block[0].lstrip().startswith(">>>")


def _marker(names: Iterable[str]) -> re.Pattern[str]:
    one = "(?:" + "|".join(sorted(map(re.escape, names), key=len, reverse=True)) + ")"
    return re.compile(rf"(?:^|(?<=[.;:?] )|(?<=\) ))(?P<names>{one}(?:(?:, | and ){one})*)(?: \([^()]*\))?: (?=\S)")


def _taken(block: list[str], parameters: dict[str, inspect.Parameter], found: dict[str, str]) -> list[str]:
    """The block without what it says of parameters, which goes into `found`."""
    text = " ".join(line.strip() for line in block)
    end = _END.search(text)
    text, tail = (text[: end.start()].strip(), text[end.start() :]) if end else (text, "")
    markers = [*_marker(parameters).finditer(text)]
    rest = text[: markers[0].start()].strip() if markers else text
    for k, marker in enumerate(markers):
        said = text[marker.end() : markers[k + 1].start() if k + 1 < len(markers) else len(text)].strip()
        if said.endswith(":"):  # what follows is a table of it, which stays in its place
            rest = f"{rest} `{marker['names']}`: {said}".strip()
        said = _shared(said, parameters, found)
        for name in re.split(r", | and ", marker["names"]):
            found.setdefault(name, re.sub("[;:]$", ".", said))
    rest = _shared(rest, parameters, found)
    if text == rest:
        return block
    return [part for part in (rest, tail) if part]


def _shared(text: str, parameters: dict[str, inspect.Parameter], found: dict[str, str]) -> str:
    """Text without its sentences `a, b and c are as of …`, which go into `found`."""
    kept = []
    for sentence in _SENTENCE.split(text):
        match = _AS_OF.match(sentence)
        names = [w for w in re.findall(r"\w+", match["names"]) if w in parameters] if match else []
        if match and names:
            for name in names:
                found.setdefault(name, match["what"])
        else:
            kept.append(sentence)
    return " ".join(kept)


def _is_bare_heading(blocks: list[list[str]], k: int) -> bool:
    """Whether a line such as `How it is run:` has lost everything below it."""
    block = blocks[k]
    alone = len(block) == 1 and block[0].rstrip().endswith(":") and len(block[0].split()) < 6
    below = blocks[k + 1] if k + 1 < len(blocks) else [""]
    return alone and not below[0].startswith(" ")


def _place(blocks: list[list[str]]) -> int:
    """Before the errors, sources and examples, at the earliest after the first paragraph."""
    for k, block in enumerate(blocks[1:], 1):
        if block[0].lstrip().startswith((">>>", "Errors:", "Source:")):
            return k
    return len(blocks)


def _list(parameters: dict[str, inspect.Parameter], found: dict[str, str], plain: Callable[[str], str]) -> list[str]:
    lines = [".. rubric:: Parameters", ""]
    for name, p in parameters.items():
        kind = [] if p.annotation is p.empty else [f"*{_type(p.annotation)}*"]
        default = [] if p.default is p.empty else [f"default ``{p.default!r}``"]
        about = ", ".join(kind + default)
        star = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        said = found.get(name, "")
        said = plain(said if _named(said) else said[:1].upper() + said[1:]) if said else ""
        entry = f"- ``{star}{name}``" + (f" ({about})" if about else "") + (f": {said}" if said else "")
        lines.append(entry)
    return [*lines, ""]


def _named(text: str) -> bool:
    """Whether it begins with a symbol, whose letter stays as it is."""
    return not re.match(r"[a-z]{2}|a ", text)


def _type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    text = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text)
    return re.sub(r"([*`|\\_])", r"\\\1", text)
