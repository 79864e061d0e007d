"""Floor 0 against mpmath, quadrature and numpy: the oracles that breaks of that floor must meet."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import torch

from nelbo.maths import bins, gaussian, random, stable, units
from nelbo.maths.statistics import Moments
from tests.process.checks import close


def check_kl() -> None:
    """∫ q log(q/p) by the trapezoid rule, in both directions."""
    for m_q, v_q, m_p, v_p in ((0.3, 0.5, -1.0, 2.0), (-1.0, 2.0, 0.3, 0.5), (0.0, 1.0, 0.0, 1.05)):
        x = np.linspace(-25, 25, 40_001)
        log_q = -0.5 * ((x - m_q) ** 2 / v_q + np.log(2 * np.pi * v_q))
        log_p = -0.5 * ((x - m_p) ** 2 / v_p + np.log(2 * np.pi * v_p))
        expected = np.sum(np.exp(log_q) * (log_q - log_p)) * (x[1] - x[0])
        given = [torch.tensor(v, dtype=torch.float64) for v in (m_q, v_q, m_p, v_p)]
        close(gaussian.kl(*given), expected, 1e-9)


def check_density_and_entropy() -> None:
    """The density integrates to 1, and its entropy is −∫ p log p."""
    x = torch.linspace(-20, 20, 20_001, dtype=torch.float64)
    mean, variance = torch.tensor(0.4, dtype=torch.float64), torch.tensor(1.7, dtype=torch.float64)
    log_p = gaussian.log_density(x, mean, variance)
    close(log_p.exp().sum() * 2e-3, 1.0, 1e-10)
    close(gaussian.entropy(variance), -(log_p.exp() * log_p).sum() * 2e-3, 1e-10)


def check_log1mexp() -> None:
    """log(1 − e^{−x}) in 40 digits, near 0 and far."""
    x = [1e-12, 1e-5, 0.3, 0.69, 0.71, 3.0, 40.0]
    with mpmath.workdps(40):
        expected = [float(mpmath.log(1 - mpmath.exp(-mpmath.mpf(v)))) for v in x]
    close(stable.log1mexp(torch.tensor(x, dtype=torch.float64)), expected, 1e-13)


def check_interval() -> None:
    """A closed interval 10 σ out, where a difference of two Φ has no digits, and one around the middle."""
    for a, b in ((10.0, 10.5), (-0.4, 2.0), (-30.0, -29.0), (0.1, 0.1 + 1e-6)):
        with mpmath.workdps(300):
            low, high = (mpmath.erfc(mpmath.mpf(v) / mpmath.sqrt(2)) / 2 for v in (a, b))
            expected = float(mpmath.log(low - high))
        given = (torch.tensor(v, dtype=torch.float64) for v in (a, b))
        close(bins.interval_log_mass(*given), expected, 1e-9)


def check_merge() -> None:
    """Moments merged from unequal parts are numpy's moments of the whole, standard error included."""
    values = np.random.default_rng(0).normal(3.0, 2.0, 1000)
    merged = Moments.empty()
    for part in np.split(values, [10, 11, 300]):
        merged = merged.merge(Moments.of(torch.from_numpy(part)))
    close(merged.mean, values.mean(), 1e-12)
    close(merged.variance, values.var(ddof=1), 1e-12)
    close(merged.standard_error, values.std(ddof=1) / math.sqrt(1000), 1e-12)


def check_units() -> None:
    """Two values of 8 bits each are 2 · 8 · log 2 nats."""
    close(units.bits_per_dim(2 * math.log(256), 2), 8.0, 1e-14)
    close(units.nats(8.0, 2), 2 * math.log(256), 1e-14)


def check_keys() -> None:
    """Normals of different seeds, examples, levels and draws are uncorrelated: |r| ≤ 4/√n; a shared key gives r = 1."""
    n = 4000
    base = random.normal(0, 1, 2, 3, (n,))[0]
    assert abs(float(base.mean())) <= 4 / math.sqrt(n) and abs(float(base.var()) - 1) <= 4 * math.sqrt(2 / n)
    for key in ((9, 1, 2, 3), (0, 9, 2, 3), (0, 1, 9, 3), (0, 1, 2, 9)):
        other = random.normal(*key, (n,))[0]
        assert abs(float((base * other).mean())) <= 4 / math.sqrt(n)
    assert torch.equal(random.normal(0, torch.tensor([5, 1]), 2, 3, (n,))[1], base)
