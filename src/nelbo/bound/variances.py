"""A table of variances that was given in another form: as standard deviations, squared, or from noise to data.

A table that is right lies near the variances between β̃ of the posterior and β of the step at nearly every level, within
a factor of `NEAR`. Another form is named if it lies there, the table as it was given does not, and the diffusion term
under it, which follows from the errors ‖x − x̂‖² that the pilot has seen, is lower:

    ½ D (log v/β̃ + β̃/v − 1) + ½ c² E‖x − x̂‖² / v
"""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.visited import terms_at
from nelbo.maths.units import bits_per_dim
from nelbo.model.reverse import VarianceTable
from nelbo.process import forward
from nelbo.process.prediction import Prediction

NEAR, MOST = 4.0, 0.8
"""Factor within which a table is near these variances, and the share of the levels looked at where it is to be."""
LESS, LEAST = 0.9, 0.05
"""Share of the diffusion term below which another form of the table is named, and bits/dim that it saves at least."""
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

    levels = chain.model.levels()
    s, t = levels[:-1][nodes], levels[1:][nodes]
    least, most = forward.posterior(s, t).variance, forward.transition(s, t).variance

    def near(variance: VarianceTable) -> bool:
        v = variance.of_step(s, t, Prediction(torch.zeros(len(t), 1, dtype=torch.float64)))[:, 0]
        return float(((v > least / NEAR) & (v < most * NEAR)).double().mean()) >= MOST

    if near(own):
        return []
    forms = {name: VarianceTable(form(own.table)) for name, (form, _, _) in FORMS.items()}
    declared, terms = bits(own), {name: bits(form) for name, form in forms.items() if near(form)}
    name = min(terms, key=lambda name: terms[name], default=None)
    if name is None or not terms[name] < min(LESS * declared, declared - LEAST):
        return []
    _, done, line = FORMS[name]
    return [
        f"the table of variances seems to hold {name}: {done} they make the diffusion term about {terms[name]:.3g} "
        f"bits/dim instead of {declared:.4g}; give variance={line}"
    ]
