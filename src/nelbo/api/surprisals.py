"""`surprisal`: where in a sequence of symbols the bits are."""

from __future__ import annotations

from torch import Tensor

from nelbo.adapters.load import Model
from nelbo.ambient import neutral
from nelbo.api.inputs import Data, Device, TokenInputs, opened
from nelbo.arguments import numbers
from nelbo.bound.tokens import evaluate as token_bounds
from nelbo.bound.tokens import surprisal as surprisals
from nelbo.bound.tokens.surprisal import REPEATS, SEQUENCES, STRATA, Surprisal
from nelbo.data import symbols
from nelbo.errors import UsageError
from nelbo.model.tokens.model import TokenModel
from nelbo.typing import Condition
from nelbo.workers import Alone, Run


@numbers
@neutral()
def surprisal(
    model: Model,
    data: Data,
    *,
    sequences: int = SEQUENCES,
    strata: int = STRATA,
    repeats: int = REPEATS,
    condition: Condition | str | None = None,
    prompt: Tensor | int | None = None,
    mask: Tensor | None = None,
    trust_code: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
    device: Device | None = None,
    precision: str = "float32",
) -> Surprisal:
    """What every place of the first `sequences` costs in the bound, in nats, with its standard error:

        s_i = (1/n) Σ_{l=1..n} E[ −log p_i(x_i | x outside of M) ],    i ∈ M, |M| = l,    Σ_i s_i = bound(x)

    the mean cost of revealing place i over random orders of the n scored places. sequences: so many of the data, the
    first. strata, repeats: of the numbers of masked places, and how often each is drawn; the error of a place is that
    of its repeats. model, data, condition, prompt, mask, trust_code, seed, batch_size, device and precision are as of
    `evaluate`. A model of images, one that is told the time, or of blocks or fewer steps is refused.

    Errors: ShapeError, DomainError, UsageError, NumericalError.
    Source: Uria et al. 2014, "A deep and tractable density estimator", section 3.

    >>> import nelbo, torch
    >>> data = nelbo.exact.ProductTokens(torch.tensor([[0.5, 0.5], [0.9, 0.1]]))
    >>> nelbo.surprisal(data.model(), torch.tensor([[0, 1]])).nats[0].exp().round().tolist()    # 1/p of each
    [2.0, 10.0]
    """
    loaded = opened(model, None, trust_code)
    if not isinstance(loaded, TokenModel):
        raise UsageError("the surprisal of symbols under a model of images", "give a model of sequences of symbols")
    given = TokenInputs.of(data, limit=sequences, condition=condition, prompt=prompt, mask=mask)
    places = {"condition": given.condition, "prompt": given.prompt, "mask": given.mask}
    run = Run(device, precision, batch_size, seed, None, Alone(), None)
    prepared = token_bounds.prepare(loaded, given.examples, run, **places)
    return surprisals.surprisal(prepared, symbols.texts(prepared.chain.data, given.examples.facts), strata, repeats)
