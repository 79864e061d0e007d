"""`RatioEstimator`: log p_model(x) − log p_reference(x) of a batch with its gradient, for preference optimisation.

    L = −log σ(β (r(x⁺) − r(x⁻))),        r(x) = log p_model(x) − log p_reference(x)

r is estimated by the difference of the two bounds at common places and noise. Draws are made where the gradient of the
bound is large, by a pilot that differentiates some of them, and weighted by 1/p, so that r and its gradient are
unbiased. A draw is a pair of ε and −ε where the pilot shows that this pays for its second evaluation.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.bound.contrast import places
from nelbo.bound.contrast.alternatives import Chains
from nelbo.bound.contrast.asked import same_chain
from nelbo.bound.contrast.places import Places
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.noised import Noised
from nelbo.bound.prepare import prepare
from nelbo.bound.problem import Draws
from nelbo.data import readers
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.calling import condition_rows
from nelbo.model.diffusion import DiffusionModel
from nelbo.typing import Condition
from nelbo.workers import Run

EXAMPLES, STRATA = 24, 8
"""Examples of the pilot, and pairs of draws of each."""
_MOST = 1 << 20


class RatioEstimator:
    """Estimates of log p_model(x) − log p_reference(x), nats, whose gradient is that of log p_model.

    model: whose network is trained. reference: a model of the same domain at the same levels, such as a copy of it from
    before. data: as of `nelbo.evaluate`, those that are trained on or a part of them; before the first step a pilot
    differentiates the network on 24 of them, at 16 draws each, to plan where draws are made. condition: of these data,
    one row an example. seed: of all noise.

    Errors: UsageError where the models differ in domain or levels, and those of `nelbo.evaluate` for the data.
    Source: Wallace et al. 2024, eq. 14 (one uniform time an example, without the bound's weights).

    >>> import copy, nelbo, torch
    >>> net = torch.nn.Linear(8, 8)
    >>> old = copy.deepcopy(net)
    >>> model, reference = (
    ...     nelbo.from_callable(lambda z, t, n=n: n(z), schedule=nelbo.schedules.linear(T=100),
    ...                         domain=nelbo.DataDomain((8,), bins=4), modules=[n]) for n in (net, old))
    >>> x = torch.randint(0, 4, (16, 8))
    >>> ratio = nelbo.RatioEstimator(model, reference, x)
    >>> better, worse = ratio(x[:8], step=0), ratio(x[8:], step=0)          # the same noise for both
    >>> (-torch.nn.functional.logsigmoid(0.1 * (better - worse))).mean().backward()
    >>> bool(net.weight.grad.abs().sum() > 0), bool(better.abs().max() < 1e-3)   # the models are the same so far
    (True, True)
    """

    @numbers
    def __init__(
        self,
        model: DiffusionModel,
        reference: DiffusionModel,
        data: Any,
        *,
        condition: Condition | None = None,
        seed: int = 0,
    ):
        for one in (model, reference):
            if not isinstance(one, DiffusionModel):
                raise UsageError(f"a ratio with a {type(one).__name__}", "give what nelbo.from_callable made")
        if model.domain.to_config() != reference.domain.to_config():
            raise UsageError("the models score unlike data", "give models of one data domain")
        self._models = tuple(_unclipped(one) for one in (model, reference))
        self.seed = seed
        examples = readers.whole(data, "a ratio in a loss", "its terms are of whole examples")
        chain = prepare(self._models[0], examples, Run(seed=seed), condition=condition).chain
        other = dataclasses.replace(chain, model=self._models[1])
        if not same_chain(chain, other):
            raise UsageError(
                "the models have chains of other levels", "give both one grid: model.with_grid(nelbo.grids.even(100))"
            )
        order = Purpose.CONTRAST_EXAMPLES.permutation(seed, chain.examples)[:EXAMPLES].sort().values
        with self._models[0].denoiser.inference():
            self._places, self._pairs = _planned(Chains((chain, other)), order)

    @property
    def evaluations(self) -> int:
        """Of each network, a draw."""
        return 1 + int(self._pairs)

    @numbers
    def __call__(self, x: Tensor | Any, *, condition: Condition | None = None, step: int = 0, draws: int = 1) -> Tensor:
        """r of the examples x (B, *shape), (B,) float64 with its gradient, from `draws` strata of the chain an example.

        Row i has the same places and noise in
        all calls of one `step`, so that of two calls with a better and a worse example in row i the difference varies
        less. condition: keywords of both networks, one row an example. Errors: ShapeError, DomainError, UsageError.
        """
        if draws < 1 or step < 0 or (step + 1) * draws > _MOST:
            raise UsageError(
                f"step={step}, draws={draws}", f"give draws ≥ 1 and step ≥ 0 with (step + 1) · draws up to {_MOST}"
            )
        data = self._models[0].domain.checked(torch.as_tensor(x))
        rows = condition_rows(condition, len(data))
        device = next((p.device for p in self._models[0].denoiser.parameters()), torch.device("cpu"))
        model, reference = (
            GaussianChain(model=one, data=data, condition=rows, seed=self.seed, device=device) for one in self._models
        )
        nats = functools.partial(_difference, model, reference)
        examples = torch.arange(len(data))
        found = places.drawn(model, self._places, examples, step * draws, draws, 1, nats, opposite=self._pairs)
        with torch.no_grad():
            priors = reference.priors() - model.priors()
        return priors - found.values[..., 0].mean(1)


def _planned(both: Chains, examples: Tensor) -> tuple[Places, bool]:
    """Places by the root mean square of the gradient in all parameters, of single draws or of pairs, whichever varies
    less for an evaluation; and whether it is pairs."""
    chain, even = both.chains[0], Places.even(both)
    assert isinstance(chain, GaussianChain)  # as prepared
    seen = []

    def squares(draws: Draws, of: Tensor) -> Tensor:
        """‖g‖² of the draws, with that of the mean of a pair for both of its draws, (n, 2)."""
        noised = chain.noised(draws, torch.arange(len(draws)))
        gradients = torch.stack([_gradient(chain, noised.take(k)) for k in torch.arange(len(draws))[:, None]])
        means = gradients.reshape(-1, 2, gradients.shape[1]).mean(1).square().sum(1).repeat_interleave(2)
        return torch.stack([gradients.square().sum(1), means], 1)

    drawn = places.drawn(chain, even, examples, places.PILOT_NUMBERS, STRATA, 2, squares)
    for each in drawn.values.unbind(2):  # divided by the probability p of its place
        planned = places.by_squares(each * even.density.p[drawn.places], drawn.places, even, chain)
        # Σ g²/p′ over the places, at the new p′
        seen.append((planned, float((each / planned.density.p[drawn.places]).mean())))
    pairs = 2 * seen[1][1] < seen[0][1]
    return seen[int(pairs)][0], pairs


def _gradient(chain: GaussianChain, noised: Noised) -> Tensor:
    """Of the term of one draw in all parameters, (P,) float64 on the CPU. Errors: UsageError where there are none."""
    asked = [p for p in chain.model.denoiser.parameters() if p.requires_grad]
    if not asked:
        raise UsageError("a network without parameters to be trained", "give the model whose network is trained first")
    with torch.enable_grad():
        nats = chain.term(noised, chain.condition_of(noised.examples))[0].sum()
        found = torch.autograd.grad(nats, asked, allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for p, g in zip(asked, found, strict=True)]
    return torch.cat([part.flatten() for part in parts]).double().cpu()


def _difference(model: GaussianChain, reference: GaussianChain, draws: Draws, of: Tensor) -> Tensor:
    """The terms of the draws under the model, with gradient, less those under the reference, (n, 1) on the CPU."""
    with torch.no_grad():
        noised = model.noised(draws, torch.arange(len(draws)))
        condition = model.condition_of(noised.examples)
        known = reference.term(noised, condition)[0]
    return (model.term(noised, condition)[0] - known)[:, None].cpu()


def _unclipped(model: DiffusionModel) -> DiffusionModel:
    """A clip of x̂ has no gradient outside of its range, and is left out."""
    if model.reverse.clip is None:
        return model
    return dataclasses.replace(model, reverse=dataclasses.replace(model.reverse, clip=None))
