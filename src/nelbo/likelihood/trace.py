"""Whether a network's derivative is that of its values: asked before an ODE likelihood, which trusts it.

A network that detaches its input, or a part of it, leaves a derivative that autograd takes for 0 and nobody sees: the
divergence is wrong and the number is not. So at a few levels, along random signs e, autograd's J e is laid beside

    (x̂(z + δ e) − x̂(z − δ e))/2δ,        δ = σ/100,

which is believed where half of δ says the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.bound.problem import Problem
from nelbo.errors import UsageError
from nelbo.likelihood import ode
from nelbo.maths import random
from nelbo.process import forward
from nelbo.process.levels import Levels, column
from nelbo.typing import Condition

PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where along log-SNR, of the flow's span."""
ROWS = 2
AGREE, DIFFER = 0.02, 0.05
"""Two differences that agree so well are believed; a derivative further off than this is refused."""
_LEVEL = 2**31 + 1


def check(problem: Problem) -> int:
    """The evaluations that it took. Errors: UsageError where the derivative is another than that of the values."""
    first, last = ode.span(problem.model)
    rows = torch.arange(min(ROWS, problem.examples))
    x = problem.values(rows)
    condition = {k: v[rows].to(problem.device) for k, v in problem.condition.items()}
    law = ode.law(problem.model.schedule)
    for i, place in enumerate(PLACES):
        at = ode.level_at(law, first + place * (last - first), len(x), problem.device)
        eps = random.normal(problem.seed, rows, _LEVEL, i, x.shape[1:], device=problem.device)
        e = ode.rademacher(problem.seed, rows, _LEVEL, i, x.shape[1:], problem.device)
        _compare(problem, forward.noised(x, eps, at), e, at, condition)
    return len(PLACES) * 5 * len(rows)


def _compare(problem: Problem, z: Tensor, e: Tensor, at: Levels, condition: Condition) -> None:
    def x0(state: Tensor) -> Tensor:
        with torch.no_grad():
            return problem.model.predict(state, at, condition).x0

    delta = 0.01 * column(at.sigma, z)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        found = ode.predicted(problem.model, z, at, condition)
        wide, near = ((x0(z + d * e) - x0(z - d * e)) / (2 * d) for d in (delta, 0.5 * delta))
        (row,) = torch.autograd.grad((found * near).sum(), z, allow_unused=True)
    size = near.square().flatten(1).sum(1)
    said = torch.zeros_like(size) if row is None else (row * e).flatten(1).sum(1)  # uᵀ J e with u the difference
    believed = (wide - near).square().flatten(1).sum(1) <= AGREE**2 * size
    wrong = believed & (size > 0) & ((said - size).abs() > DIFFER * size)
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        raise UsageError(
            f"the network's derivative is not that of its values: at log-SNR {float(at.logsnr[i]):.3g} autograd finds "
            f"{float(said[i] / size[i]):.3g} of the change of its prediction",
            "leave out torch.no_grad, inference_mode, detach, .data and .numpy() in the network's own code: the "
            "likelihood needs the derivative by the whole of its input",
        )
