"""Terms of the bound of a model of symbols for one draw, in nats of every row; see `process/tokens`.

x, z (B, L) int64; scored, masked (B, L) bool; log_p (B, L, V) as `TokenModel.predict` returns it.
"""

from __future__ import annotations

from torch import Tensor

from nelbo.equation import equation
from nelbo.model.tokens.model import TokenModel
from nelbo.model.tokens.reverse import Rule
from nelbo.process.tokens import steps
from nelbo.process.tokens.kernel import Kernel
from nelbo.process.tokens.levels import TokenLevels


def mean_over(values: Tensor, places: Tensor) -> Tensor:
    """The mean (B,) of values (B, L) over `places`."""
    return values.masked_fill(~places, 0.0).sum(1) / places.sum(1)


@equation("token-count-form")
def revealed(
    model: TokenModel,
    each: Tensor,
    masked: Tensor,
    scored: Tensor,
    number: Tensor,
    passes: Tensor | float = 1.0,
) -> Tensor:
    """From the costs of every place (B, L), what it costs to reveal `number` (B,) of the hidden places, any of them
    alike: that many times the mean of one, (B,). Without carry-over each of the `passes` also costs what every visible
    place does, which must not change."""
    cost = number * mean_over(each, masked)
    return cost if model.reverse.carry_over else cost + passes * kept(each, masked, scored)


def kept(each: Tensor, masked: Tensor, scored: Tensor) -> Tensor:
    """The cost (B,) of the scored places that are visible, of costs (B, L)."""
    return each.masked_fill(masked | ~scored, 0.0).sum(1)


def step(
    model: TokenModel,
    kernel: Kernel,
    log_p: Tensor,
    x: Tensor,
    z: Tensor,
    s: TokenLevels,
    t: TokenLevels,
    scored: Tensor,
) -> Tensor:
    """KL(q(z_s | z_t, x) ‖ p(z_s | z_t)) (B,); at the level of the data −log p(x | z_t)."""
    p = model.step(log_p, z, s, t, kernel)
    q = steps.true_step(x, z, s, t, kernel, model.domain.vocabulary)
    return steps.divergence(q, p).masked_fill(~scored, 0.0).sum(1)


def rate(
    model: TokenModel, kernel: Kernel, log_p: Tensor, x: Tensor, z: Tensor, at: TokenLevels, scored: Tensor
) -> Tensor:
    """What a short step costs over its length in τ = −log α, (B,)."""
    plugged = Rule.parse(model.reverse.rule) is Rule.PLUG_IN
    law = log_p if plugged else model.posterior(log_p, z, at, kernel)
    each = steps.rate_divergence(x, law.exp(), z, at, kernel, plugged=plugged)
    return each.masked_fill(~scored, 0.0).sum(1)
