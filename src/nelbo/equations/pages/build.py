"""Write the whole site."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nelbo._version import __version__
from nelbo.equations.pages import folder, typeset
from nelbo.equations.pages.contents import Contents, measured, read
from nelbo.equations.pages.typeset import Typesetter
from nelbo.equations.pages.views import MEANING, Views
from nelbo.typing import Json

TEMPLATES = Path(__file__).parent / "templates"

SECTIONS = (
    ("index", "Equations", "index.html"),
    ("derivations", "Derivations", "derivations.html"),
    ("sources", "Sources", "sources.html"),
    ("graph", "Graph", "graph.html"),
    ("figure", "Figure", "figure.html"),
)


@dataclass(frozen=True)
class Built:
    """A site that was written: its folder, how many pages it has, its size in bytes, and the entries and
    derivations whose checks failed."""

    out: Path
    pages: int
    bytes: int
    failed: tuple[str, ...]


def build(
    out: str | Path, *, verify: bool | str | Path = True, progress: Callable[[int, int], None] | None = None
) -> Built:
    """Write the site of the catalogue into the folder `out`, which is new, empty, or of an earlier build.

    verify: run all checks for the figures that the pages show (True), show none (False), or read them from a file that
    `nelbo equations verify --json` wrote. progress: called with (done, planned) as the checks run. An interrupted build
    leaves what was there.
    Errors: UsageError for a folder with other files, DataError for a file without results, OSError where it cannot be
    written.

    >>> from nelbo.equations import pages
    >>> pages.build("equations-site", verify=False).failed        # doctest: +SKIP
    ()
    """
    out = Path(out)
    folder.check(out)  # before the checks take their time
    contents = read(measured(verify, progress))
    files = dict(render(contents))
    pages = sum(name.endswith(".html") for name in files)
    failed = tuple(id for id, r in {**contents.results, **contents.walked}.items() if not r["ok"])
    return Built(out, pages, folder.replace(out, files), failed)


def render(contents: Contents) -> Iterator[tuple[str, bytes | str]]:
    """Every file of the site: its path and its content."""
    views = Views(contents, Typesetter(typeset.fragments()))
    page = _Pages()
    yield "index.html", page("index.html", "", here="index", **views.index())
    entries = list(contents.entries.values())
    neighbours = zip([None, *entries], entries, [*entries[1:], None], strict=False)
    for before, e, after in neighbours:
        values: Json = {name: other and views.link(other.id) for name, other in (("before", before), ("after", after))}
        yield f"equations/{e.id}.html", page("equation.html", "../", here="", entry=views.equation(e), **values)
    walks = views.walks()
    yield "derivations.html", page("derivations.html", "", here="derivations", walks=walks)
    for walk in walks:
        yield walk["href"], page("derivation.html", "../", here="", walk=walk)
    documents = views.documents()
    yield "sources.html", page("sources.html", "", here="sources", documents=documents)
    for document in documents:
        yield document["href"], page("source.html", "../", here="", document=document)
    yield "graph.html", page("graph.html", "", here="graph", **views.graph())
    yield "figure.html", page("figure.html", "", here="figure", inline_script=True, figure=_figure())
    yield "assets/katex.css", typeset.stylesheet()
    yield "assets/LICENSE-katex.txt", (typeset.FOLDER / "LICENSE").read_bytes()
    for name in ("site.css", "site.js"):
        yield f"assets/{name}", (TEMPLATES / name).read_bytes()


def asked() -> dict[typeset.Kind, set[str]]:
    """Every formula that the site shows, by kind: what `make katex` sets."""
    contents = read()
    typesetter = Typesetter(None)
    views = Views(contents, typesetter)
    views.index()
    for e in contents.entries.values():
        views.equation(e)
    views.walks()
    views.documents()
    return typesetter.asked


class _Pages:
    """The templates; all text is escaped except for HTML made by this package."""

    def __init__(self) -> None:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        self.environment = Environment(
            loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.globals.update(sections=SECTIONS, version=__version__, meaning_of=MEANING)

    def __call__(self, template: str, root: str, **values: Any) -> str:
        return self.environment.get_template(template).render(root=root, **values)


def _figure() -> Any:
    """The interactive figure: a drawing and a script made by this package."""
    from markupsafe import Markup

    from nelbo.equations.pages.figure import figure_html

    return Markup(figure_html())
