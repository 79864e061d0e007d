"""The cells that a pilot visited: their levels, and what they weigh in the bound, each for those nearest to it."""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.maths import gaussian
from nelbo.model.reverse import Variance
from nelbo.process import forward
from nelbo.process.levels import Levels


def levels_at(chain: GaussianChain, nodes: Tensor) -> Levels:
    """The levels (K,) of the cells `nodes` (K,), on the CPU; of a slice its middle."""
    if chain.cells.continuous:
        return chain.model.schedule.at(chain.model.schedule.time_of(-chain.cells.place[nodes]))
    return chain.model.levels()[nodes + 1]


def terms_at(chain: GaussianChain, nodes: Tensor, variance: Variance | None = None) -> tuple[Tensor, Tensor]:
    """c_k and w_k, (K,), such that the diffusion term is about Σ_k c_k + w_k E‖x − x̂‖² over the cells `nodes` (K,),
    each standing for the cells that are nearest to it. variance: of the steps, in the place of the model's own."""
    cells = chain.cells
    nearest = (cells.place[:, None] - cells.place[nodes]).abs().argmin(1)
    shares = torch.zeros(len(nodes), dtype=torch.float64).index_add(0, nearest, cells.scale) / cells.scale[nodes]
    if cells.continuous:
        return torch.zeros(len(nodes), dtype=torch.float64), shares * cells.scale[nodes] * (-cells.place[nodes]).exp()
    levels = chain.model.levels()
    s, t = levels[:-1][nodes], levels[1:][nodes]
    q = forward.posterior(s, t)
    typical = (variance or chain.model.reverse.variance).typical(s, t)
    v = q.variance if typical is None else typical
    fixed = chain.dimensions * gaussian.kl_from_difference(torch.zeros_like(v), q.variance, v)
    return shares * fixed, shares * 0.5 * q.x_coefficient.square() / v
