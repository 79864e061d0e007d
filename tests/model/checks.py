"""Floor 2 against plain formulas: scipy and mpmath for masses, numpy matrices for Gaussians, quadrature for Bayes."""

from __future__ import annotations

import mpmath
import numpy as np
import torch
from scipy import stats

from nelbo.model.decoder import Categorical, DiscretizedGaussian
from nelbo.model.denoiser import CategoricalDenoiser
from nelbo.model.domain import DataDomain
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Beta, BetaTilde, Clip, Reverse
from nelbo.process.prediction import Prediction
from tests.maths.test_bins import exact_log_mass
from tests.model.cases import CODES_1, GAUSSIAN, MIXTURE, MIXTURE_1, level, mass_decoder_at, mixture_at, network_model
from tests.process.cases import uneven_table
from tests.process.checks import close

MASS_DECODERS = ("discretized_gaussian", "categorical", "categorical-prior", "network_categorical", "network_mixture")

# ---------------------------------------------------------------- decoders


def check_pmf_sums(name: str, bins: int) -> None:
    """Σ_k p(k | z_1) = 1 to 1e-12 for spreads from 1/50 of a bin to 50 times the range, the mean inside and outside."""
    for width in (0.02, 0.3, 1.0, 10.0, 50.0 * bins):
        decoder, domain, z, t, prediction = mass_decoder_at(name, bins, width)
        for k in range(len(z)):  # one example at a time: 65,536 bins
            one = Prediction(prediction.x0[k : k + 1], prediction.log_probs[k : k + 1], mixture=mixture_at(1))
            log_pmf = decoder.log_pmf(z[k : k + 1], t[k : k + 1], one, domain)
            assert log_pmf.shape == (1, 1, bins) and log_pmf.dtype == torch.float64
            close(log_pmf.exp().sum(-1), np.ones((1, 1)), 0, 1e-12)


def mp_mass(lower, upper, mean, std) -> float:
    """log(Φ((upper − mean)/std) − Φ((lower − mean)/std)) in 60 digits; None is an open end."""
    with mpmath.workdps(60):
        a = -mpmath.inf if lower is None else (mpmath.mpf(lower) - mean) / std
        b = mpmath.inf if upper is None else (mpmath.mpf(upper) - mean) / std
        return float(exact_log_mass(a, b))


def nll_of(code: int, mean: float, std: float, bins: int = 256) -> float:
    domain = DataDomain((1,), bins)
    target, z = torch.tensor([[code]]), torch.zeros(1, 1, dtype=torch.float64)
    prediction = Prediction(torch.tensor([[mean]], dtype=torch.float64))
    return float(DiscretizedGaussian(std**2).nll(target, z, level(5.0), prediction, domain))


def check_half_width() -> None:
    """The bin of an inner code of 256 on [−1, 1] is x_k ∓ 1/255, from far inside to 40 σ away."""
    for code, mean, std in ((100, -0.2, 0.05), (128, 0.0, 0.002), (128, 0.02, 0.0005), (17, 0.9, 0.1), (200, 0.5, 3.0)):
        middle = mpmath.mpf(-1) + mpmath.mpf(2) * code / 255
        half = mpmath.mpf(1) / 255
        close(-nll_of(code, mean, std), mp_mass(middle - half, middle + half, mean, std), 1e-10)


def check_open_tails() -> None:
    """The first and last bins reach to infinity: a mean far outside the range has all its mass in one of them."""
    half = mpmath.mpf(1) / 255
    for mean, std in ((-1.0, 0.01), (-1.02, 0.01), (-3.0, 0.1), (1.5, 0.2), (0.0, 4.0), (0.6, 0.01)):
        close(-nll_of(0, mean, std), mp_mass(None, -1 + half, mean, std), 1e-10, 1e-14)
        close(-nll_of(255, mean, std), mp_mass(1 - half, None, mean, std), 1e-10, 1e-14)
    close(nll_of(0, -3.0, 0.1), 0.0, 0, 1e-80)


def check_decoder_variance() -> None:
    """Fixed from the full table: β̃ → β_2 (1 − ᾱ_1)/(1 − ᾱ_2), β → β_1, by their plain formulas."""
    betas, bar, table = uneven_table()
    first, second = table.at_index(torch.tensor([0])), table.at_index(torch.tensor([1]))
    close(BetaTilde().of_decoder(first, second), betas[1] * (1 - bar[0]) / (1 - bar[1]), 1e-11)
    close(Beta().of_decoder(first, second), betas[0], 1e-12)


def check_categorical_decoder() -> None:
    """VDM's decoder is Bayes' rule with the exact Gaussian factor: scipy's densities, normalised."""
    domain = DataDomain((2,), 7, 0.0, 3.0)
    lattice = np.linspace(0.0, 3.0, 7)
    prior = np.random.default_rng(1).dirichlet(np.ones(7))
    t = level(2.0, 3)
    z = torch.from_numpy(np.random.default_rng(2).normal(1.0, 1.5, size=(3, 2)))
    alpha, sigma = float(t.alpha[0]), float(t.sigma[0])
    for decoder, p in ((Categorical(), np.full(7, 1 / 7)), (Categorical(torch.from_numpy(np.log(prior))), prior)):
        joint = p * stats.norm.pdf(z.numpy()[..., None], alpha * lattice, sigma)
        expected = np.log(joint / joint.sum(-1, keepdims=True))
        close(decoder.log_pmf(z, t, None, domain), expected, 1e-11, 1e-12)
        codes = torch.tensor([[0, 3], [6, 2], [1, 1]])
        picked = np.take_along_axis(expected, codes.numpy()[..., None], -1)[..., 0].sum(1)
        close(decoder.nll(codes, z, t, None, domain), -picked, 1e-11)


def check_categorical_head() -> None:
    """p̂(k | z) ∝ exp(logits_k) N(z; α x_k, σ²) and x̂ its mean, for logits that are not normalised."""
    domain = DataDomain((2,), 5)
    logits = np.random.default_rng(3).normal(size=(4, 2, 5)) * 2 + 1
    head = CategoricalDenoiser(lambda z, time: torch.from_numpy(logits), domain)
    t = level(1.3, 4)
    z = torch.from_numpy(np.random.default_rng(4).normal(size=(4, 2)))
    lattice = np.linspace(-1, 1, 5)
    joint = np.exp(logits) * stats.norm.pdf(z.numpy()[..., None], float(t.alpha[0]) * lattice, float(t.sigma[0]))
    p = joint / joint.sum(-1, keepdims=True)
    said = head(z, t)
    close(said.log_probs, np.log(p), 1e-11, 1e-12)
    close(said.x0, (p * lattice).sum(-1), 1e-12, 1e-13)


# ---------------------------------------------------------------- reverse steps, priors


def gaussian_kl(mean_q, cov_q, mean_p, cov_p) -> float:
    """KL of two Gaussians from their matrices, by Cholesky factors."""
    L_p, L_q = np.linalg.cholesky(cov_p), np.linalg.cholesky(cov_q)
    white, delta = np.linalg.solve(L_p, L_q), np.linalg.solve(L_p, mean_p - mean_q)
    logs = np.log(np.diag(L_p)).sum() - np.log(np.diag(L_q)).sum()
    return 0.5 * float((white**2).sum() + delta @ delta - len(delta)) + float(logs)


def check_reverse_kl(variance: BetaTilde | Beta) -> None:
    """KL(q(z_s|z_t,x) ‖ p_θ(z_s|z_t)) as that of two 3-dimensional Gaussians, from β and ᾱ at t ≥ 2."""
    betas, bar, table = uneven_table()
    rng = np.random.default_rng(5)
    for i in (1, 2, 7, 11):
        x, x_hat, z = rng.normal(size=(3, 3))
        spread = betas[i] * (1 - bar[i - 1]) / (1 - bar[i])
        c_x, c_z = (
            np.sqrt(bar[i - 1]) * betas[i] / (1 - bar[i]),
            np.sqrt(1 - betas[i]) * (1 - bar[i - 1]) / (1 - bar[i]),
        )
        policy = spread if isinstance(variance, BetaTilde) else betas[i]
        expected = gaussian_kl(c_x * x + c_z * z, spread * np.eye(3), c_x * x_hat + c_z * z, policy * np.eye(3))
        s, t = table.at_index(torch.tensor([i - 1])), table.at_index(torch.tensor([i]))
        prediction = Prediction(torch.from_numpy(x_hat)[None])
        reverse = Reverse(variance)
        close(reverse.kl(torch.from_numpy(x)[None], prediction, s, t).sum(), expected, 1e-10)
        close(reverse.kl_sum(torch.from_numpy(x)[None], prediction, s, t), [expected], 1e-10)
        mean, v = reverse.step(torch.from_numpy(z)[None], prediction, s, t)
        close(mean[0], c_x * x_hat + c_z * z, 1e-11, 1e-13)
        close(v.expand_as(mean)[0], np.full(3, policy), 1e-11)


def check_reverse_kls() -> None:
    check_reverse_kl(BetaTilde())
    check_reverse_kl(Beta())


def check_prior_kl() -> None:
    """KL(N(α x, σ² I) ‖ N(m, v I)) from the matrices, log-variance part included, at a level with signal left."""
    rng = np.random.default_rng(6)
    for m, v in ((0.0, 1.0), (0.3, 2.5)):
        for logsnr in (-6.0, 0.5):
            x = rng.normal(size=3)
            t = level(logsnr)
            alpha2 = 1 / (1 + np.exp(-logsnr))
            expected = gaussian_kl(np.sqrt(alpha2) * x, (1 - alpha2) * np.eye(3), np.full(3, m), v * np.eye(3))
            close(GaussianPrior(m, v).kl(torch.from_numpy(x)[None], t), [expected], 1e-9, 1e-13)


def check_clipping() -> None:
    """The clip is part of p_θ: the model's prediction, its KL and its steps see the clamped x̂ and nothing else does."""
    free, clipped = network_model(), network_model(reverse=Reverse(BetaTilde(), Clip(-0.2, 0.2)))
    z, t = 3 * torch.randn(5, 3, dtype=torch.float64), level(-1.0, 5)
    x0 = free.predict(z, t).x0
    assert float(x0.detach().abs().max()) > 0.3
    close(clipped.predict(z, t).x0, np.clip(x0.detach().numpy(), -0.2, 0.2), 0)
    close(clipped.denoiser(z, t).x0, x0, 0)


def check_values() -> None:
    """Code k of K stands for low + (high − low) k/(K − 1): the ends are codes."""
    for bins, low, high in ((256, -1.0, 1.0), (17, 0.0, 1.0), (2, -3.0, 5.0)):
        domain = DataDomain((1,), bins, low, high)
        close(domain.lattice(), np.linspace(low, high, bins), 1e-14, 1e-15)
        assert torch.equal(domain.codes(domain.lattice()), torch.arange(bins))


# ---------------------------------------------------------------- exact denoisers


def check_gaussian_denoiser() -> None:
    """E[x | z] and Cov[x | z] by the Schur complement of the joint of (x, z), full covariance in 3-D."""
    mean, C = GAUSSIAN.mean.numpy(), GAUSSIAN.covariance.numpy()
    z = np.random.default_rng(7).normal(size=(4, 3)) * 2
    for logsnr in (-6.0, 0.3, 5.0):
        t = level(logsnr, 4)
        alpha, sigma = float(t.alpha[0]), float(t.sigma[0])
        marginal = alpha**2 * C + sigma**2 * np.eye(3)
        gain = alpha * C @ np.linalg.inv(marginal)
        expected = mean + (z - alpha * mean) @ gain.T
        close(GAUSSIAN.denoiser()(torch.from_numpy(z), t).x0, expected, 1e-10, 1e-12)
        left = C - gain @ (alpha * C)
        x = np.random.default_rng(8).normal(size=(4, 3))
        log_p = [stats.multivariate_normal(m, left).logpdf(v) for m, v in zip(expected, x, strict=True)]
        domain = DataDomain((3,))
        nll = GAUSSIAN.decoder().nll(torch.from_numpy(x), torch.from_numpy(z), t, None, domain)
        close(nll, -np.array(log_p), 1e-9)
        prior = GAUSSIAN.prior(t[:1])
        close(prior.covariance, marginal, 1e-13, 1e-15)
        expected_kl = [gaussian_kl(alpha * v, sigma**2 * np.eye(3), alpha * mean, marginal) for v in x]
        close(prior.kl(torch.from_numpy(x), t), expected_kl, 1e-9, 1e-12)


def mixture_density(data, points: np.ndarray) -> np.ndarray:
    """Σ_m w_m N(x; μ_m, C_m) by scipy."""
    return sum(
        w * stats.multivariate_normal(m, c).pdf(points)
        for w, m, c in zip(data.weights.numpy(), data.means.numpy(), data.covariances.numpy(), strict=True)
    )


def check_mixture_denoiser() -> None:
    """E[x | z] by summing x p(x) N(z; α x, σ²) over a fine lattice, in 1-D and 2-D."""
    for data, points, weight in (
        (MIXTURE_1, np.linspace(-4, 4, 8001)[:, None], 1e-3),
        (MIXTURE, np.stack(np.meshgrid(*[np.linspace(-6, 6, 401)] * 2), -1).reshape(-1, 2), 0.03**2),
    ):
        p = mixture_density(data, points) * weight
        close(p.sum(), 1.0, 1e-9)
        z = np.random.default_rng(9).normal(size=(3, points.shape[1]))
        for logsnr in (-3.0, 0.0, 3.0):
            t = level(logsnr, 3)
            alpha, sigma = float(t.alpha[0]), float(t.sigma[0])
            logs = -0.5 * (((z[:, None, :] - alpha * points) / sigma) ** 2).sum(-1)
            joint = p * np.exp(logs - logs.max(1, keepdims=True))
            expected = joint @ points / joint.sum(1, keepdims=True)
            close(data.denoiser()(torch.from_numpy(z), t).x0, expected, 1e-7, 1e-8)


def check_codes_denoiser() -> None:
    """The exact posterior over independent codes, by Bayes with scipy's densities."""
    p, lattice = CODES_1.probabilities.numpy(), np.linspace(-1, 1, 4)
    z = np.random.default_rng(10).normal(size=(5, 1))
    for logsnr in (-4.0, 0.0, 4.0):
        t = level(logsnr, 5)
        joint = p * stats.norm.pdf(z[..., None], float(t.alpha[0]) * lattice, float(t.sigma[0]))
        posterior = joint / joint.sum(-1, keepdims=True)
        said = CODES_1.denoiser()(torch.from_numpy(z), t)
        close(said.log_probs, np.log(posterior), 1e-10, 1e-11)
        close(said.x0, (posterior * lattice).sum(-1), 1e-11, 1e-13)
