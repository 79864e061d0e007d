"""`contrast` over every kind of chain, against laws whose log p(x | c) is known."""

import dataclasses
from typing import Any

import pytest
import torch

import nelbo
from nelbo.errors import DomainError, ShapeError, UsageError
from nelbo.model.exact.tokens import MarkovData, TokenData
from nelbo.model.tokens.denoiser import TokenDenoiser
from tests.bound.conditional import gaussians, model_of
from tests.bound.latent import linear
from tests.bound.workers import on_two
from tests.model.tokens.checks import INITIAL, TRANSITION, markov

TO_TOLERANCE: dict[str, Any] = {"confidence": None, "tolerance": 0.15}


def pulls(found: nelbo.Contrast, nll: torch.Tensor) -> torch.Tensor:
    """Differences to the best one less the exact ones, in standard errors."""
    right = nll - nll.gather(1, found.best[:, None])
    return ((found.difference - right) / found.standard_error)[found.standard_error > 0]


def check(found: nelbo.Contrast, nll: torch.Tensor) -> None:
    """Unbiased with honest errors, which notice half a nat."""
    z = pulls(found, nll)
    assert len(z) >= found.examples and float(z.abs().max()) < 4.5 and float(z.std()) < 1.4
    assert float(pulls(found, nll + 0.75 * torch.arange(nll.shape[1])).abs().max()) > 4.5


PATHS = {
    "vp": dataclasses.replace(nelbo.schedules.logsnr_linear(9.0, -9.0), path_name="vp"),
    "ve": dataclasses.replace(nelbo.schedules.logsnr_linear(9.0, -9.0), path_name="ve"),
    "flow": nelbo.schedules.flow(0.01, 0.99),
}


@pytest.mark.parametrize("path", PATHS)
def test_paths(path):
    """The continuous bound of an exact network is −log p, but for ends that are the same for all conditions."""
    laws, schedule = gaussians(3, 2, seed=2), PATHS[path]
    x = torch.cat([law.sample(3, seed=k) for k, law in enumerate(laws)])
    nll = torch.stack([-law.log_prob(x) for law in laws], 1)
    model = model_of(laws, schedule).with_grid(nelbo.grids.continuous())
    check(nelbo.contrast(model, x, "y", range(3), precision="float64", **TO_TOLERANCE), nll)


class OfClass(TokenDenoiser):
    """The exact networks of several laws, one of which the keyword y chooses; the first without it."""

    def __init__(self, laws, kernel):
        super().__init__()
        self.nets = [law.denoiser(kernel) for law in laws]

    def forward(self, z, hidden, at, condition=None):
        y = (condition or {}).get("y", torch.zeros(len(z), dtype=torch.long))
        every = torch.stack([net(z, hidden, at) for net in self.nets])
        return every[y, torch.arange(len(z))]


def joint(seed: int) -> TokenData:
    return TokenData(torch.rand(3, 3, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 2)


LAWS = [joint(seed) for seed in range(3)]
SYMBOLS = torch.cat([law.sample(4, seed=k) for k, law in enumerate(LAWS)])
NLL = torch.stack([-law.log_prob(SYMBOLS) for law in LAWS], 1)


def of_class(timed: bool = False, **more: Any) -> nelbo.TokenModel:
    model = LAWS[0].model(more.pop("kernel", None), **{"schedule": None, **({} if timed else more)})
    denoiser = OfClass(LAWS, model.kernel)
    denoiser.timed = timed
    return dataclasses.replace(model, denoiser=denoiser, **(more if timed else {}))


CHAINS: dict[str, dict[str, Any]] = {
    "counts": {},
    "times": {"timed": True, "schedule": nelbo.tokens.linear(), "grid": nelbo.grids.continuous()},
    "uniform": {"kernel": nelbo.tokens.uniform(), "schedule": nelbo.tokens.cosine()},
}


@pytest.mark.parametrize("name", CHAINS)
def test_symbols_under_conditions(name):
    """With its exact network the bound of a chain over symbols is −log p for every sequence."""
    model = of_class(**CHAINS[name])
    check(nelbo.contrast(model, SYMBOLS, "y", range(3), **TO_TOLERANCE), NLL)
    without = nelbo.contrast(model, SYMBOLS[:2], "y", [None, 0], confidence=None, tolerance=1.0)
    assert without.difference.tolist() == [[0.0, 0.0]] * 2  # the same hidden places, the same network


def test_latents():
    """E_q log p(z | c) in closed form; the pixels' likelihood is not asked for."""
    laws = gaussians(3, 2, seed=4)
    prior = model_of(laws).with_grid(nelbo.grids.continuous())
    model = linear.model(over=prior)
    found = nelbo.contrast(model, linear.X, "y", range(3), precision="float64", **TO_TOLERANCE)
    mean, spread = linear.posterior_mean(linear.X), linear.POSTERIOR
    nll = [
        ((mean - law.mean).square() + spread) / law.covariance.diagonal() + law.covariance.diagonal().log()
        for law in laws
    ]
    check(found, torch.stack([0.5 * each.sum(1) for each in nll], 1))


PROMPTS = torch.tensor([[0, 0], [2, 1], [1, 2]])


def test_prompts():
    """What stands at the given places is the condition: log p(rest | prompt) of a Markov chain is known."""
    data = markov(8)
    x = data.sample(8, seed=3)
    prompt = torch.zeros_like(x).bool()
    prompt[:, 2:4] = True

    def given(row: torch.Tensor) -> torch.Tensor:
        whole = x.clone()
        whole[:, 2:4] = row
        before = MarkovData(INITIAL, TRANSITION, 4).log_prob  # of the prompt, summed over what precedes it
        first = torch.cartesian_prod(torch.arange(3), torch.arange(3))
        of_prompt = before(torch.cat([first, row.expand(9, -1)], 1)).logsumexp(0)
        return of_prompt - data.log_prob(whole)

    nll = torch.stack([given(row) for row in PROMPTS], 1)
    options: dict[str, Any] = {"condition": "prompt", "values": PROMPTS.tolist(), "prompt": prompt, **TO_TOLERANCE}
    check(nelbo.contrast(data.model(), x, **options), nll)
    for wrong, error in (([[0, 0, 1]], ShapeError), ([[0, 9]], DomainError), ([None, [0, 1]], UsageError)):
        with pytest.raises(error, match="prompt"):
            nelbo.contrast(data.model(), x, **{**options, "values": wrong})
    with pytest.raises(UsageError, match="images"):
        nelbo.contrast(model_of(gaussians(2, 2)), torch.zeros(1, 2), "y", [0, 1], prompt=prompt)


def test_two_models():
    """Of symbols, and of numbers: the differences of their −log p, and the better one."""
    law, other = LAWS[:2]
    found = nelbo.contrast(law.model(), SYMBOLS, model_b=other.model(), **TO_TOLERANCE)
    assert (found.condition, found.values) == ("model", ("a", "b"))
    check(found, NLL[:, :2])
    mean, by_draws, by_data = found.mean_difference("a", "b")
    assert abs(mean - float((NLL[:, 0] - NLL[:, 1]).mean())) < 4.5 * by_draws < by_data
    assert found.mean_difference("b", "a")[0] == -mean
    with pytest.raises(UsageError, match="'c'"):
        found.mean_difference("a", "c")
    ratio = nelbo.log_ratio(law.model(), other.model(), SYMBOLS, tolerance=0.15)
    z = (ratio.value - (NLL[:, 1] - NLL[:, 0])) / ratio.standard_error
    assert float(z.abs().max()) < 4.5
    with pytest.raises(UsageError, match="either models or conditions"):
        nelbo.contrast(law.model(), SYMBOLS, "y", [0, 1], model_b=other.model())
    with pytest.raises(UsageError, match="unlike data"):
        nelbo.contrast(law.model(), SYMBOLS, model_b=markov(8).model())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["counts", "finite"])
def test_batches_and_workers_change_nothing(name):
    """Of symbols, and of a chain of few levels."""
    laws = gaussians(3, 2)
    if name == "finite":
        model: Any = model_of(laws, nelbo.schedules.linear(12, 1e-3, 0.3), "index")
        data = torch.cat([law.sample(2) for law in laws])
    else:
        model, data = of_class(), SYMBOLS[::2]
    options: dict[str, Any] = {"confidence": 0.95, "indifference": 1.0}
    alone = nelbo.contrast(model, data, "y", range(3), **options)
    shared, _ = on_two(lambda worker: nelbo.contrast(model, data, "y", range(3), **options, workers=worker))
    for found in [nelbo.contrast(model, data, "y", range(3), **options, batch_size=7), *shared]:
        for part in ("difference", "standard_error", "posterior", "left", "evaluations"):
            torch.testing.assert_close(getattr(found, part), getattr(alone, part), rtol=0, atol=1e-9)
        assert found.nfe_total == alone.nfe_total


@pytest.mark.slow
@pytest.mark.parametrize("name", ["counts", "finite"])
def test_the_covariance_is_that_of_many_runs(name):
    """One example under 400 keys of noise, of symbols and of a chain of few levels."""
    if name == "finite":
        laws = gaussians(3, 2)
        model: Any = model_of(laws, nelbo.schedules.linear(12, 1e-3, 0.3), "index")
        data = laws[0].sample(1).expand(400, -1)
    else:
        model, data = of_class(), SYMBOLS[:1].expand(400, -1)
    budget = (2 if name == "finite" else 1) * 3 * (400 * 32 + 12 * 18) + 10  # with the pilot and the trial
    found = nelbo.contrast(model, data, "y", range(3), confidence=None, tolerance=1e-9, max_nfe=budget)
    assert len(set(found.evaluations.tolist())) == 1 and found.covariance is not None
    claimed = found.covariance.mean(0)
    for b, c in ((0, 1), (0, 2), (1, 2)):
        seen = float((found.difference[:, b] - found.difference[:, c]).var())
        variance = float(claimed[b, b] + claimed[c, c] - 2 * claimed[b, c])
        assert 0.8 < variance / seen < 2  # neighbouring strata are unlike: a little long
        assert float(claimed[b, b] + claimed[c, c]) > 1.3 * variance  # what pairing saves


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_tightened_chain():
    """Its differences are those of its bounds, by an estimator that shares nothing among conditions."""
    laws = gaussians(2, 4)
    model = model_of(laws, nelbo.schedules.linear(100, 1e-3, 0.1), "index")
    fitted = torch.cat([law.sample(80, seed=k) for k, law in enumerate(laws)])
    tight, _ = nelbo.tighten(model, fitted, 6, condition={"y": torch.arange(2).repeat_interleave(80)})
    x = torch.cat([law.sample(3, seed=9) for law in laws])
    found = nelbo.contrast(tight, x, "y", [0, 1], confidence=None, tolerance=0.1)
    many, bounds = x.repeat_interleave(400, 0), []
    for c in (0, 1):
        y = {"y": torch.full((len(many),), c)}
        bound = nelbo.evaluate(tight, many, condition=y, per_example=True, estimator="exhaustive", seed=7)
        assert bound.per_example is not None
        bounds.append(bound.per_example.nats.reshape(6, 400))
    gap, exact = found.difference[:, 1] - found.difference[:, 0], bounds[1] - bounds[0]
    error = (found.standard_error.max(1).values ** 2 + exact.var(1) / 400).sqrt()
    assert float(((gap - exact.mean(1)) / error).abs().max()) < 4 and float(error.max()) < 0.5
    assert float(((gap + exact.mean(1)) / error).abs().max()) > 6  # power: the sign
