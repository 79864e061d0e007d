"""Floor 1 against plain formulas: mpmath for tables, numpy for kernels. Each check takes nothing and asserts.

The oracles are written in the letters of the papers (β, ᾱ) and never in log-SNR; everything with a ᾱ is looked at
t ≥ 2, where a lost bar shows.
"""

from __future__ import annotations

import mpmath
import numpy as np
import torch

from nelbo.process import forward, grid
from nelbo.process import schedule as schedules
from nelbo.process.levels import Levels, Path
from nelbo.process.prediction import Output, convert, from_x0, network_input, x0_from
from nelbo.process.schedule import Schedule, Table
from tests.process.cases import pairs, some_levels, uneven_betas, uneven_table


def close(actual, expected, relative: float = 1e-12, absolute: float = 0.0) -> None:
    """AssertionError where the two differ by more than relative·|expected| + absolute."""
    actual, expected = (v.detach() if isinstance(v, torch.Tensor) else v for v in (actual, expected))
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=relative, atol=absolute)


# ---------------------------------------------------------------- tables, by mpmath


def mp_logsnr(betas) -> list[float]:
    """λ_i = log(ᾱ_i/(1 − ᾱ_i)), ᾱ_i = Π_{j≤i}(1 − β_j), in 60 digits."""
    with mpmath.workdps(60):
        bar, result = mpmath.mpf(1), []
        for beta in betas:
            bar *= 1 - mpmath.mpf(beta)
            result.append(float(mpmath.log(bar / (1 - bar))))
    return result


def mp_cosine_betas(T: int) -> list[mpmath.mpf]:
    """improved-diffusion's recipe: ᾱ(u) = cos²((u + .008)/1.008 · π/2), β_i = min(1 − ᾱ(i/T)/ᾱ((i−1)/T), .999)."""
    offset, top = mpmath.mpf(0.008), mpmath.mpf(0.999)

    def alpha_bar(u):
        return mpmath.cos((u + offset) / (1 + offset) * mpmath.pi / 2) ** 2

    return [min(1 - alpha_bar(mpmath.mpf(i + 1) / T) / alpha_bar(mpmath.mpf(i) / T), top) for i in range(T)]


def check_table(table: Schedule, betas) -> None:
    """Every λ to 1e-12, relative where |λ| > 1."""
    assert isinstance(table, Table)
    close(table.table, mp_logsnr(betas), 1e-12, 1e-12)


def check_from_betas() -> None:
    check_table(schedules.from_betas(uneven_betas()), uneven_betas())


def check_linear() -> None:
    for T, first, last in ((1000, 1e-4, 2e-2), (50, 1e-4, 2e-2), (7, 0.1, 0.9)):
        with mpmath.workdps(60):
            a, b = mpmath.mpf(first), mpmath.mpf(last)
            betas = [a + (b - a) * i / (T - 1) for i in range(T)]
        check_table(schedules.linear(T, first, last), betas)


def check_cosine() -> None:
    for T in (8, 1000, 4000):
        with mpmath.workdps(60):
            betas = mp_cosine_betas(T)
        check_table(schedules.cosine(T), betas)


def check_table_positions() -> None:
    """Index i is DDPM's step i + 1 and unit time (i + 1)/T, at steps t ≥ 2."""
    betas, bar, table = uneven_table()
    index = torch.arange(1, len(betas))
    levels = table.at_index(index)
    close(levels.alpha.square(), bar[1:], 1e-12)
    close(levels.sigma.square(), 1 - bar[1:], 1e-12)
    close(levels.t, np.arange(2, len(betas) + 1) / len(betas))
    assert levels.index is not None and torch.equal(levels.index, index)


def law_path(schedule: Schedule) -> None:
    """α and σ of the path, and λ = 2 log(α/σ)."""
    levels = some_levels(schedule)
    snr = np.exp(levels.logsnr.numpy())
    if schedule.path is Path.VP:
        alpha, sigma = np.sqrt(snr / (1 + snr)), np.sqrt(1 / (1 + snr))
    elif schedule.path is Path.VE:
        alpha, sigma = np.ones_like(snr), np.sqrt(1 / snr)
    else:
        alpha, sigma = np.sqrt(snr) / (1 + np.sqrt(snr)), 1 / (1 + np.sqrt(snr))
    close(levels.alpha, alpha)
    close(levels.sigma, sigma)
    close(levels.log_alpha, np.log(alpha), 1e-12, 1e-15)
    close(levels.log_sigma, np.log(sigma), 1e-12, 1e-15)


# ---------------------------------------------------------------- kernels, by numpy


def law_composition(schedule: Schedule) -> None:
    """q(z_u | z_s) is q(z_t | z_s) followed by q(z_u | z_t), s < t < u; and likewise from x."""
    levels = some_levels(schedule)
    s, t, u = levels[:-2], levels[1:-1], levels[2:]
    first, second, both = forward.transition(s, t), forward.transition(t, u), forward.transition(s, u)
    close(both.alpha, first.alpha * second.alpha)
    close(both.variance, second.alpha.square() * first.variance + second.variance)
    close(t.alpha, first.alpha * s.alpha)
    close(t.sigma.square(), first.alpha.square() * s.sigma.square() + first.variance)


def check_transition_ddpm() -> None:
    """One step of the table is N(√(1 − β_t) z, β_t), at t ≥ 2."""
    betas, _, table = uneven_table()
    levels = table.at_index(torch.arange(len(betas)))
    kernel = forward.transition(levels[:-1], levels[1:])
    close(kernel.alpha, np.sqrt(1 - betas[1:]), 1e-12)
    close(kernel.variance, betas[1:], 1e-11)


def schur_posterior(alpha_s, sigma_s, alpha_t, sigma_t) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q(z_s | z_t, x) by conditioning the joint of (z_s, z_t) given x: z_t = (α_t/α_s) z_s + independent noise."""
    ratio = alpha_t / alpha_s
    gain = ratio * sigma_s**2 / sigma_t**2  # Cov(z_s, z_t) / Var(z_t)
    return gain, alpha_s - gain * alpha_t, sigma_s**2 - gain * ratio * sigma_s**2


def law_schur(schedule: Schedule) -> None:
    """All pairs of levels; the tolerances are what numpy's own subtractions lose."""
    levels = some_levels(schedule)
    s, t = pairs(levels[levels.logsnr.abs() < 12])  # numpy's 1 − α² has no digits beyond
    q = forward.posterior(s, t)
    a_s, v_s, a_t, v_t = (v.numpy() for v in (s.alpha, s.sigma, t.alpha, t.sigma))
    z, x, variance = schur_posterior(a_s, v_s, a_t, v_t)
    close(q.z_coefficient, z, 1e-12)
    close(q.x_coefficient, x, 1e-9, 1e-12)
    close(q.variance, variance, 1e-9, 1e-15)


def check_noised_spread() -> None:
    """x ~ N(m, s²) and z_t = αx + σε as one Gaussian: z's law, and x given z by the conditional of a covariance matrix;
    of s = 0 it is `noised`."""
    t = schedules.logsnr_linear(3.0, -2.0).at(torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64))
    m = torch.tensor([[0.4], [-1.2], [2.0]], dtype=torch.float64)
    s = torch.tensor([[0.3], [1.5], [0.8]], dtype=torch.float64)
    eps = torch.tensor([[0.7], [-0.2], [1.1]], dtype=torch.float64)
    found = forward.noised_spread(m, s, eps, t)
    for i in range(3):
        a, v = float(t.alpha[i]), float(t.sigma[i]) ** 2
        mean, variance, e = float(m[i]), float(s[i]) ** 2, float(eps[i])
        covariance = np.array([[variance, a * variance], [a * variance, a * a * variance + v]])
        z = a * mean + np.sqrt(covariance[1, 1]) * e
        close(found.z[i], [z])
        close(found.mean[i], [mean + covariance[0, 1] / covariance[1, 1] * (z - a * mean)])
        close(found.std[i], [np.sqrt(1 / np.linalg.inv(covariance)[0, 0])])
    none = forward.noised_spread(m, torch.zeros_like(s), eps, t)
    close(none.z, forward.noised(m, eps, t))
    close(none.mean, m)


def check_posterior_ho() -> None:
    """Ho et al. 2020, eq. 7: β̃_t and both coefficients from β and ᾱ at t ≥ 2."""
    betas, bar, table = uneven_table()
    beta, now, before = betas[1:], bar[1:], bar[:-1]
    levels = table.at_index(torch.arange(len(betas)))
    q = forward.posterior(levels[:-1], levels[1:])
    close(q.variance, beta * (1 - before) / (1 - now), 1e-11)
    close(q.x_coefficient, np.sqrt(before) * beta / (1 - now), 1e-11)
    close(q.z_coefficient, np.sqrt(1 - beta) * (1 - before) / (1 - now), 1e-11)
    x, z = torch.randn(len(beta), 3, dtype=torch.float64), torch.randn(len(beta), 3, dtype=torch.float64)
    mean = (np.sqrt(before) * beta / (1 - now))[:, None] * x.numpy()
    mean = mean + (np.sqrt(1 - beta) * (1 - before) / (1 - now))[:, None] * z.numpy()
    close(forward.posterior_mean(x, z, levels[:-1], levels[1:]), mean, 1e-10, 1e-12)


def check_noised() -> None:
    """z_t = √ᾱ_t x + √(1 − ᾱ_t) ε at t ≥ 2."""
    _, bar, table = uneven_table()
    bar = bar[1:, None]
    x, eps = torch.randn(2, len(bar), 2, dtype=torch.float64)
    levels = table.at_index(torch.arange(1, len(bar) + 1))
    close(forward.noised(x, eps, levels), np.sqrt(bar) * x.numpy() + np.sqrt(1 - bar) * eps.numpy(), 1e-11, 1e-13)


# ---------------------------------------------------------------- predictions, grids


SLOPE, SIGMA_DATA = -7.0, 0.7
"""dλ/dt of the levels that conversions are tested at, and EDM's σ_data."""


def output_of(output: Output, x: np.ndarray, eps: np.ndarray, alpha: np.ndarray, sigma: np.ndarray, path: Path):
    """What a network with this output says where x and ε are the truth, from the definitions alone."""
    if output is Output.VELOCITY:  # α′ and σ′ of each path by hand, with λ′ = SLOPE
        slopes = {
            Path.VP: (alpha * sigma**2 / 2, -sigma * alpha**2 / 2),
            Path.VE: (0 * alpha, -sigma / 2),
            Path.FLOW: (alpha * sigma / 2, -alpha * sigma / 2),
        }[path]
        return SLOPE * (slopes[0] * x + slopes[1] * eps)
    if output is Output.EDM_F:  # Karras et al. 2022, eq. 7: D = c_skip y + c_out F with y = x + s n
        s, d = sigma / alpha, SIGMA_DATA
        return (x - d**2 / (s**2 + d**2) * (x + s * eps)) * np.sqrt(s**2 + d**2) / (s * d)
    simple = {Output.X0: x, Output.EDM_D: x, Output.EPS: eps, Output.V: alpha * eps - sigma * x}
    return -eps / sigma if output is Output.SCORE else simple[output]


def check_conversions() -> None:
    """Each output says the same x; the true x and ε are known, so a sign that round-trips is still caught."""
    for path in Path:
        rng = np.random.default_rng(0)
        logsnr = torch.linspace(-6, 6, 13, dtype=torch.float64)
        t = Levels(torch.zeros_like(logsnr), logsnr, path, slope=torch.full_like(logsnr, SLOPE))
        x, eps = rng.normal(size=(2, 13, 4))
        alpha, sigma = t.alpha.numpy()[:, None], t.sigma.numpy()[:, None]
        z = torch.from_numpy(alpha * x + sigma * eps)
        for source in Output:
            value = torch.from_numpy(output_of(source, x, eps, alpha, sigma, path))
            close(x0_from(source, value, z, t, SIGMA_DATA), x, 1e-11, 1e-12 * (1 + np.max(sigma / alpha)))
            for target in Output:
                expected = output_of(target, x, eps, alpha, sigma, path)
                room = 1e-12 * np.max(1 + sigma / alpha + alpha / sigma) * np.max(1 + np.abs(expected))
                close(convert(source, target, value, z, t, SIGMA_DATA), expected, 1e-11, room)
            room = 1e-12 * np.max(1 + alpha / sigma) * np.max(1 + np.abs(value.numpy()))
            close(from_x0(source, torch.from_numpy(x), z, t, SIGMA_DATA), value, 1e-11, room)


def check_network_inputs() -> None:
    """EDM's networks are shown x + (σ/α) ε, times 1/√((σ/α)² + σ_d²) for F, and told σ/α; the others z itself."""
    logsnr = torch.linspace(-6, 6, 13, dtype=torch.float64)
    x, eps = np.random.default_rng(1).normal(size=(2, 13, 4))
    for path in Path:
        t = Levels(torch.zeros_like(logsnr), logsnr, path)
        alpha, sigma = t.alpha.numpy()[:, None], t.sigma.numpy()[:, None]
        z, s = alpha * x + sigma * eps, sigma / alpha
        for output in Output:
            shown, told = network_input(output, torch.from_numpy(z), t, SIGMA_DATA)
            y = x + s * eps
            expected = {Output.EDM_D: y, Output.EDM_F: y / np.sqrt(s**2 + SIGMA_DATA**2)}.get(output, z)
            close(shown, expected, 1e-12, 1e-13)
            close(told.sigma, (s if output.edm else sigma)[:, 0], 1e-13)


def check_steps() -> None:
    """K = `steps` counts network evaluations: L = K + 1, or K where the decoder calls the network; both ends kept."""
    for schedule in (schedules.logsnr_linear(5.0, -5.0), schedules.linear(100)):
        first, last = some_ends(schedule)
        for K in (2, 3, 7, 10):
            for calls in (False, True):
                levels = grid.even(K).levels(schedule, calls)
                assert len(levels) == K + 1 - calls
                close(levels.logsnr[[0, -1]], [first, last])
                assert bool((levels.logsnr.diff() < 0).all())


def some_ends(schedule: Schedule) -> tuple[float, float]:
    """λ of the first and last level of a schedule, without its own methods."""
    table = getattr(schedule, "table", None)
    return (schedule.logsnr_max, schedule.logsnr_min) if table is None else (float(table[0]), float(table[-1]))
