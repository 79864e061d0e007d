"""The equation catalogue: every equation tied to the code that implements it and to a check that runs it.

`catalogue()` gives the entries, `verify()` runs their checks. An entry is a TOML file under `entries/`, a check a
function under `checks/`, and the code is whatever carries the marker `@equation("id")`. `derivations()` gives the
walks from entry to entry, `verify_derivations()` compares each of their lines with the one before.
"""

from nelbo.equations.check import Checks
from nelbo.equations.derivation import Derivation, derivations, verify_derivations
from nelbo.equations.entry import Entry, Reference, SourceRow
from nelbo.equations.registry import Catalogue, catalogue
from nelbo.equations.verify import Report, verify

__all__ = [
    "Catalogue",
    "Checks",
    "Derivation",
    "Entry",
    "Reference",
    "Report",
    "SourceRow",
    "catalogue",
    "derivations",
    "verify",
    "verify_derivations",
]
