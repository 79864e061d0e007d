"""The values that the templates show, page by page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from nelbo.equations.derivation import Derivation
from nelbo.equations.entry import GROUPS, STATUSES, Entry, SourceRow
from nelbo.equations.pages import graph
from nelbo.equations.pages.code import highlighted
from nelbo.equations.pages.contents import Contents
from nelbo.equations.pages.measures import KIND, condition, figure, how_close, without_id
from nelbo.equations.pages.typeset import Typesetter, glimpse, signs
from nelbo.typing import Json

MEANING = {
    "correct": "right as printed",
    "misprinted": "a symbol, index or sign is wrong",
    "garbled": "layout or scanning destroyed it",
    "loose": "true with a caveat",
    "overclaim": "false as stated",
}
"""Status of a printed row -> what it says."""

OPEN_LINES = 45
"""One or two functions of at most so many lines are shown unfolded."""


class Views:
    """The values of every page, from the contents, typeset."""

    def __init__(self, contents: Contents, typesetter: Typesetter):
        self.contents = contents
        self.set = typesetter

    # ------------------------------------------------------------ links

    def link(self, id: str) -> Json:
        return {**self.title(self.contents.entries[id].title), "href": f"equations/{id}.html", "id": id}

    def title(self, text: str) -> Json:
        """A title as HTML, and as plain text for what is only read aloud or too small."""
        return {"title": self.set.prose(text), "plain": signs(text)}

    def links(self, ids: Iterable[str]) -> list[Json]:
        return [self.link(id) for id in ids if id in self.contents.entries]

    def group(self, e: Entry) -> Json:
        name = e.group[2:]
        return {"name": name[0].upper() + name[1:], "anchor": f"group-{e.letter}"}

    # ------------------------------------------------------------ an equation

    def equation(self, e: Entry) -> Json:
        return {
            "id": e.id,
            **self.title(e.title),
            "group": self.group(e),
            "kind": e.kind,
            "tags": e.tags,
            "latex": e.latex,
            "html": self.set.display(e.latex),
            "statement": self.set.prose(e.statement),
            "symbols": [(self.set.inline(s), self.set.prose(meaning)) for s, meaning in e.symbols.items()],
            "assumptions": [self.set.prose(a) for a in e.assumptions],
            "rows": [{**self.row(s), "href": f"sources/{s.document}.html#{s.row}"} for s in e.sources],
            "code": self.code(e),
            "without_code": self.set.prose(e.code.removeprefix("none: ")) if e.code else "",
            "check": self.check(e),
            "related": self.links(e.related),
            "mentioned": self.links(i for i in self.mentions.get(e.id, ()) if i not in e.related),
            "derivations": [self.walk_link(i) for i in self.used_in.get(e.id, ())],
            "references": [{"text": str(r), "url": r.url} for r in e.references],
        }

    def row(self, s: SourceRow) -> Json:
        return {
            "id": s.row,
            "document": self.contents.documents[s.document].title,
            "where": self.set.prose(s.where),
            "status": s.status,
            "printed": self.set.written(s.printed, verbatim=True),
            "right": self.set.written(s.right) if s.right else None,
            "why": self.set.prose(s.why) if s.why else None,
            "evidence": [self.set.prose(without_id(line), formulas=False) for line in s.evidence],
        }

    def code(self, e: Entry) -> list[Json]:
        places = self.contents.places.get(e.id, ())
        return [
            {
                "name": p.name.removeprefix("nelbo."),
                "file": p.file,
                "line": p.line,
                "html": highlighted(p.source),
                "open": len(places) <= 2 and p.source.count("\n") <= OPEN_LINES,
            }
            for p in places
        ]

    def check(self, e: Entry) -> Json | None:
        result = self.contents.results.get(e.id)
        if result is None:
            return None
        return {
            "ok": result["ok"],
            "took": f"It took {result['seconds']:.2g} seconds.",
            "misprints": any(c["kind"].endswith("must_fail") for c in result["checks"]),
            "checks": [
                {
                    "name": self.set.prose(c["name"], formulas=False),
                    "kind": KIND.get(c["kind"], c["kind"]),
                    "expected": "" if c["expected"] == "true" else condition(c["expected"]),
                    "observed": figure(c["observed"]),
                    "ok": c["ok"],
                }
                for c in result["checks"]
            ],
        }

    @cached_property
    def mentions(self) -> dict[str, list[str]]:
        """id -> the entries that name it as related."""
        named: dict[str, list[str]] = {}
        for e in self.contents.entries.values():
            for other in e.related:
                named.setdefault(other, []).append(e.id)
        return named

    # ------------------------------------------------------------ the index

    def index(self) -> Json:
        entries = self.contents.entries
        results = self.contents.results
        rows = [row for d in self.contents.documents.values() for row in d.rows if row.ids]
        walks = [self.walk_card(w) for w in self.contents.walks.values()]
        shelves = [
            {**self.group(members[0]), "cards": [self.card(e) for e in members]}
            for members in ([e for e in entries.values() if e.group == g] for g in GROUPS)
            if members
        ]
        if walks:
            shelves.append({"name": "Derivations", "anchor": "derivations", "cards": walks})
        return {
            "groups": shelves,
            "counts": {
                "entries": len(entries),
                "coded": sum(bool(self.contents.places[id]) for id in entries),
                "passed": sum(r["ok"] for r in results.values()),
                "rows": len(rows),
                "documents": len(self.contents.documents),
                "wrong": sum(row.status != "correct" for row in rows),
            },
            "filters": self.filters(),
            "records": [*map(self.record, entries.values()), *map(self.walk_record, self.contents.walks.values())],
        }

    def filters(self) -> list[tuple[str, str, list[tuple[str, str]]]]:
        """Name of a choice, its label, and (value, words) of what can be chosen."""
        tags = sorted({t for e in self.contents.entries.values() for t in e.tags})
        sources = [(number, f"{number} · {d.title}") for number, d in self.contents.documents.items()]
        return [
            ("tag", "Tag", [(t, t) for t in tags]),
            ("source", "Source", [*sources, ("none", "beyond the sources")]),
            ("status", "Status", [(s, s) for s in STATUSES]),
        ]

    def card(self, e: Entry) -> Json:
        return {**self.link(e.id), "glimpse": glimpse(self.set.display(e.latex)), "statuses": e.statuses}

    def record(self, e: Entry) -> Json:
        """The record of an entry in the search index."""
        documents = self.contents.documents
        return {
            "id": e.id,
            "equation": True,
            "title": e.title,
            "tags": list(e.tags),
            "symbols": " ".join(f"{s} {meaning}" for s, meaning in e.symbols.items()),
            "latex": e.latex,
            "words": " ".join((e.statement, *e.assumptions, e.group, e.kind)),
            "sources": " ".join(
                [f"{s.row} {s.document} {documents[s.document].title} {s.where} {s.status}" for s in e.sources]
                + [str(r) for r in e.references]
            ),
            "printed": " ".join(s.printed for s in e.sources),
            "rows": [[s.document, s.status] for s in e.sources],
        }

    # ------------------------------------------------------------ derivations

    def walk_link(self, id: str) -> Json:
        return {**self.title(self.contents.walks[id].title), "href": f"derivations/{id}.html", "id": id}

    def walks(self) -> list[Json]:
        return [self.walk(w) for w in self.contents.walks.values()]

    def walk(self, w: Derivation) -> Json:
        steps = [
            {
                "html": self.set.display(step.latex),
                "rule": self.set.prose(step.rule),
                "plain": signs(step.rule),
                "entry": self.link(step.entry),
                "explanation": self.set.prose(step.explanation),
                "checks": self.compared(w, line),
            }
            for line, step in enumerate(w.steps, 1)
        ]
        ok = w.id in self.contents.walked and self.contents.walked[w.id]["ok"]
        return {**self.walk_link(w.id), "intro": self.set.prose(w.intro), "steps": steps, "ok": ok}

    def compared(self, w: Derivation, line: int) -> list[Json]:
        """How a line compares with the one before, as measured."""
        rows = self.contents.walked.get(w.id, {"checks": []})["checks"]
        return [
            {"ok": c["ok"], "text": f"{c['name']}{how_close(c)}"}
            for c in rows
            if re.match(rf"line {line}\b", c["name"])
        ]

    def walk_card(self, w: Derivation) -> Json:
        return {**self.walk_link(w.id), "glimpse": glimpse(self.set.display(w.steps[-1].latex)), "statuses": ()}

    def walk_record(self, w: Derivation) -> Json:
        words = " ".join((w.intro, *(f"{s.rule} {s.explanation}" for s in w.steps)))
        latex = " ".join(s.latex for s in w.steps)
        empty = {"tags": [], "symbols": "", "sources": "derivation", "printed": "", "rows": [], "equation": False}
        return {**empty, "id": w.id, "title": w.title, "latex": latex, "words": words}

    @cached_property
    def used_in(self) -> dict[str, list[str]]:
        """id -> the derivations with a step that it justifies."""
        used: dict[str, list[str]] = {}
        for w in self.contents.walks.values():
            for id in w.entries:
                used.setdefault(id, []).append(w.id)
        return used

    # ------------------------------------------------------------ the source documents

    def documents(self) -> list[Json]:
        return [self.document(number) for number in self.contents.documents]

    def document(self, number: str) -> Json:
        given = self.contents.documents[number]
        printed = {s.row: s for e in self.contents.entries.values() for s in e.sources}
        tally = Counter(row.status for row in given.rows)
        rows = []
        for row in given.rows:
            known = printed.get(row.row)
            rows.append(
                {
                    **(self.row(known) if known else {"printed": None, "right": None, "why": None, "evidence": []}),
                    "id": row.row,
                    "where": self.set.prose(row.where),
                    "status": row.status,
                    "entries": self.links(row.ids),
                    "out_of_scope": row.out_of_scope,
                }
            )
        return {
            "number": number,
            "title": given.title,
            "about": self.set.prose(given.about),
            "href": f"sources/{number}.html",
            "tally": [(s, tally[s]) for s in STATUSES if tally[s]],
            "rows": rows,
        }

    # ------------------------------------------------------------ the graph

    def node(self, e: Entry) -> graph.Node:
        lowered = r'<tspan dy="3" font-size="9">\1</tspan><tspan dy="-3">&#8203;</tspan>'
        label = re.sub("</?(?:i|sup)>", "", re.sub("<sub>(.*?)</sub>", lowered, str(self.link(e.id)["title"])))
        return graph.Node(e.id, signs(e.title), f"equations/{e.id}.html", self.group(e)["name"], label)

    def graph(self) -> Json:
        entries = self.contents.entries
        nodes = [self.node(e) for e in entries.values()]
        edges = [(e.id, other) for e in entries.values() for other in e.related if other in entries]
        groups: dict[str, list[Json]] = {}
        for e in entries.values():
            groups.setdefault(self.group(e)["name"], []).append({**self.link(e.id), "related": self.links(e.related)})
        return {
            "svg": _markup(graph.svg(nodes, edges)),
            "groups": [{"name": name, "entries": members} for name, members in groups.items()],
        }


def _markup(html: str) -> Any:
    from markupsafe import Markup

    return Markup(html)
