"""The thirteen lines of DDPM's appendix A, each as the integrand that is printed under E_q, on given paths.

Lines 1 to 12 are one function of the path written in twelve ways, so they agree path by path. Every line computes its
densities in the way that it states: line 1 and the pair and triple joints of lines 4 to 6 from joint covariances,
everything else from the library's kernels. Line 13 holds the library's own terms L_T, L_{t−1} and L_0; it
agrees with line 12 in expectation only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from nelbo.equations.oracles.linear import NormalMixture, forward_law
from nelbo.equations.paths import PathDensities
from nelbo.equations.twins import GridTwin, LinearTwin, gaussian_data, mixture_data
from nelbo.model.exact.gaussian import GaussianData
from nelbo.model.exact.mixture import MixtureData

Array = np.ndarray


class Setting(NamedTuple):
    """What the lines are evaluated on: a name, the library's densities, the joint law of q, line 1, and log q(x_0)."""

    name: str
    paths: PathDensities
    joint: NormalMixture
    first: Callable[[Array], Array]
    log_data: Callable[[Array], Array]


def linear_setting(twin: LinearTwin) -> Setting:
    """The linear-Gaussian chain: line 1 is the ratio of two joint densities."""
    chain = twin.chain
    data = gaussian_data(chain.data_mean, chain.data_variance)
    joint = NormalMixture((1.0,), (chain.q,))
    return Setting("linear-Gaussian", twin.paths, joint, chain.log_ratio, lambda x: _log_prob(data, x))


def grid_setting(twin: GridTwin) -> Setting:
    """The nonlinear chain on mixture data: line 1 from the oracle's kernels, joints as mixtures of normal laws."""
    chain, data = twin.chain, twin.chain.data
    parts = [forward_law(chain.betas, m, v) for m, v in zip(data.means, data.variances, strict=True)]
    product = mixture_data(data)

    def first(x: Array) -> Array:
        return chain.log_q_path(x) - chain.log_p_path(x)

    return Setting(
        "mixture, nonlinear", twin.paths, NormalMixture(data.weights, parts), first, lambda x: _log_prob(product, x)
    )


def _log_prob(data: GaussianData | MixtureData, x: Array) -> Array:
    return data.log_prob(torch.from_numpy(np.ascontiguousarray(x[:, :1]))).numpy()


@dataclass(frozen=True)
class Pieces:
    """All densities that the lines consist of, on N paths; index t of a list is DDPM's t."""

    log_prior: Array
    p: list[Array]
    q: list[Array]
    marginal: list[Array]
    posterior: list[Array]
    data: Array
    transition_given: list[Array]
    pair: list[Array]
    triple: list[Array]
    first: Array

    @classmethod
    def of(cls, setting: Setting, x: Array) -> Pieces:
        """On the paths x (N, T + 1)."""
        paths, joint, T = setting.paths, setting.joint, setting.paths.T
        none = np.full(len(x), np.nan)  # a place that no line may read
        every, later = range(1, T + 1), range(2, T + 1)
        return cls(
            log_prior=paths.log_prior(x).numpy(),
            p=[none, *(paths.log_p_step(x, t).numpy() for t in every)],
            q=[none, *(paths.log_q_step(x, t).numpy() for t in every)],
            marginal=[none, *(paths.log_q_marginal(x, t).numpy() for t in every)],
            posterior=[none, none, *(paths.log_q_posterior(x, t).numpy() for t in later)],
            data=setting.log_data(x),
            transition_given=[none, none, *(joint.parts[0].log_density([t], [t - 1, 0])(x) for t in later)],
            pair=[none, *(joint.log_density(x, [t, 0]) for t in every)],
            triple=[none, none, *(joint.log_density(x, [t, t - 1, 0]) for t in later)],
            first=setting.first(x),
        )

    def lines(self) -> dict[int, Array]:
        """Lines 1 to 12 at every path."""
        T, p, q, m, post = len(self.p) - 1, self.p, self.q, self.marginal, self.posterior
        pair, triple, q0 = self.pair, self.triple, self.data

        def total(term: Callable[[int], Array], first: int = 2) -> Array:
            return sum((term(t) for t in range(first, T + 1)), np.zeros(len(q0)))

        start, one = -self.log_prior, p[1] - q[1]
        ratios = total(lambda t: p[t] - post[t])
        return {
            1: self.first,
            2: start - total(lambda t: p[t] - q[t], 1),
            3: start - total(lambda t: p[t] - q[t]) - one,
            4: start - total(lambda t: p[t] - self.transition_given[t]) - one,
            5: start - total(lambda t: p[t] + pair[t - 1] - triple[t]) - one,
            6: start - total(lambda t: p[t] + pair[t - 1] - (post[t] + pair[t])) - one,
            7: start - total(lambda t: p[t] + m[t - 1] + q0 - (post[t] + m[t] + q0)) - one,
            8: start - total(lambda t: (p[t] - post[t]) + (m[t - 1] - m[t])) - one,
            9: start - ratios - total(lambda t: m[t - 1]) + total(lambda t: m[t]) + m[1] - p[1],
            10: start - ratios - total(lambda t: m[t - 1]) + total(lambda t: m[t], 1) - p[1],
            11: start - ratios + m[T] - p[1],
            12: -(self.log_prior - m[T]) - ratios - p[1],
        }
