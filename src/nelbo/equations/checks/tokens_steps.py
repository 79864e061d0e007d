"""Group K: steps without a mask, and what a network says of a place. Oracles: Bayes' rule over all symbols."""

from __future__ import annotations

import numpy as np
import torch

from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import tokens as oracle
from nelbo.model.exact.tokens import TokenData
from nelbo.model.tokens.denoiser import NetworkTokenDenoiser
from nelbo.model.tokens.reverse import TokenReverse
from nelbo.process.tokens import steps
from nelbo.process.tokens.kernel import Absorbing, Uniform, gaussian_steps
from nelbo.process.tokens.levels import TokenLevels

V = 4
S, T = 0.7, 0.4
KERNEL = Uniform()
Z, X = 1, 2
LAW = np.array([0.5, 0.2, 0.25, 0.05])
"""A network's law of the symbol of one place."""
TO_S, TO_T = oracle.uniform_kernel(V, S), oracle.uniform_kernel(V, T)
BETWEEN = oracle.uniform_kernel(V, T / S)
POSTERIOR = BETWEEN[:, Z] * TO_S / TO_T[:, Z, None]
"""q(z_s = y | z_t = Z, x = k), row k."""


def _level(alpha: float) -> TokenLevels:
    a = torch.tensor([alpha], dtype=torch.float64)
    return TokenLevels(1 - a, a, 1 - a)


def _place(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).reshape(1, 1, -1)


AT = torch.tensor([[Z]]), _level(S), _level(T), KERNEL


@check("token-forward-uniform")
def _(c: Checks) -> None:
    found = KERNEL.likelihood(torch.tensor([[Z]]), _level(T), V)[0, 0].numpy()
    c.holds("nelbo's q(z | x) of every x = the column of α I + (1 − α)/V", found - TO_T[:, Z], 1e-15)
    c.holds("a step by α_t/α_s leads from one level to the next", TO_S @ BETWEEN - TO_T, 1e-15)
    step = KERNEL.backward(torch.tensor([[Z]]), _level(S), _level(T), V)[0, 0].numpy()
    c.holds("nelbo's step", step - BETWEEN[:, Z], 1e-15)
    other = T * np.eye(V) + (1 - T) * (1 - np.eye(V)) / (V - 1)
    c.must_fail("noise over the other V − 1 symbols, at the same α", other - TO_T, 0.1)


@check("token-posterior")
def _(c: Checks) -> None:
    found = steps.true_step(torch.tensor([[X]]), *AT, V)[0, 0].numpy()
    c.holds("nelbo's q(z_s | z_t, x) = Bayes' rule", found - POSTERIOR[X], 1e-15)
    c.holds("it is a law", POSTERIOR.sum(1) - 1, 1e-15)
    c.must_fail("without q(z_t | z_s)", TO_S[X] - POSTERIOR[X], 0.05)


@check("token-mixture-step")
def _(c: Checks) -> None:
    found = steps.mixture(_place(LAW), *AT)[0, 0].numpy()
    exact = LAW @ POSTERIOR
    c.holds("nelbo's mixture = Σ_k p(k | z) q(y | z, k)", found - exact, 1e-15)
    plugged = steps.plug_in(_place(LAW), *AT)[0, 0].numpy()
    c.must_fail("the plug-in step of the same law", plugged - exact, 0.01)


@check("token-plug-in-step")
def _(c: Checks) -> None:
    found = steps.plug_in(_place(LAW), *AT)[0, 0].numpy()
    exact = BETWEEN[:, Z] * (LAW @ TO_S)
    c.holds("nelbo's plug-in = q(z_t | y) Σ_k x̂_k q(y | k), normalised", found - exact / exact.sum(), 1e-15)
    c.holds(
        "of one symbol it is the posterior",
        steps.plug_in(_place(np.eye(V)[X]), *AT)[0, 0].numpy() - POSTERIOR[X],
        1e-15,
    )
    c.must_fail("not normalised", exact - exact / exact.sum(), 0.1)


@check("token-leave-one-out")
def _(c: Checks) -> None:
    joint = oracle.random_joint(V, 2, seed=3)
    z = torch.tensor([[Z, 3]])
    seen = TO_T[:, z[0, 0]][:, None] * TO_T[:, z[0, 1]] * joint  # over symbols of both places
    posterior = seen.sum(1) / seen.sum()
    alone = (joint * TO_T[:, z[0, 1]]).sum(1)
    alone = alone / alone.sum()
    at = _level(T)
    found = steps.posterior_from_leave_one_out(_place(np.log(alone)), z[:, :1], at, KERNEL).exp()[0, 0].numpy()
    c.holds("nelbo's conversion = the posterior by summing over the joint", found - posterior, 1e-14)
    back = steps.leave_one_out_from_posterior(_place(np.log(posterior)), z[:, :1], at, KERNEL).exp()[0, 0].numpy()
    c.holds("and back", back - alone, 1e-14)
    exact = TokenData(torch.from_numpy(joint)).denoiser(KERNEL, "leave_one_out")
    row = exact(z, z == V, at).softmax(-1)[0, 0].numpy()
    c.holds("nelbo's exact network", row - alone, 1e-14)
    plugged = steps.plug_in(_place(alone), *AT)[0, 0].numpy()
    c.holds("plug-in of leave-one-out = mixture of the posterior", plugged - posterior @ POSTERIOR, 1e-14)
    other = steps.plug_in(_place(posterior), *AT)[0, 0].numpy()
    c.must_fail("plug-in of the denoiser's posterior", other - posterior @ POSTERIOR, 0.01)


@check("token-rate")
def _(c: Checks) -> None:
    at, z = _level(T), torch.tensor([[Z]])
    for name, plugged in (("mixture", False), ("plug-in", True)):
        found = float(steps.rate_divergence(torch.tensor([[X]]), _place(LAW), z, at, KERNEL, plugged=plugged))
        per_step = [_divergence(T * np.exp(tau), plugged) / tau for tau in (2e-3, 1e-3)]
        c.holds(
            f"nelbo's rate of the {name} = 2 D(τ/2)/(τ/2) − D(τ)/τ of short steps",
            2 * per_step[1] - per_step[0] - found,
            1e-4,
        )
    a, b = _ratios(X), LAW @ np.stack([_ratios(k) for k in range(V)])
    here = np.arange(V) != Z
    partial = float((a * np.log(a / b))[here].sum() / V)
    exact = float(steps.rate_divergence(torch.tensor([[X]]), _place(LAW), z, at, KERNEL))
    c.must_fail("a log(a/b) alone, without b − a", partial - exact, 0.01)


def _ratios(k: int) -> np.ndarray:
    """q(y | k)/q(Z | k) of every y."""
    return TO_T[k] / TO_T[k, Z]


def _divergence(s: float, plugged: bool) -> float:
    """KL of one short step from α = s to T, by Bayes' rule."""
    to_s, between = oracle.uniform_kernel(V, s), oracle.uniform_kernel(V, T / s)
    q = between[:, Z] * to_s / TO_T[:, Z, None]
    p = LAW @ q
    if plugged:
        p = between[:, Z] * (LAW @ to_s)
        p = p / p.sum()
    return float((q[X] * np.log(q[X] / p)).sum())


@check("token-gaussian-steps")
def _(c: Checks) -> None:
    betas = torch.tensor([0.1, 0.6], dtype=torch.float64)
    Q = gaussian_steps(V, betas).matrices.numpy()
    k = np.arange(V)
    n = np.arange(-(V - 1), V)
    for t, beta in enumerate(betas.tolist()):
        weight = np.exp(-4 * (k[:, None] - k) ** 2 / ((V - 1) ** 2 * beta))
        off = weight / np.exp(-4 * n**2 / ((V - 1) ** 2 * beta)).sum()
        np.fill_diagonal(off, 0)
        exact = off + np.diag(1 - off.sum(1))
        c.holds(f"nelbo's matrix at β = {beta}", Q[t] - exact, 1e-14)
    c.holds("rows and columns sum to 1", [Q.sum(1) - 1, Q.sum(2) - 1], 1e-14)
    c.holds("the uniform law stays as it is", np.full(V, 1 / V) @ Q[0] @ Q[1] - 1 / V, 1e-14)
    rows = weight / weight.sum(1, keepdims=True)
    c.must_fail("every row normalised by itself: columns no longer sum to 1", rows.sum(0) - 1, 0.02)


@check("token-mask-removed")
def _(c: Checks) -> None:
    logits = np.array([0.4, -0.3, 1.1, 0.2, 1.5])  # the last is the mask's
    weights = np.exp(logits)
    kernel, left = Absorbing(V), TokenReverse(remove_mask=False)
    found = TokenReverse().log_law(_place(logits), kernel, V).exp()[0, 0].numpy()
    c.holds("nelbo's law without the mask's probability", found - weights[:V] / weights[:V].sum(), 1e-15)
    kept = left.log_law(_place(logits), kernel, V).exp()[0, 0].numpy()
    c.holds("nelbo's law with it", kept - weights[:V] / weights.sum(), 1e-15)
    c.true("left in, every symbol costs more", bool((-np.log(kept) > -np.log(found) + 0.1).all()))
    c.must_fail("left in, the law does not add up", kept.sum() - 1, 0.1)


@check("token-logit-shift")
def _(c: Checks) -> None:
    z = torch.tensor([[2, 0, 3, 1]])

    def of_next(z: torch.Tensor) -> torch.Tensor:
        """Certain of the right symbol of the next place: what a left-to-right network says of z."""
        return 9.0 * torch.nn.functional.one_hot(z.roll(-1, 1), V).double()

    nats = {
        shift: -NetworkTokenDenoiser(of_next, V, shift=shift)(z, z == V, None).log_softmax(-1).gather(-1, z[..., None])
        for shift in (True, False)
    }
    sure = np.log1p((V - 1) * np.exp(-9.0))
    c.holds("nelbo's shifted logits name every symbol but the first", nats[True][0, 1:, 0].numpy() - sure, 1e-12)
    c.must_fail("logits off by one place", nats[False][0, 1:, 0].numpy() - sure, 5.0)
