"""The numbers behind the derivations of the noise loss and of the variational diffusion model's objective."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nelbo.equations.derivation import Walk, walk
from nelbo.equations.oracles.linear import QuadraticForm
from nelbo.equations.oracles.quadrature import hermite
from nelbo.equations.twins import POINTS, LinearTwin, gaussian_data, linear_twin, misspecified
from nelbo.model.decoder import Categorical
from nelbo.model.domain import DataDomain
from nelbo.process import forward, schedule
from nelbo.process.levels import Levels
from nelbo.process.prediction import Output, from_x0
from nelbo.testing import at_noise
from nelbo.training.batches import Batch
from nelbo.training.criterion import Criterion
from nelbo.training.objective import SimpleObjective


class StepDraws(NamedTuple):
    """Nodes of (x_0, ε) at one level, (N, 1) each, and what the library makes of them; quadratics are exact."""

    x: Tensor
    eps: Tensor
    weights: Tensor
    level: Levels
    z: Tensor
    x_hat: Tensor
    eps_hat: Tensor

    @classmethod
    def of(cls, twin: LinearTwin, t: int, n: int = 6) -> StepDraws:
        nodes, w = hermite(n)
        a, b = np.meshgrid(nodes, nodes, indexing="ij")
        chain = twin.chain
        x = torch.from_numpy(chain.data_mean + math.sqrt(chain.data_variance) * a.reshape(-1, 1))
        eps = torch.from_numpy(b.reshape(-1, 1).copy())
        level = twin.paths.level(t, x)
        z = forward.noised(x, eps, level)
        x_hat = twin.model.predict(z, level).x0
        weights = torch.from_numpy(np.outer(w, w).ravel())
        return cls(x, eps, weights, level, z, x_hat, from_x0(Output.EPS, x_hat, z, level))

    def mean(self, values: Tensor) -> float:
        """E of (N, 1) or (N,) values."""
        return float(self.weights @ values.reshape(len(self.weights)))


@walk("noise-loss")
def _(w: Walk) -> None:
    twin = linear_twin(misspecified())
    chain, steps = twin.chain, (2, 3, 4)
    alpha_bar = np.cumprod(1 - chain.betas)
    draws = {t: StepDraws.of(twin, t) for t in (1, *steps)}
    lines = np.zeros((6, 3))
    constant, weight = np.zeros(3), np.zeros(3)
    for i, t in enumerate(steps):
        d, beta, abar = draws[t], float(chain.betas[t - 1]), float(alpha_bar[t - 1])
        s = twin.paths.level(t - 1, d.x)
        ratio = chain.q.regression([t - 1], [t, 0]).covariance[0, 0] / beta
        constant[i] = 0.5 * (ratio - 1 - math.log(ratio))
        weight[i] = beta / (2 * (1 - beta) * (1 - abar))

        def of_noise(eps: Tensor, d: StepDraws = d, beta: float = beta, abar: float = abar) -> Tensor:
            return (d.z - beta / math.sqrt(1 - abar) * eps) / math.sqrt(1 - beta)

        posterior = forward.posterior_mean(d.x, d.z, s, d.level)
        model, _ = twin.model.reverse.step(d.z, twin.model.predict(d.z, d.level), s, d.level)
        z = math.sqrt(abar) * d.x + math.sqrt(1 - abar) * d.eps
        x_hat = chain.gains[t - 1] * z + chain.offsets[t - 1]
        eps_hat = (z - math.sqrt(abar) * x_hat) / math.sqrt(1 - abar)
        lines[:, i] = [
            d.mean(at_noise.diffusion(twin.model, d.x, d.eps, s, d.level)),
            d.mean((posterior - model).square()) / (2 * beta) + constant[i],
            d.mean((of_noise(d.eps) - model).square()) / (2 * beta) + constant[i],
            d.mean((of_noise(d.eps) - of_noise(d.eps_hat)).square()) / (2 * beta) + constant[i],
            weight[i] * d.mean((d.eps - d.eps_hat).square()) + constant[i],
            weight[i] * d.mean((d.eps - eps_hat).square()) + constant[i],
        ]
    exact = [chain.step_kl(t).mean(chain.q) for t in steps]
    w.checks.holds("line 1 by regressions in the joint covariance", lines[0] - exact, 1e-10)
    w.start(lines[0])
    for line in lines[1:]:
        w.line(line)
    first, v, abar = draws[1], chain.decoder_variance, float(alpha_bar[0])
    decoder = first.mean(at_noise.reconstruction(twin.model, first.x, first.x, first.eps, first.level))
    one = (decoder - 0.5 * math.log(2 * math.pi * v)) / ((1 - abar) / (2 * v * abar))
    errors = [draws[t].mean((draws[t].eps - draws[t].eps_hat).square()) for t in (1, *steps)]
    unweighted = np.mean([one, *((lines[5] - constant) / weight)])
    w.line(np.mean(errors), before=unweighted, how="the mean over t, without weights and constants, of")
    printed = []
    for t in (1, *steps):
        d, abar = draws[t], float(alpha_bar[t - 1])
        z = math.sqrt(abar) * d.x + math.sqrt(1 - abar) * d.eps
        x_hat = chain.gains[t - 1] * z + chain.offsets[t - 1]
        printed.append(d.mean((d.eps - (z - math.sqrt(abar) * x_hat) / math.sqrt(1 - abar)).square()))
    w.line(np.mean(printed))
    data = gaussian_data(chain.data_mean, chain.data_variance)
    loss = Criterion(SimpleObjective())
    losses = [float(loss(twin.model, Batch(data.sample(1024, seed=k), 0, k))["loss"]) for k in range(12)]
    w.checks.z("twelve batches of the training loss average to line 8", np.mean(losses), np.mean(printed), _se(losses))
    w.checks.must_fail("L_simple is the mean of the denoising terms", np.mean(printed) - lines[0].mean(), 0.1)


@walk("variational-diffusion")
def _(w: Walk) -> None:
    twin = linear_twin(misspecified("beta_tilde"))
    chain, law = twin.chain, twin.chain.q
    given = [chain.given(x0) for x0 in POINTS]
    ratio = twin.read("log_ratio")
    w.start(law.kl(chain.p, range(chain.T + 1)))
    w.line(ratio.mean(law) + law.log_density([0]).mean(law))
    ends = -twin.read("reconstruction") - twin.read("prior_kl")
    pairs = sum((twin.read("step_ratio", t) for t in (2, 3, 4)), QuadraticForm.zero(5))
    inside = np.array([-ratio.mean(g) for g in given])
    w.line([(ends - pairs).mean(g) for g in given], before=inside, how="the ELBO given x in")
    one_draw, closed = np.zeros((3, 3)), np.zeros((3, 3))
    alpha_bar = np.cumprod(1 - chain.betas)
    nodes, weights = hermite(6)
    for i, x0 in enumerate(POINTS):
        for j, t in enumerate((2, 3, 4)):
            x = torch.full((6, 1), x0, dtype=torch.float64)
            eps = torch.from_numpy(nodes.copy())[:, None]
            s, level = twin.paths.level(t - 1, x), twin.paths.level(t, x)
            one_draw[i, j] = weights @ at_noise.diffusion(twin.model, x, eps, s, level).numpy()
            beta, late, early = chain.betas[t - 1], alpha_bar[t - 1], alpha_bar[t - 2]
            z = math.sqrt(late) * x0 + math.sqrt(1 - late) * nodes
            error = (x0 - chain.gains[t - 1] * z - chain.offsets[t - 1]) ** 2
            spread = beta * (1 - early) / (1 - late)  # σ²_{t|s} σ_s²/σ_t²
            closed[i, j] = weights @ error * (math.sqrt(early) * beta / (1 - late)) ** 2 / (2 * spread)
    w.line([ends.mean(g) - part.sum() for g, part in zip(given, one_draw, strict=True)])
    w.line(closed, before=one_draw, how="every term of the sum in")
    path = np.array([[x0, 0, 0, 0, 0] for x0 in POINTS], dtype=float)
    w.start(twin.paths.prior_kl(path))
    late = alpha_bar[-1]
    w.line([0.5 * (late * x0**2 + (1 - late) - 1 - math.log(1 - late)) for x0 in POINTS])
    domain, level = DataDomain((1,), bins=4), schedule.logsnr_linear(3.0, -3.0).at(torch.zeros(3))
    codes = torch.tensor([[0], [1], [3]])
    z = torch.tensor([[-0.6], [-0.5], [0.9]], dtype=torch.float64)
    w.start(Categorical().nll(codes, z, level, None, domain))
    alpha, variance = 1 / math.sqrt(1 + math.exp(-3.0)), 1 / (1 + math.exp(3.0))
    q = np.exp(-((z.numpy() - alpha * np.linspace(-1, 1, 4)) ** 2) / (2 * variance))  # the norming factor cancels
    w.line(-np.log(q[np.arange(3), codes[:, 0].numpy()] / q.sum(1)))


def _se(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))
