"""A linear-Gaussian chain, exactly: both joint laws of x_0 … x_T as one covariance each, everything else by algebra.

    q:  x_0 ~ N(m, v),     x_t | x_{t−1} ~ N(√(1−β_t) x_{t−1}, β_t)
    p:  x_T ~ N(m_T, v_T), x_{t−1} | x_t ~ N(a_t x_t + b_t, s_t)

where a_t, b_t, s_t follow from an affine denoiser x̂_t = g_t x_t + h_t as in DDPM: the mean of q(x_{t−1} | x_t, x_0)
with x̂_t in the place of x_0. Conditionals of q are regressions in the joint covariance (Schur complements), never the
closed forms that the library uses; log densities are quadratic forms, so expectations and variances are exact.
numpy only: no function of the library is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class QuadraticForm:
    """f(x) = c + lᵀx + ½ xᵀH x on R^n: a log density of a normal law, or a sum of such."""

    constant: float
    linear: Array
    hessian: Array

    @classmethod
    def read(cls, function: Callable[[Array], Array], n: int) -> QuadraticForm:
        """The quadratic form that a black box `function` (N, n) → (N,) is, from its values at 0, ±e_i and e_i + e_j."""
        unit = np.eye(n)
        i, j = np.triu_indices(n, 1)
        values = function(np.concatenate([np.zeros((1, n)), unit, -unit, unit[i] + unit[j]]))
        zero, up, down, pair = values[0], values[1 : n + 1], values[n + 1 : 2 * n + 1], values[2 * n + 1 :]
        hessian = np.diag(up + down - 2 * zero)
        hessian[i, j] = hessian[j, i] = pair - up[i] - up[j] + zero
        return cls(float(zero), (up - down) / 2, hessian)

    @classmethod
    def zero(cls, n: int) -> QuadraticForm:
        """f = 0 on R^n."""
        return cls(0.0, np.zeros(n), np.zeros((n, n)))

    def __call__(self, x: Array) -> Array:
        """f at every row of x (N, n)."""
        return self.constant + x @ self.linear + 0.5 * np.einsum("ni,ij,nj->n", x, self.hessian, x)

    def __add__(self, other: QuadraticForm | float) -> QuadraticForm:
        if not isinstance(other, QuadraticForm):
            return QuadraticForm(self.constant + float(other), self.linear, self.hessian)
        return QuadraticForm(self.constant + other.constant, self.linear + other.linear, self.hessian + other.hessian)

    def __radd__(self, other: float) -> QuadraticForm:
        return self + other

    def __neg__(self) -> QuadraticForm:
        return QuadraticForm(-self.constant, -self.linear, -self.hessian)

    def __sub__(self, other: QuadraticForm | float) -> QuadraticForm:
        return self + (-other)

    def coefficients(self) -> Array:
        """c, l and H as one vector, so that two forms are compared by a subtraction."""
        return np.concatenate([[self.constant], self.linear, self.hessian.ravel()])

    def mean(self, law: Normal) -> float:
        """E f(x) for x ~ `law`, whose covariance may be singular."""
        m, S = law.mean, law.covariance
        return float(self.constant + self.linear @ m + 0.5 * (m @ self.hessian @ m + (self.hessian * S).sum()))

    def covariance(self, other: QuadraticForm, law: Normal) -> float:
        """Cov[f(x), g(x)] for x ~ `law`: ∇f(m)ᵀ S ∇g(m) + ½ tr(H_f S H_g S)."""
        m, S = law.mean, law.covariance
        slopes = (self.linear + self.hessian @ m) @ S @ (other.linear + other.hessian @ m)
        return float(slopes + 0.5 * ((self.hessian @ S) * (other.hessian @ S).T).sum())

    def variance(self, law: Normal) -> float:
        """Var f(x) for x ~ `law`."""
        return self.covariance(self, law)


class Regression(NamedTuple):
    """x_A | x_B ~ N(gain x_B + offset, covariance)."""

    gain: Array
    offset: Array
    covariance: Array


@dataclass(frozen=True, eq=False)
class Normal:
    """A normal law on R^n; `covariance` may be singular where no density is asked for."""

    mean: Array
    covariance: Array

    @property
    def n(self) -> int:
        """The number of coordinates."""
        return len(self.mean)

    def regression(self, a: Sequence[int], b: Sequence[int]) -> Regression:
        """x_a given x_b, by the Schur complement of the block b."""
        S, a, b = self.covariance, list(a), list(b)
        gain = np.linalg.solve(S[np.ix_(b, b)], S[np.ix_(b, a)]).T
        return Regression(gain, self.mean[a] - gain @ self.mean[b], S[np.ix_(a, a)] - gain @ S[np.ix_(b, a)])

    def log_density(self, a: Sequence[int], given: Sequence[int] = ()) -> QuadraticForm:
        """log density of x_a given x_`given` as a quadratic form in all n coordinates."""
        a = list(a)
        if given:
            gain, offset, covariance = self.regression(a, given)
        else:
            gain, offset, covariance = np.zeros((len(a), 0)), self.mean[a], self.covariance[np.ix_(a, a)]
        residual = np.zeros((len(a), self.n))  # x_a − gain x_given
        residual[np.arange(len(a)), a] = 1.0
        residual[:, list(given)] -= gain
        precision = np.linalg.inv(covariance)
        constant = -0.5 * (offset @ precision @ offset + np.linalg.slogdet(2 * np.pi * covariance)[1])
        return QuadraticForm(constant, residual.T @ precision @ offset, -residual.T @ precision @ residual)

    def kl(self, other: Normal, a: Sequence[int]) -> float:
        """KL between the marginals on `a` of this law and of `other`."""
        return (self.log_density(a) - other.log_density(a)).mean(self)

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Draws (count, n), by the eigenvectors of the covariance (which may be singular)."""
        values, vectors = np.linalg.eigh(self.covariance)
        root = vectors * np.sqrt(values.clip(min=0))
        return self.mean + rng.standard_normal((count, self.n)) @ root.T


@dataclass(frozen=True, eq=False)
class NormalMixture:
    """Σ_k w_k N_k on R^n: the law of a whole path when the data are a mixture."""

    weights: Sequence[float]
    parts: Sequence[Normal]

    def log_density(self, x: Array, a: Sequence[int], given: Sequence[int] = ()) -> Array:
        """log density of x_a given x_`given` at the rows of x (N, n): a ratio of two joint densities."""
        joint = self._log_marginal(x, [*a, *given])
        return joint - self._log_marginal(x, given) if given else joint

    def _log_marginal(self, x: Array, a: Sequence[int]) -> Array:
        logs = [np.log(w) + part.log_density(a)(x) for w, part in zip(self.weights, self.parts, strict=True)]
        return np.logaddexp.reduce(logs)


def forward_law(betas: Array, data_mean: float, data_variance: float) -> Normal:
    """The law of x_0 … x_T for data N(data_mean, data_variance), one kernel q(x_t | x_{t−1}) after another."""
    T = len(betas)
    mean, S = np.zeros(T + 1), np.zeros((T + 1, T + 1))
    mean[0], S[0, 0] = data_mean, data_variance
    for t, beta in enumerate(betas, 1):
        shrink = np.sqrt(1 - beta)
        mean[t] = shrink * mean[t - 1]
        S[t, :t] = S[:t, t] = shrink * S[t - 1, :t]
        S[t, t] = shrink**2 * S[t - 1, t - 1] + beta
    return Normal(mean, S)


def kernel(n: int, target: int, source: int, gain: float, offset: float, variance: float) -> QuadraticForm:
    """log N(x_target; gain x_source + offset, variance) as a quadratic form on R^n."""
    r = np.zeros(n)
    r[target] += 1.0
    r[source] -= gain
    constant = -0.5 * (offset**2 / variance + np.log(2 * np.pi * variance))
    return QuadraticForm(constant, offset * r / variance, -np.outer(r, r) / variance)


def expected_log_density(n: int, gain: Array, offset: float, spread: float, mean: QuadraticForm, variance: float):
    """E log N(y; mean(x), variance) for y ~ N(gain·x + offset, spread), a quadratic form in x; `mean` is affine."""
    r, d = gain - mean.linear, offset - mean.constant
    constant = -0.5 * ((d**2 + spread) / variance + np.log(2 * np.pi * variance))
    return QuadraticForm(constant, -d * r / variance, -np.outer(r, r) / variance)


@dataclass(frozen=True, eq=False)
class LinearChain:
    """Forward chain of `betas` (T,) on data N(data_mean, data_variance) and the reverse chain of x̂_t = g_t x_t + h_t.

    variance: "beta" (s_t = β_t) or "beta_tilde" (the covariance of q(x_{t−1} | x_t, x_0)) for t ≥ 2; the decoder
    p(x_0 | x_1) is N(x̂_1, decoder_variance). Index t of every method is DDPM's, 0 … T.
    """

    betas: Array
    data_mean: float
    data_variance: float
    gains: Array
    offsets: Array
    variance: str
    decoder_variance: float
    prior_mean: float = 0.0
    prior_variance: float = 1.0

    @property
    def T(self) -> int:
        """Number of steps."""
        return len(self.betas)

    @cached_property
    def q(self) -> Normal:
        """The law of x_0 … x_T under the forward process."""
        return forward_law(self.betas, self.data_mean, self.data_variance)

    def given(self, x0: float) -> Normal:
        """The law of x_0 … x_T under q(x_{1:T} | x_0), x_0 fixed (singular)."""
        gain, offset, covariance = self.q.regression(range(1, self.T + 1), [0])
        S = np.zeros((self.T + 1, self.T + 1))
        S[1:, 1:] = covariance
        return Normal(np.concatenate([[x0], gain[:, 0] * x0 + offset]), S)

    @cached_property
    def reverse(self) -> list[tuple[float, float, float]]:
        """(a_t, b_t, s_t) of p(x_{t−1} | x_t), t = 1 … T at places 0 … T − 1."""
        steps = [(float(self.gains[0]), float(self.offsets[0]), self.decoder_variance)]
        for t in range(2, self.T + 1):
            (gain,), _, ((spread,),) = self.q.regression([t - 1], [t, 0])
            s = spread if self.variance == "beta_tilde" else self.betas[t - 1]
            steps.append((float(gain[0] + gain[1] * self.gains[t - 1]), float(gain[1] * self.offsets[t - 1]), float(s)))
        return steps

    @cached_property
    def p(self) -> Normal:
        """The law of x_0 … x_T under the model."""
        T = self.T
        mean, S = np.zeros(T + 1), np.zeros((T + 1, T + 1))
        mean[T], S[T, T] = self.prior_mean, self.prior_variance
        for t in range(T, 0, -1):
            a, b, s = self.reverse[t - 1]
            mean[t - 1] = a * mean[t] + b
            S[t - 1, t:] = S[t:, t - 1] = a * S[t, t:]
            S[t - 1, t - 1] = a**2 * S[t, t] + s
        return Normal(mean, S)

    @property
    def path(self) -> list[int]:
        """1 … T: the coordinates of the latent path."""
        return list(range(1, self.T + 1))

    def log_evidence(self, x0: Array | float) -> Array:
        """log p(x_0), shape of x0."""
        variance = self.p.covariance[0, 0]
        return -0.5 * ((np.asarray(x0) - self.p.mean[0]) ** 2 / variance + np.log(2 * np.pi * variance))

    @cached_property
    def log_ratio(self) -> QuadraticForm:
        """log q(x_{1:T} | x_0)/p(x_{0:T}) from the two joint covariances, not from products of kernels."""
        return self.q.log_density(self.path, [0]) - self.p.log_density([0, *self.path])

    @cached_property
    def gap(self) -> QuadraticForm:
        """log q(x_{1:T} | x_0)/p(x_{1:T} | x_0), whose mean under q is the gap of the bound."""
        return self.q.log_density(self.path, [0]) - self.p.log_density(self.path, [0])

    def log_p_step(self, t: int) -> QuadraticForm:
        """log p(x_{t−1} | x_t)."""
        return kernel(self.T + 1, t - 1, t, *self.reverse[t - 1])

    def log_prior(self) -> QuadraticForm:
        """log p(x_T)."""
        return kernel(self.T + 1, self.T, 0, 0.0, self.prior_mean, self.prior_variance)

    def step_ratio(self, t: int) -> QuadraticForm:
        """log q(x_{t−1} | x_t, x_0)/p(x_{t−1} | x_t), t ≥ 2."""
        return self.q.log_density([t - 1], [t, 0]) - self.log_p_step(t)

    def step_kl(self, t: int) -> QuadraticForm:
        """E[step_ratio(t) | x_t, x_0] as a form in x_t and x_0: the entropy of a regression less a mean log density."""
        (g,), (offset,), ((spread,),) = self.q.regression([t - 1], [t, 0])
        gain = np.zeros(self.T + 1)
        gain[t], gain[0] = g
        a, b, s = self.reverse[t - 1]
        mean = QuadraticForm.zero(self.T + 1) + b
        mean.linear[t] = a
        return -expected_log_density(self.T + 1, gain, offset, spread, mean, s) - 0.5 * np.log(
            2 * np.pi * np.e * spread
        )

    def prior_kl(self) -> QuadraticForm:
        """E[log q(x_T | x_0)/p(x_T) | x_0] as a form in x_0."""
        (g,), (offset,), ((spread,),) = self.q.regression([self.T], [0])
        gain = np.zeros(self.T + 1)
        gain[0] = g[0]
        mean = QuadraticForm.zero(self.T + 1) + self.prior_mean
        ratio = expected_log_density(self.T + 1, gain, offset, spread, mean, self.prior_variance)
        return -ratio - 0.5 * np.log(2 * np.pi * np.e * spread)

    def three_terms(self) -> QuadraticForm:
        """L_T + Σ_{t≥2} L_{t−1} + L_0 as a form in the path."""
        return sum((self.step_kl(t) for t in range(2, self.T + 1)), self.prior_kl() - self.log_p_step(1))
