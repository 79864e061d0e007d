"""Models of symbols: exact data, rules, what a network is told, what is refused, and what a model says of itself."""

from __future__ import annotations

import pytest
import torch

from nelbo.errors import DomainError, NelboError, ShapeError, UsageError
from nelbo.model.exact.tokens import MarkovData, ProductTokens, TokenData
from nelbo.model.tokens.denoiser import NetworkTokenDenoiser
from nelbo.model.tokens.domain import TokenDomain, scored_places
from nelbo.model.tokens.model import TokenModel
from nelbo.model.tokens.reverse import AllMasked, MatchedMask, SymbolPrior, TokenReverse
from nelbo.process.grid import Continuous, Even, Full, Subset
from nelbo.process.tokens import survival
from nelbo.process.tokens.kernel import Absorbing, Steps, Uniform
from tests.bound.tokens import oracles
from tests.model.tokens import checks


@pytest.mark.parametrize("name", checks.DATA)
def test_exact_data(name):
    checks.check_data(name)
    checks.check_samples(checks.DATA[name]())


def test_exact_table():
    checks.check_posterior()
    checks.check_samples(TokenData(torch.tensor([[3.0, 1, 2], [1, 4, 0.5], [2, 1, 1]])))


def test_a_long_chain_in_any_order():
    checks.check_long_chain()


def test_logits():
    checks.check_the_masks_column()
    checks.check_costs()
    checks.check_shift()
    checks.check_told()
    checks.check_matched_prior()


def test_the_infinite_bound_is_named():
    with pytest.raises(UsageError, match=r"the bound is infinite: the chain ends with α_T = 0\.001"):
        oracles.model(Absorbing(3), 3, 2, schedule=survival.Linear(1e-3), time="unit")
    assert oracles.model(
        Absorbing(3), 3, 2, schedule=survival.Linear(1e-3), time="unit", prior=MatchedMask()
    ).grid.continuous


def network(*_: torch.Tensor) -> torch.Tensor:
    return torch.zeros(1, 2, 3)


TIMED = {"schedule": survival.Linear(), "time": "unit"}


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: TokenDomain(1, 4), UsageError, "1 symbols"),
        (lambda: TokenDomain(3, 2).checked(torch.zeros(4, 3).long()), ShapeError, "give"),
        (lambda: TokenDomain(3, 2).checked(torch.zeros(0, 2).long()), ShapeError, "no sequences"),
        (lambda: TokenDomain(3, 2).checked(torch.zeros(4, 2)), DomainError, "integers"),
        (lambda: TokenDomain(3, 2).checked(torch.full((4, 2), 3)), DomainError, "3 for a vocabulary of 3"),
        (lambda: scored_places(torch.zeros(2, 2), torch.ones(2, 2).bool(), None), DomainError, "sequence 0"),
        (lambda: scored_places(torch.zeros(2, 2), torch.ones(2, 2), None), ShapeError, "bools"),
        (lambda: oracles.model(Absorbing(5), 3, 2), UsageError, "mask 5"),
        (lambda: oracles.model(Absorbing(3), 3, 2, time="unit"), UsageError, "without a schedule"),
        (lambda: oracles.model(Uniform(), 3, 2), UsageError, "without a schedule"),
        (lambda: oracles.model(Absorbing(3), 3, 2, schedule=survival.Linear()), UsageError, "not told the time"),
        (lambda: oracles.model(Absorbing(3), 3, 2, rule="plug_in"), UsageError, "plug-in"),
        (lambda: oracles.model(Absorbing(3), 3, 2, rule="plugin"), NelboError, "plug_in"),
        (lambda: oracles.model(Absorbing(3), 3, 2, grid=Even(3)), UsageError, "at most 2"),
        (lambda: oracles.model(Absorbing(3), 3, 2, grid=Subset((0,))), UsageError, "last position is 1"),
        (lambda: oracles.model(Absorbing(3), 3, 2, grid=Continuous()), UsageError, "counts of hidden places"),
        (lambda: oracles.model(Absorbing(3), 3, 2, prior=MatchedMask()), UsageError, "every place hidden"),
        (lambda: oracles.model(Absorbing(3), 3, 2, **TIMED, carry_over=False), UsageError, "carry_over"),
        (lambda: oracles.model(Absorbing(3), 3, 2, **TIMED, grid=Full()), UsageError, "no table"),
        (lambda: oracles.model(Uniform(), 3, 2, **TIMED, prior=AllMasked()), UsageError, "no mask"),
        (lambda: oracles.model(Uniform(), 3, 2, **TIMED, grid=Continuous()), UsageError, "without any noise"),
        (lambda: oracles.model(Uniform(), 3, 2, **TIMED, prior=SymbolPrior(torch.ones(2))), UsageError, "2 symbols"),
        (lambda: oracles.model(Steps(torch.eye(3)[None]), 3, 2, grid=Continuous()), UsageError, "table of steps"),
        (lambda: SymbolPrior(torch.tensor([0.0, 1.0])), DomainError, "positive"),
        (lambda: NetworkTokenDenoiser(network, 3, "hours"), NelboError, "mask_fraction"),
        (lambda: NetworkTokenDenoiser(network, 4)(torch.zeros(1, 2).long(), torch.zeros(1, 2) > 0, None), ShapeError,
         "4 symbols"),
        (lambda: NetworkTokenDenoiser(network, 3)(torch.zeros(2, 2).long(), torch.zeros(2, 2) > 0, None), ShapeError,
         "shape"),
        (lambda: NetworkTokenDenoiser(lambda z: z.nothing, 3)(torch.zeros(2, 2).long(), torch.zeros(2, 2) > 0, None),
         UsageError, "called with z"),
        (lambda: NetworkTokenDenoiser(lambda z: z, 3)(torch.zeros(2, 2).long(), torch.zeros(2, 2) > 0, None),
         ShapeError, "logits"),
        (lambda: TokenData(torch.ones(2, 3)), DomainError, "one axis a place"),
        (lambda: TokenData(-torch.ones(2, 2)), DomainError, "negative"),
        (lambda: MarkovData(torch.ones(2), torch.ones(3, 3), 4), DomainError, "transition"),
        (lambda: ProductTokens(torch.zeros(2, 2)), UsageError, "positive"),
    ],
)  # fmt: skip
def test_nonsense_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_what_a_model_says_of_itself():
    model = oracles.model(Absorbing(3), 3, 4, grid=Even(2))
    assert model.describe()["grid"] == {"kind": "even", "steps": 2, "first": 0, "over": "counts"}
    assert model.describe()["reverse"]["rule"] == "mixture" and model.steps == 2 and model.parameters == 0
    assert model.fingerprint() == oracles.model(Absorbing(3), 3, 4, grid=Even(2)).fingerprint()
    others = [
        oracles.model(Absorbing(3), 3, 4, grid=Even(3)),
        oracles.model(Absorbing(3), 3, 4, grid=Even(2), carry_over=False),
        oracles.model(Absorbing(3), 3, 4, grid=Even(2), times=4, time="mask_fraction"),
        oracles.model(Absorbing(2), 3, 4, grid=Even(2), columns=3),
    ]
    assert len({m.fingerprint() for m in [model, *others]}) == 5
    again = TokenReverse.from_config(model.reverse.to_config(), {})
    assert again == model.reverse or again.to_config() == model.reverse.to_config()
    assert model.with_grid(Full()).steps == 4
    assert model.in_precision(torch.float32).denoiser.compute_dtype == torch.float32


def test_prompts_and_masks():
    data = torch.zeros(2, 3).long()
    prompt = torch.tensor([[True, False, False], [False, False, False]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    expected = torch.tensor([[False, True, False], [True, True, True]])
    assert torch.equal(scored_places(data, prompt, mask), expected)


def test_the_model_of_a_kernel():
    assert isinstance(checks.markov().model(Uniform(), schedule=survival.Linear(0.1)), TokenModel)
