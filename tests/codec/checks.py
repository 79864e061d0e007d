"""Checks of the codec without arguments, for the tests and for the breaks that each must notice."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch

from nelbo.codec.bitswap import COARSE_GROUPS, Coder
from nelbo.codec.lattice import Guard
from nelbo.codec.stack import START, Stack
from nelbo.maths import gaussian
from nelbo.model.reverse import Beta, Reverse
from nelbo.process import forward
from tests.codec import models


def watch(coder: Coder, note: Callable[..., object]) -> None:
    """Call `note(j, x, k_before, k)` with every draw k of z_j by the coder, given x or the points of z_{j−1}."""
    pop = coder._pop_forward

    def watched(stack, guard, j, base, x, k):
        drawn = pop(stack, guard, j, base, x, k)
        note(j, x, k, drawn)
        return drawn

    coder._pop_forward = watched  # type: ignore[method-assign]  # draws are not visible from outside


def check_path(model=None, n: int = 100) -> None:
    """Bits added to a stack are −log₂ p(x, z) + log₂ q(z | x) of the latents drawn, densities by the model itself.

    The coder's tally of them is the same to rounding. Every Gaussian is taken from `process.forward` and
    `model.reverse`, none from the codec; to 0.1 %. The variance β
    is wide enough that no latent lies in a tail, where codes are shorter than those of a Gaussian.
    """
    model = model or dataclasses.replace(models.exact(20), reverse=Reverse(Beta()))
    coder, codes = Coder(model.in_precision(torch.float64), 0.5, n, seed=3), models.codes(n).long()
    drawn: dict[int, np.ndarray] = {}
    watch(coder, lambda j, x, k_before, k: drawn.update({j: k}))
    stack, chain = Stack(np.zeros(10**5, np.uint32), START), coder.chain
    before = stack.bits
    with torch.inference_mode():
        coder.push(stack, Guard(2.0**-26), codes, None, COARSE_GROUPS, n)
        z = [chain.values(drawn[j], j) for j in range(1, chain.L + 1)]
        levels = [chain.level(j, n) for j in range(1, chain.L + 1)]
        x = model.domain.values(codes)
        first = levels[0]
        cost = model.decoder.nll(codes, z[0], first, model.predict(z[0], first), model.domain).sum()
        cost += gaussian.log_density(z[0], first.alpha[0] * x, first.sigma[0].square()).sum()
        for s, t, z_s, z_t in zip(levels, levels[1:], z, z[1:], strict=False):
            q = forward.transition(s, t)
            cost += gaussian.log_density(z_t, q.alpha[0] * z_s, q.variance[0]).sum()
            mean, variance = model.reverse.step(z_t, model.predict(z_t, t), s, t)
            at = [model.reverse.variance.coordinates(v, t) for v in (z_s, mean)]
            cost -= gaussian.log_density(*at, variance.expand(z_s.shape)).sum()
        cost -= gaussian.log_density(z[-1], torch.zeros(()), torch.ones(())).sum()
    assert math.isclose(coder.tally.bits * math.log(2), float(cost), rel_tol=1e-9), (coder.tally, float(cost))
    ratio = (stack.bits - before) * math.log(2) / float(cost)
    assert abs(ratio - 1) < 1e-3, ratio


def check_path_in_a_basis() -> None:
    """The same where the latents lie in another basis than the images, with variances of their own."""
    check_path(models.reflected(20))


def check_draws() -> None:
    """Latents drawn have mean 0 and mean square 1 about q, level by level: z-scores below 5 with 1,800 each."""
    model, n = models.exact(4), 150
    coder, codes = Coder(model.in_precision(torch.float64), 0.5, n, seed=1), models.codes(n).long()
    drawn: dict[int, np.ndarray] = {}
    watch(coder, lambda j, x, k_before, k: drawn.update({j: k}))
    with torch.inference_mode():
        coder.push(Stack(np.zeros(10**5, np.uint32), START), Guard(2.0**-26), codes, None, COARSE_GROUPS, n)
        z, levels = model.domain.values(codes), model.levels()
        for j in range(1, coder.chain.L + 1):
            t = levels[slice(j - 1, j)]
            q = (t.alpha, t.sigma.square()) if j == 1 else forward.transition(levels[slice(j - 2, j - 1)], t)
            new = coder.chain.values(drawn[j], j)
            u = (new - q[0] * z) / q[1].sqrt()
            count = u.numel()
            assert abs(float(u.mean())) < 5 / math.sqrt(count), j
            assert abs(float(u.square().mean()) - 1) < 5 * math.sqrt(2 / count), j
            z = new


def check_guard() -> None:
    """With a band of 2^-8 exceptions are many; decoding under errors of 2^-10 needs every one of them."""
    rng = np.random.default_rng(0)
    values = rng.normal(0, 100, 20_000)
    encoder = Guard(2.0**-8)
    whole = encoder(values, 3)
    error = rng.uniform(-1, 1, values.shape) * 2.0**-10
    assert np.array_equal(Guard(2.0**-8, encoder.exceptions)(values + error, 3), whole)
    assert not np.array_equal(Guard(2.0**-8, [])(values + error, 3), whole)
    assert abs(len(encoder.exceptions) / len(values) - 2.0**-7) < 4 * math.sqrt(2.0**-7 / len(values))
    parts = [
        Guard(2.0**-8, encoder.exceptions)(values[i : i + 99] + error[i : i + 99], 3, i) for i in range(0, 20_000, 99)
    ]
    assert np.array_equal(np.concatenate(parts), whole)
