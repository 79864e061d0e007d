"""The catalogue: entries joined to the code that implements them and to the checks that run them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

from nelbo.equations import entry as entries
from nelbo.equations.check import CHECKS, Checks
from nelbo.equations.coverage import Document, documents
from nelbo.equations.entry import Entry
from nelbo.equations.places import Place, markers
from nelbo.errors import UnknownNameError

FOLDER = Path(__file__).parent / "entries"


class Catalogue(Mapping[str, Entry]):
    """id -> `Entry`, in the order of the groups, and within a group in the order of reading.

    >>> import nelbo
    >>> catalogue = nelbo.equations.catalogue()
    >>> catalogue["posterior-mean"].title
    'Forward posterior mean'
    >>> [e.id for e in catalogue.search("posterior variance")][:1]
    ['posterior-variance']
    """

    def __init__(self, entries: Mapping[str, Entry]):
        self._entries = dict(entries)

    def __getitem__(self, id: str) -> Entry:
        """Errors: UnknownNameError, a KeyError too, naming near ids."""
        try:
            return self._entries[id]
        except KeyError:
            raise UnknownEntryError.of("equation", id, self._entries) from None

    def __contains__(self, id: object) -> bool:
        return id in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Catalogue of {len(self)} equations"

    def search(self, words: str) -> list[Entry]:
        """Entries that contain all of the words; those with the words in their title come first.

        Case does not matter. Title, id, tags, statement, LaTeX, symbols and source rows are searched.
        """
        terms = words.lower().split()
        matches = []
        for place, e in enumerate(self.values()):
            title, name = e.title.lower(), f"{e.id.replace('-', ' ')} {e.id} {' '.join(e.tags)}".lower()
            rest = " ".join((e.statement, e.latex, *e.symbols, *e.symbols.values(), e.group, e.kind)).lower()
            rest += " " + " ".join(f"{s.row} {s.document} {s.where} {s.status} {s.printed}" for s in e.sources).lower()
            scores = [4 * (w in title) + 2 * (w in name) + (w in rest) for w in terms]
            if all(scores):
                matches.append((-sum(scores), place, e))
        return [e for *_, e in sorted(matches, key=lambda f: f[:2])]

    def by_tag(self, tag: str) -> list[Entry]:
        """Entries with a tag. Errors: UnknownNameError listing the tags."""
        if tag not in self.tags:
            raise UnknownNameError.of("tag", tag, self.tags)
        return [e for e in self.values() if tag in e.tags]

    def by_status(self, status: str) -> list[Entry]:
        """Entries that some source prints with a status ("misprinted", …). Errors: UnknownNameError."""
        if status not in entries.STATUSES:
            raise UnknownNameError.of("status", status, entries.STATUSES)
        return [e for e in self.values() if status in e.statuses]

    def by_source(self, document: str) -> list[Entry]:
        """Entries that a source document ("000" … "004") prints. Errors: UnknownNameError."""
        if document not in self.documents:
            raise UnknownNameError.of("source document", document, self.documents)
        return [e for e in self.values() if document in e.documents]

    @property
    def tags(self) -> tuple[str, ...]:
        """Every tag, sorted."""
        return tuple(sorted({t for e in self.values() for t in e.tags}))

    @property
    def documents(self) -> dict[str, Document]:
        """The source documents with their printed rows."""
        return documents()

    def implementations(self, id: str) -> tuple[Place, ...]:
        """The functions of the library that implement an entry, with file, line and source."""
        return tuple(Place.of(name) for name in markers().get(self[id].id, ()))

    def check(self, id: str) -> Callable[[Checks], None] | None:
        """The function that checks an entry, or None."""
        _import_checks()
        return CHECKS.get(self[id].id)


class UnknownEntryError(UnknownNameError, KeyError):
    """No equation has this id; the hint names the nearest ids."""

    __str__ = UnknownNameError.__str__

    @classmethod
    def of(cls, kind: str, name: object, choices) -> UnknownEntryError:
        """The error for an unknown id; it names only near ids, since the whole list is too long to read."""
        from difflib import get_close_matches

        known = list(choices)
        words = [w for w in str(name).lower().replace("_", "-").split("-") if len(w) > 2]
        near = get_close_matches(str(name).lower(), known, n=4, cutoff=0.55)
        near += [i for i in known if i not in near and any(w in i.split("-") for w in words)]
        guess = f"near to it: {', '.join(near[:6])}; " if near else ""
        return cls(f"unknown {kind} {name!r}", f"{guess}`nelbo equations list` shows all {len(known)}")


@cache
def catalogue() -> Catalogue:
    """The catalogue, read once. Errors: DataError where an entry file is damaged."""
    read = [entries.load(path) for path in FOLDER.glob("*.toml")]
    return Catalogue({e.id: e for e in sorted(read, key=lambda e: (e.letter, e.place, e.id))})


def _import_checks() -> None:
    import nelbo.equations.checks  # noqa: F401
