"""`nelbo.tokens`: any network over symbols as a `TokenModel`, and the parts that it is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nelbo.arguments import numbers
from nelbo.data.symbols import of_facts
from nelbo.errors import DomainError, UnknownNameError, UsageError
from nelbo.model.examples import Examples
from nelbo.model.tokens.denoiser import NetworkTokenDenoiser, TokenLaw, TokenOutput
from nelbo.model.tokens.domain import TokenDomain
from nelbo.model.tokens.model import TokenModel, grid_for, prior_for
from nelbo.model.tokens.reverse import AllMasked, MatchedMask, SymbolPrior, TokenPrior, TokenReverse
from nelbo.process.grid import Grid
from nelbo.process.tokens.kernel import Absorbing, Kernel, Rates, Steps, Uniform, gaussian_steps
from nelbo.process.tokens.masks_and_uniform import MasksAndUniform
from nelbo.process.tokens.survival import AlphaTable, Cosine, Geometric, Linear, Survival
from nelbo.typing import Json

__all__ = [
    "absorbing",
    "cosine",
    "from_callable",
    "gaussian",
    "geometric",
    "linear",
    "masks_and_uniform",
    "matrix",
    "table",
    "text",
    "uniform",
]


@numbers
def from_callable(
    fn: Callable[..., Tensor],
    *,
    vocabulary: int,
    length: int,
    kernel: Kernel,
    time: str | None = None,
    schedule: Survival | None = None,
    grid: Grid | None = None,
    predicts: str = "logits",
    reverse: str = "mixture",
    law: str = "posterior",
    block: int | None = None,
    prior: str | TokenPrior | Tensor | Sequence[float] | None = None,
    remove_mask: bool = True,
    carry_over: bool = True,
    shift: bool = False,
    trained_on: Examples | Tensor | None = None,
    modules: Sequence[nn.Module] = (),
    stochastic: bool = False,
) -> TokenModel:
    """The model p(x) of sequences x ∈ {0, …, V − 1}^L that a network fn(z), or fn(z, time), defines.

    fn: z (B, L) int64 ↦ logits (B, L, V), or (B, L, V + 1) with the mask's as the last; other keywords are conditions.
    vocabulary, length: V and L. kernel: `absorbing(mask)`, `uniform()`, `matrix(Q)`, `gaussian(V, betas)` or
    `masks_and_uniform(γ)`.

    time: what fn is told besides z: None; "count" or "mask_fraction" of the hidden places; "unit" time t ∈ [0, 1], or
    "sigma", −log α_t. A network over masks that is told neither t nor σ has one bound under every schedule, and its
    chain runs over the counts of hidden places; all others need a `schedule`: `linear()`, `cosine()`, `geometric(…)` or
    `table(alphas)`.
    grid: None is every count, every level of a table, or the continuous chain of a law (from t = 1e-3 on where there is
    no mask; its first level is decoded). `nelbo.grids.even(K)` is the chain of K steps, each of which reveals places at
    once.

    predicts: "logits"; "probabilities"; or "log_ratios", the logarithms of p_t(z with another symbol)/p_t(z) that score
    entropy learns, of masks or uniform noise, which are read as the law that they are ratios of.
    block: of masks, a network that is told no time: so many places at a time, from the left, are revealed before the
    next: 1 is the chain rule from left to right, None all places in any order. All later places are hidden.

    Of kernels without a mask: reverse "mixture", Σ_k q(z_s | z_t, k) p(k | z_t), or "plug_in", with the network's law
    in the place of x (as D3PM's code does). law: whether the network gives the law of a place's symbol given all of z
    ("posterior"), or given z without that place ("leave_one_out").
    Of masks: remove_mask: what the network puts on the mask's own logit is removed; carry_over: a visible symbol stays.
    With False, what is left there makes the bound looser. shift: the logits at a place are those of the next place.
    prior: None is "all_masked", or the mean of q(z_T | x) over symbols; "matched" for a schedule that leaves α_T > 0
    (costs α_T log V nats a place, where "all_masked" has an infinite bound); or probabilities (V,).
    trained_on, modules, stochastic: as of `nelbo.from_callable`.

    Errors: UsageError, UnknownNameError; ShapeError where fn returns another shape.

    >>> import nelbo, torch
    >>> data = nelbo.exact.TokenData(torch.tensor([[0.3, 0.1], [0.2, 0.4]]))
    >>> exact = data.model()
    >>> network = lambda z: exact.denoiser(z, z == 2, None)
    >>> model = nelbo.tokens.from_callable(network, vocabulary=2, length=2, kernel=nelbo.tokens.absorbing(mask=2))
    >>> x = data.sample(64)
    >>> bound = nelbo.evaluate(model, x, per_example=True)
    >>> bool((bound.per_example.nats + data.log_prob(x)).abs().mean() < 0.2)      # −log p(x) of every sequence
    True
    """
    if not callable(fn):
        raise UsageError(f"tokens.from_callable was given a {type(fn).__name__}", "give a function or module fn(z)")
    if not isinstance(kernel, Kernel):
        raise UsageError(
            f"kernel={kernel!r}", "give nelbo.tokens.absorbing(mask=V), uniform(), matrix(Q) or gaussian(V, betas)"
        )
    if not isinstance(schedule, (Survival, type(None))):
        raise UsageError(
            f"schedule={schedule!r}", "give nelbo.tokens.linear(), cosine(), geometric(…) or table(alphas), or None"
        )
    if not isinstance(grid, (Grid, type(None))):
        raise UsageError(f"grid={grid!r}", "give nelbo.grids.even(8), say, or None for every level")
    domain = TokenDomain(vocabulary, length)
    if predicts == TokenOutput.LOG_RATIOS.value and not kernel.absorbing:
        law = TokenLaw.LEAVE_ONE_OUT.value
    how: Json = {"law": law, "predicts": predicts, "shift": shift, "stochastic": stochastic, "modules": modules}
    denoiser = NetworkTokenDenoiser(fn, vocabulary, time, **how)
    grid = grid or grid_for(kernel, schedule)
    if trained_on is not None:
        examples = trained_on if isinstance(trained_on, Examples) else Examples(torch.as_tensor(trained_on))
        trained_on = Examples(domain.checked(examples.data)).hashes
    kernel.check(vocabulary)
    return TokenModel(
        domain=domain,
        kernel=kernel,
        denoiser=denoiser,
        schedule=schedule,
        grid=grid,
        reverse=TokenReverse(reverse, remove_mask, carry_over, block),
        prior=_prior(prior, lambda: prior_for(kernel, schedule, grid, vocabulary)),
        trained_on=trained_on,
    )


PRIORS = {"all_masked": AllMasked, "matched": MatchedMask}


def _prior(given: Any, otherwise: Callable[[], TokenPrior]) -> TokenPrior:
    if given is None:
        return otherwise()
    if isinstance(given, TokenPrior):
        return given
    if isinstance(given, str):
        if given not in PRIORS:
            raise UnknownNameError.of("prior", given, PRIORS)
        return PRIORS[given]()
    return SymbolPrior(torch.as_tensor(given, dtype=torch.float64))


def text(model: TokenModel, symbols: Tensor) -> list[str]:
    """The texts of sequences (n, L) of a model that was trained on a text, by its tokenizer or alphabet. Bytes that are
    no UTF-8, as a model may draw them, show as U+FFFD. Errors: UsageError where it is not known what symbols stand for.
    """
    known = of_facts(model.provenance.get("data", {}))
    if known is None:
        raise UsageError(
            "sequences of a model that was not trained on a text: it is not known what its symbols stand for",
            "train it on text:FILE, or write the integers themselves",
        )
    return [known.text(row).decode("utf-8", "replace") for row in model.domain.checked(symbols).numpy()]


@numbers
def absorbing(mask: int) -> Absorbing:
    """Masked diffusion: a symbol becomes the mask, and stays so. mask: V, one more than the vocabulary has, or that
    symbol of the vocabulary that is the mask (as in BERT's). Errors: UsageError for a negative one."""
    if mask < 0:
        raise UsageError(f"mask={mask}", "give V, one more than the vocabulary has, or the symbol that is the mask")
    return Absorbing(mask)


def uniform() -> Uniform:
    """Noise that replaces a symbol by any of the vocabulary alike."""
    return Uniform()


def masks_and_uniform(masked: Tensor | Any) -> MasksAndUniform:
    """Noise that replaces a symbol by the mask or by any other (VQ-Diffusion): masked (T,), the probability of the mask
    at every level of a schedule `table(alphas)`. The mask is the last symbol of the vocabulary."""
    return MasksAndUniform(torch.as_tensor(masked, dtype=torch.float64))


def matrix(Q: Tensor | Any) -> Kernel:
    """Noise by a matrix: Q (T, V, V), the steps q(z_t | z_{t−1}) of a finite chain, rows that sum to 1; or a generator
    (V, V), rows that sum to 0, with q(z_t | x) = exp(−log α_t · Q) under a schedule α_t. Errors: DomainError."""
    Q = torch.as_tensor(Q, dtype=torch.float64)
    if Q.ndim == 3:
        return Steps(Q)
    if Q.ndim == 2 and bool((Q >= 0).all()):
        raise DomainError(
            "one stochastic matrix without the number of its steps",
            "give (T, V, V): Q.expand(T, V, V) for T equal steps",
        )
    return Rates(Q)


@numbers
def gaussian(vocabulary: int, betas: Tensor | Any) -> Steps:
    """D3PM's discretised Gaussian steps for ordered symbols, betas (T,) > 0: `gaussian_steps` of the kernels."""
    return gaussian_steps(vocabulary, torch.as_tensor(betas, dtype=torch.float64))


@numbers
def linear(last: float = 0.0) -> Linear:
    """α_t = 1 − (1 − α_1) t, with `last` = α_1: 0, or the ε of log-linear noise."""
    return Linear(last)


def cosine() -> Cosine:
    """α_t = 1 − cos(π (1 − t)/2)."""
    return Cosine()


@numbers
def geometric(sigma_min: float = 1e-3, sigma_max: float = 20.0) -> Geometric:
    """α_t = exp(−σ_min^{1−t} σ_max^t)."""
    return Geometric(sigma_min, sigma_max)


def table(alphas: Tensor | Any) -> AlphaTable:
    """Survivals α_1 > … > α_T of the levels of a finite chain, in [0, 1)."""
    return AlphaTable(torch.as_tensor(alphas, dtype=torch.float64))
