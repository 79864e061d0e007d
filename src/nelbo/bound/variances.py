"""A table of variances that was given in another form: as standard deviations, squared, or from noise to data.

The diffusion term under another table follows from the errors ‖x − x̂‖² that the pilot has seen. A table that is right
is near the variance β̃ of the posterior, or the larger one that a network needs, and these forms are far from both:

    ½ D (log v/β̃ + β̃/v − 1) + ½ c² E‖x − x̂‖² / v
"""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.visited import terms_at
from nelbo.maths.units import bits_per_dim
from nelbo.model.reverse import VarianceTable

LESS = 0.9
"""Share of the diffusion term below which another form of the table is said to be right."""
LEAST = 0.05
"""Bits/dim that it saves at least."""
FORMS = {
    "standard deviations": (Tensor.square, "squared", "torch.as_tensor(table) ** 2"),
    "variances squared": (Tensor.sqrt, "as their roots", "torch.as_tensor(table) ** 0.5"),
    "variances from noise to data": (lambda table: table.flip(0), "reversed", "torch.as_tensor(table).flip(0)"),
}


def notes(chain: GaussianChain, cells: dict[int, Tensor]) -> list[str]:
    """A note on a table of variances of which another form has a far lower bound; none for other policies."""
    own, nodes = chain.model.reverse.variance, torch.tensor([cell for cell in cells if cell >= 0])
    if not isinstance(own, VarianceTable) or not len(nodes):
        return []
    errors = torch.stack([cells[int(node)][:, 6].mean() for node in nodes])

    def bits(variance: VarianceTable) -> float:
        fixed, weights = terms_at(chain, nodes, variance)
        return float(bits_per_dim((fixed + weights * errors).sum(), chain.dimensions))

    declared = bits(own)
    terms = {name: bits(VarianceTable(form(own.table))) for name, (form, _, _) in FORMS.items()}
    name = min(terms, key=lambda name: terms[name])
    if not terms[name] < min(LESS * declared, declared - LEAST):
        return []
    _, done, line = FORMS[name]
    return [
        f"the table of variances seems to hold {name}: {done} they make the diffusion term about {terms[name]:.3g} "
        f"bits/dim instead of {declared:.4g}; give variance={line}"
    ]
