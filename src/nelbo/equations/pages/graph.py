"""The graph of the catalogue: a box for each equation, a line between related ones, the groups side by side in columns.

Small groups share a column. Within a group the boxes stand in the order of reading, so that a derivation runs downward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 236, 26
"""Size of a box."""
GAP_X, GAP_Y, TOP, MARGIN = 70, 8, 12, 18
HEAD = 2
"""Rows that the name of a group takes, with the space above it."""
SPARE = 8
"""A column may be so many rows longer than the longest group."""
LETTERS = 32
"""Most letters of a title in its box; all of them are in its tooltip."""


@dataclass(frozen=True)
class Node:
    """One box: an equation, where its page is, its group, and its title as SVG text where that differs."""

    id: str
    title: str
    href: str
    group: str
    label: str = ""


def svg(nodes: Sequence[Node], edges: Sequence[tuple[str, str]]) -> str:
    """The drawing. edges: pairs of ids, whose direction does not matter."""
    groups: dict[str, list[str]] = {}
    for node in nodes:
        groups.setdefault(node.group, []).append(node.id)
    known = {node.id: node for node in nodes}
    pairs = sorted({(min(e), max(e)) for e in edges if e[0] != e[1] and e[0] in known and e[1] in known})
    columns = pack({group: len(ids) for group, ids in groups.items()})
    row = rows(groups, columns)
    column = {group: place for place, members in enumerate(columns) for group in members}
    place = {
        id: (MARGIN + column[group] * (WIDTH + GAP_X), TOP + row[id] * (HEIGHT + GAP_Y))
        for group, ids in groups.items()
        for id in ids
    }
    width = 2 * MARGIN + len(columns) * (WIDTH + GAP_X)
    height = TOP + (max(row.values(), default=0) + 1) * (HEIGHT + GAP_Y) + MARGIN
    heads = "".join(_head(group, *place[ids[0]]) for group, ids in groups.items())
    lines = "".join(f'<path data-ends="{escape(a)} {escape(b)}" d="{_curve(place[a], place[b])}"/>' for a, b in pairs)
    boxes = "".join(_box(known[id], *place[id]) for ids in groups.values() for id in ids)
    return (
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="group" aria-label="Equations and '
        f'their relations; the list below says the same"><g aria-hidden="true">{heads}{lines}</g>{boxes}</svg>'
    )


def pack(sizes: Mapping[str, int]) -> list[list[str]]:
    """The groups in their order as columns: a group joins the column before where both are short enough."""
    most = max(sizes.values(), default=0) + SPARE
    columns: list[list[str]] = []
    for group, size in sizes.items():
        if columns and sum(sizes[g] + HEAD for g in columns[-1]) + size + HEAD <= most:
            columns[-1].append(group)
        else:
            columns.append([group])
    return columns


def rows(groups: Mapping[str, Sequence[str]], columns: Sequence[Sequence[str]]) -> dict[str, int]:
    """The row of each box in its column, from the top."""
    row: dict[str, int] = {}
    for column in columns:
        first = 0
        for group in column:
            first += HEAD - (first == 0)
            row.update({id: first + place for place, id in enumerate(groups[group])})
            first += len(groups[group])
    return row


def _head(group: str, x: int, y: int) -> str:
    return f'<text class="head" x="{x + 2}" y="{y - 12}">{escape(group)}</text>'


def _curve(a: tuple[int, int], b: tuple[int, int]) -> str:
    """A line from the side of one box to the side of another; within a column a bow to the right."""
    (xa, ya), (xb, yb) = sorted((a, b))
    ya, yb = ya + HEIGHT // 2, yb + HEIGHT // 2
    if xa == xb:
        x, bow = xa + WIDTH, 14 + min(46, abs(yb - ya) // 8)
        return f"M{x} {ya}C{x + bow} {ya} {x + bow} {yb} {x} {yb}"
    start, bend = xa + WIDTH, max(36, (xb - xa - WIDTH) // 2)
    return f"M{start} {ya}C{start + bend} {ya} {xb - bend} {yb} {xb} {yb}"


def _box(node: Node, x: int, y: int) -> str:
    whole = len(node.title) <= LETTERS
    label = (node.label or escape(node.title)) if whole else escape(node.title[: LETTERS - 1].rstrip()) + "…"
    return (
        f'<a id="{escape(node.id)}" href="{escape(node.href)}" data-node="{escape(node.id)}" '
        f'aria-label="{escape(node.title)}"><title>{escape(node.title)}</title>'
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>'
        f'<text x="{x + 9}" y="{y + 17}">{label}</text></a>'
    )
