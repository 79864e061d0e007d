"""A contract of import-linter: modules do not import each other in a circle, not even under TYPE_CHECKING.

`lint-imports` finds it by `contract_types` in pyproject.toml. `outside` names modules outside of every circle: the top
package, which lists public names of every floor and loads them on first use.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class Acyclic(Contract):
    """Kept where the modules can be put in an order in which each imports only from those before it."""

    outside = fields.SetField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        outside = set(self.outside)
        modules = graph.modules - outside
        try:
            TopologicalSorter({m: graph.find_modules_directly_imported_by(m) - outside for m in modules}).prepare()
        except CycleError as error:
            return ContractCheck(kept=False, metadata={"circle": error.args[1]})
        return ContractCheck(kept=True)

    def render_broken_contract(self, check: ContractCheck) -> None:
        output.print_error(" is imported by ".join(check.metadata["circle"]))
