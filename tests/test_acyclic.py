"""The contract against circles of imports notices one, of any length, and not the public package's own imports."""

from __future__ import annotations

import pytest
from grimp import ImportGraph
from tools.acyclic import Acyclic


@pytest.mark.parametrize(
    ("imports", "kept"),
    [
        ([("p.a", "p.b"), ("p.b", "p.c"), ("p.a", "p.c")], True),
        ([("p.a", "p.b"), ("p.b", "p.a")], False),
        ([("p.a", "p.b"), ("p.b", "p.c"), ("p.c", "p.a")], False),
        ([("p", "p.a"), ("p.a", "p")], True),
    ],
)
def test_circles_of_imports(imports, kept):
    graph = ImportGraph()
    for importer, imported in imports:
        graph.add_import(importer=importer, imported=imported)
    contract = Acyclic("circles", {"root_packages": ["p"]}, {"outside": ["p"]})
    assert contract.check(graph, verbose=False).kept is kept
