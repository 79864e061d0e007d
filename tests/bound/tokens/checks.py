"""Laws of the bound of symbols, for the tests and for deliberate breaks: terms and chains against enumeration."""

from __future__ import annotations

import math

import torch

from nelbo.bound.estimators import Exhaustive, Stratified
from nelbo.bound.planned import pilot
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.bound.problem import Draws, Problem
from nelbo.bound.runner import Runner
from nelbo.bound.tokens.controls import TokenControls
from nelbo.bound.tokens.masked import MaskedChain
from nelbo.bound.tokens.noised import NoisedChain
from nelbo.bound.tokens.place_fit import REGRESSORS, PlaceFit, Sums
from nelbo.model.exact.tokens import ProductTokens
from nelbo.model.tokens.denoiser import NetworkTokenDenoiser
from nelbo.model.tokens.model import TokenModel
from nelbo.model.tokens.ngrams import NGrams
from nelbo.model.tokens.reverse import MatchedMask, SymbolPrior
from nelbo.process.grid import Continuous, Even, Full, Subset
from nelbo.process.tokens import survival
from nelbo.process.tokens.kernel import Absorbing, Rates, Steps, Uniform, gaussian_steps
from nelbo.workers import Run
from tests.bound.tokens import oracles
from tests.model.tokens.checks import markov

V, L = 3, 4
X = [[0, 2, 1, 1], [2, 2, 0, 1]]


def near(value: float, expected: float, tolerance: float = 1e-10) -> None:
    assert abs(value - expected) <= tolerance * max(1, abs(expected)), (value, expected)


COUNTED = {
    "every count": lambda: oracles.model(Absorbing(V), V, L),
    "three steps": lambda: oracles.model(Absorbing(V), V, L, grid=Even(3)),
    "chosen counts": lambda: oracles.model(Absorbing(V), V, L, grid=Subset((0, 3))),
    "mask left in": lambda: oracles.model(Absorbing(V), V, L, columns=V + 1, remove_mask=False),
    "mask removed": lambda: oracles.model(Absorbing(V), V, L, columns=V + 1),
    "no carry-over": lambda: oracles.model(Absorbing(V), V, L, grid=Even(2), carry_over=False),
    "told the count": lambda: oracles.model(Absorbing(V), V, L, times=L, time="mask_fraction"),
}


def check_counts(name: str) -> None:
    """The terms, averaged over all sets, are the mean cost over all orders."""
    model = COUNTED[name]()
    for x in X:
        near(oracles.by_terms(model, x), oracles.by_orders(model, x))


def check_bayes() -> None:
    """The exact network's bound is −log p(x) of every sequence, and the entropy on average."""
    data = oracles.joint(V, 3)
    model = data.model()
    values = torch.tensor([oracles.by_terms(model, x.tolist()) for x in data.sequences], dtype=torch.float64)
    assert float((values + data.log_prob(data.sequences)).abs().max()) < 1e-10
    near(float((values * data.joint.flatten()).sum()), data.entropy())


def check_looser(name: str) -> None:
    """What is left on the mask, or may change a visible symbol, makes a larger bound of the same network."""
    rule = {"mask left in": "remove_mask", "no carry-over": "carry_over"}[name]
    strict = {"columns": V + 1} if rule == "remove_mask" else {"grid": Even(2)}
    loose, tight = (oracles.model(Absorbing(V), V, L, **strict, **{rule: kept}) for kept in (False, True))  # type: ignore[arg-type]
    for x in X:
        assert oracles.by_terms(loose, x) > oracles.by_terms(tight, x) + 0.1


GENERATOR = torch.tensor([[-1.0, 1.0], [0.4, -0.4]], dtype=torch.float64)
TABLE = torch.tensor(
    [[[0.9, 0.1], [0.2, 0.8]], [[0.7, 0.3], [0.1, 0.9]], [[0.5, 0.5], [0.3, 0.7]]], dtype=torch.float64
)
TIMED = {
    "masked, linear": (Absorbing(2), {"schedule": survival.Linear(), "time": "unit"}),
    "masked, cosine": (Absorbing(2), {"schedule": survival.Cosine(), "time": "unit"}),
    "masked, matched prior": (Absorbing(2), {"schedule": survival.Linear(0.2), "time": "unit", "prior": MatchedMask()}),
    "masked, table": (Absorbing(2), {"schedule": survival.AlphaTable(torch.tensor([0.7, 0.4, 0])), "time": "unit"}),
    "uniform": (Uniform(), {"schedule": survival.Linear(0.1), "time": "unit"}),
    "uniform, to the end": (Uniform(), {"schedule": survival.Cosine(), "time": "unit"}),
    "rates": (Rates(GENERATOR), {"schedule": survival.Geometric(0.1, 3.0), "time": "unit"}),
    "rates, another prior": (
        Rates(GENERATOR),
        {"schedule": survival.Geometric(0.1, 3.0), "time": "unit", "prior": SymbolPrior(torch.tensor([0.6, 0.4]))},
    ),
    "steps": (Steps(TABLE), {"time": "unit"}),
    "Gaussian steps": (gaussian_steps(2, torch.tensor([0.5, 2.0, 5.0])), {"time": "unit"}),
    "steps, respaced": (Steps(TABLE), {"time": "unit", "grid": Even(2)}),
}
RULES = {"mixture": {}, "plug_in": {"rule": "plug_in"}, "leave_one_out": {"law": "leave_one_out"}}


def timed(name: str, rule: str, T: int = 3) -> TokenModel:
    kernel, settings = TIMED[name]
    table = isinstance(kernel, Steps) or isinstance(settings.get("schedule"), survival.AlphaTable)
    grid = settings.get("grid") or (Full() if table else Even(T))
    return oracles.model(kernel, 2, 2, times=6, **{**settings, "grid": grid}, **RULES[rule])


def check_paths(name: str, rule: str = "mixture") -> None:
    """The terms, averaged over all z, are the bound over all paths, which is at least −log p(x)."""
    model = timed(name, rule)
    for x in ([0, 1], [1, 1]):
        bound, nll = oracles.by_paths(model, x)
        near(oracles.by_terms(model, x), bound)
        assert bound >= nll - 1e-12


# ------------------------------------------------------------ draws
def estimate(problem: Problem, estimator=None):
    return (estimator or Exhaustive(2)).estimate(problem, Runner(Run(), problem.dimensions))


def z_of(problem: Problem, expected: float, estimator=None) -> float:
    """The error of an estimate of the bound in its standard errors."""
    total = estimate(problem, estimator).total
    return (total.mean - expected) / math.sqrt(max(total.variance, 1e-300))


def many(x: list[int], n: int) -> torch.Tensor:
    return torch.tensor([x]).expand(n, -1).contiguous()


def chain_of(model: TokenModel, x: list[int], n: int, shared: bool = True, seed: int = 0):
    data = many(x, n)
    scored = torch.ones_like(data).bool()
    if not model.kernel.absorbing:
        return NoisedChain(model, data, scored, seed=seed)
    plain = MaskedChain(model, data, scored, seed=seed)
    if not (shared and plain.shareable):
        return plain
    return MaskedChain(model, data, scored, seed=seed, all_hidden=plain.ask_all_hidden())


def check_draws_of_counts(name: str) -> None:
    """The mean of draws is the mean over orders; with the last step exact, and drawn."""
    model = COUNTED[name]()
    expected = oracles.by_orders(model, X[0])
    for shared in (True, False):
        assert abs(z_of(chain_of(model, X[0], 3000, shared), expected)) < 4


def check_draws_of_times(name: str, rule: str = "mixture") -> None:
    model = timed(name, rule)
    assert abs(z_of(chain_of(model, [0, 1], 6000), oracles.by_paths(model, [0, 1])[0])) < 4


def check_controls(name: str = "every count") -> None:
    """The mean of the control is zero at every place of the chain, whatever is foretold: to 4.5 standard errors."""
    model = COUNTED[name]() if name in COUNTED else timed(name, "mixture", 4)
    symbols, L = model.domain.vocabulary, model.domain.length
    data = torch.randint(symbols, (40, L), generator=torch.Generator().manual_seed(2)).repeat_interleave(100, 0)
    scored = torch.rand(40, L, generator=torch.Generator().manual_seed(3)).lt(0.8)
    scored[:, 1] = True
    theta = torch.randn(2, 16, REGRESSORS, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for places in (torch.ones_like(data).bool(), scored.repeat_interleave(100, 0)):
        chain = MaskedChain(model, data, places)
        tables = chain.fit_controls(torch.arange(0, len(data), 100), Run().workers).tables
        values = control_values(chain, TokenControls(tables, PlaceFit(theta)))
        z = values.mean(1) / (values.std(1) / math.sqrt(values.shape[1])).clamp_min(1e-12)
        assert float(z.abs().max()) < 4.5, z
        assert float(values.abs().max()) > 1e-2  # it is not nothing


def control_values(chain: MaskedChain, controls: TokenControls) -> torch.Tensor:
    """Controls (places, N, 1) at a few places of the chain."""
    rows, found = torch.arange(chain.examples), []
    for cell in range(0, len(chain.cells), max(1, len(chain.cells) // 4)):
        cells = torch.full_like(rows, cell)
        draws = Draws(rows, cells + 1, torch.zeros_like(rows), cells, torch.full((len(rows),), 0.5))
        found.append(chain.columns(draws, controls, rows)[:, 1:])
    return torch.stack(found)


def check_place_fit() -> None:
    """A fit to costs that are what it can foretell foretells them; of few observations, about their mean. Coefficients
    are each pattern's own of 1, c_p, e^(−c_p), c_0 and c_15, and common to all of the costs between."""
    make = torch.Generator().manual_seed(1)
    nll = torch.rand(200, 12, 16, generator=make, dtype=torch.float64) * 3
    hidden = torch.rand(200, 12, generator=make) < 0.5
    share = torch.rand(200, generator=make, dtype=torch.float64)
    pattern = torch.randint(16, hidden.shape, generator=make)
    theta = torch.randn(2, 16, REGRESSORS, generator=make, dtype=torch.float64)
    theta[:, :, 4:18] = 0.3 * theta[:, :1, 4:18]
    here = nll.gather(-1, pattern[..., None])[..., 0]
    regressors = torch.cat([torch.stack([torch.ones_like(here), here, (-here).exp()], -1), nll], -1)
    of_place = theta[0][pattern] + share[:, None, None] * theta[1][pattern]
    costs = (of_place * regressors).sum(-1)
    weight = 1 + share
    observed = nll, pattern, hidden, share, costs, 1e4 * weight
    sums = [Sums.of(*(v[rows] for v in observed)) for rows in (slice(90), slice(90, 200))]
    found = PlaceFit.fit(sums).foretold(nll, share).gather(-1, pattern[..., None])[..., 0]
    assert float((found - costs)[hidden].abs().max()) < 0.05 * float(costs.std())
    # of weak observations nothing is made but their mean
    weak = PlaceFit.fit([Sums.of(nll, pattern, hidden, share, costs, 1e-6 * weight)])
    mean = (weight[:, None] * hidden * costs).sum() / (weight[:, None] * hidden).sum()
    assert float((weak.foretold(nll, share) - mean).abs().max()) < 0.01 * float(costs.std())


def check_neighbours() -> None:
    """The neighbours are those that tell a symbol: 1 and 2 in a chain, 1 and the width in rows of an image."""
    make = torch.Generator().manual_seed(1)
    start = torch.randint(3, (300, 1), generator=make)
    steps = torch.where(torch.rand(300, 30, generator=make) < 0.15, torch.randint(3, (300, 30), generator=make), 0)
    chain = (start + steps.cumsum(1)) % 3
    rows = torch.cat([chain[:, :5], chain[:, :5], chain[:, :5]], 1)
    noisy = torch.where(
        torch.rand(rows.shape, generator=make) < 0.1, torch.randint(3, rows.shape, generator=make), rows
    )
    for x, expected in ((chain, (-1, 1, -2, 2)), (noisy, (-5, 5, -1, 1))):
        everywhere = torch.ones_like(x).bool()
        assert NGrams.fit(x, everywhere, 3).offsets == expected
    assert NGrams.fit(chain[:, :2], torch.ones(300, 2).bool(), 3).offsets == (-1, 1, -2, 2)


def check_learning() -> None:
    """What the pilot teaches: the control and the features take most of the variance, and no draw's control is by a fit
    to its own sequence."""
    data = markov(16)
    x = data.sample(200, seed=1)
    chain = MaskedChain(data.model(), x, torch.ones_like(x).bool())
    runner = Runner(Run(), 1)
    learned = pilot.run(chain, runner, 24)
    rows = torch.arange(200).repeat(8)
    cells = torch.full_like(rows, 2)
    draws = Draws(rows, cells + 1, torch.arange(8).repeat_interleave(200), cells, torch.full((1600,), 0.5))
    columns = runner.columns(chain, draws, learned.controls)
    fitted = learned.diffusion.predict(cells, learned.features[rows])
    residual = columns[:, 0] - columns[:, 1] - fitted
    assert float(residual.var() / columns[:, 0].var()) < 0.35
    assert abs(float(columns[:, 1].mean())) < 4.5 * float(columns[:, 1].std()) / 40


def check_strands() -> None:
    """Draws of one sequence whose sets are pieces of permutations: the mean of all orders, errors that are as long as
    they should be, and shorter than without."""
    found, scored = {}, torch.ones(800, L, dtype=torch.bool)
    for strands in (True, False):
        chain = (MaskedChain if strands else Unstranded)(oracles.model(Absorbing(V), V, L), many(X[0], 800), scored)
        design = Adaptive(design="per_example", strata=6, controls=False, regression=False, allocation="uniform")
        rows = estimate(chain, design).per_example
        assert rows is not None
        mean, variance = float(rows.nats.mean()), float(rows.nats.var())
        assert abs(mean - oracles.by_orders(chain.model, X[0])) < 4 * math.sqrt(variance / 800)
        assert 0.78 < float(rows.standard_error.square().mean()) / variance < 1.28
        found[strands] = variance
    assert found[True] < 0.8 * found[False]


class Unstranded(MaskedChain):
    """Every draw by itself."""

    strands = False


RAGGED = {
    "every count": {},
    "every count, no carry-over": {"carry_over": False},
    "two steps": {"grid": Even(2), "carry_over": False},
}


def check_ragged(name: str) -> None:
    """Sequences with places that are given: each has the mean cost over the orders of its scored places."""
    model = oracles.model(Absorbing(V), V, L, **RAGGED[name])
    scored = [[0, 1, 3], [2, 3]]
    for x, places in zip(X, scored, strict=True):
        data = many(x, 700)
        other = many(X[0], 700)
        flags = torch.zeros(2, L, dtype=torch.bool)
        flags[0, places], flags[1] = True, True
        chain = MaskedChain(model, torch.cat([data, other]), flags.repeat_interleave(700, 0))
        assert chain.ragged and chain.cells.continuous == name.startswith("every")
        rows = estimate(chain, Stratified(16, 2) if chain.cells.continuous else Exhaustive(2)).per_example
        assert rows is not None
        nats, errors = rows.nats[:700], rows.standard_error[:700]
        expected = oracles.by_orders(model, x, places)
        assert abs(float(nats.mean()) - expected) < 4 * float(errors.square().mean().sqrt()) / math.sqrt(700)


def check_continuous_masks() -> None:
    """The continuous bound of a network that is told the time but does not listen is that of the counts, from any
    schedule; nothing near t = 0 is dropped."""
    data = oracles.joint(V, L)
    exact = data.model()
    for schedule in (survival.Linear(), survival.Cosine()):
        net = data.denoiser(Absorbing(V))

        def told(z, t, net=net):
            return net(z, z == V, None)

        model = TokenModel(exact.domain, Absorbing(V), NetworkTokenDenoiser(told, V, "unit"), schedule, Continuous())
        chain = chain_of(model, X[0], 500)
        assert chain.first_cost == 0
        total = estimate(chain, Stratified(8, 2)).total
        assert abs(total.mean + float(data.log_prob(torch.tensor(X[:1])))) < 4 * math.sqrt(total.variance) + 1e-9


def check_first_level() -> None:
    """Independent places, noise at both ends of the chain: what is hidden at the first level is decoded, what becomes
    hidden after it is the diffusion term, and what never does is the prior's."""
    data = ProductTokens(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.3, 0.3, 0.4]]))
    exact, schedule = data.denoiser(Absorbing(3)), survival.Geometric(0.2, 1.5)
    net = NetworkTokenDenoiser(lambda z, t: exact(z, z == 3, None), 3, "unit")
    model = TokenModel(data.domain, Absorbing(3), net, schedule, Continuous(), prior=MatchedMask())
    x = [0, 2, 1]
    first, last = (-math.expm1(-sigma) for sigma in (0.2, 1.5))
    found, nll = estimate(chain_of(model, x, 600), Stratified(8, 4)), -float(data.log_prob(torch.tensor([x])))
    near(found.prior.mean, 3 * (1 - last) * math.log(3))
    for term, share in ((found.reconstruction, first), (found.diffusion, last - first)):
        assert abs(term.mean - share * nll) < 4 * math.sqrt(term.variance)


def check_continuous_limit(name: str, rule: str) -> None:
    """Finite chains on ever finer grids approach the continuous bound, with an error that halves."""
    kernel, settings = TIMED[name]
    data = oracles.joint(2, 2, seed=4)
    schedule = settings["schedule"]

    def bound(grid) -> TokenModel:
        return data.model(kernel, schedule=schedule, grid=grid, reverse=rule)

    x = [0, 1]
    errors = []
    first = 0.25
    chain = chain_of(bound(Continuous(first, 1.0)), x, 700)
    total = estimate(chain, Stratified(16, 2)).total
    for K in (8, 16, 32):
        # an even grid of 4K/3 steps from t = 0 holds the level t_first; those before it are left out of this sum
        grid = [first + (1 - first) * k / K for k in range(K + 1)]
        errors.append(finite_bound(bound(Even(4)), schedule, grid, x) - total.mean)
    tolerance = 5 * math.sqrt(total.variance)
    limit = 2 * errors[2] - errors[1]
    assert abs(limit) < tolerance + 0.02 * abs(errors[2]), (errors, tolerance)
    assert 1.6 < (errors[0] - errors[1]) / (errors[1] - errors[2]) < 2.4


def finite_bound(model: TokenModel, schedule, times: list[float], x: list[int]) -> float:
    """The library's terms of the chain at `times`, averaged over every z."""
    from nelbo.bound.tokens import terms
    from nelbo.process.tokens.levels import TokenLevels

    levels, size = schedule.at(torch.tensor(times, dtype=torch.float64)), model.domain.vocabulary
    every = torch.tensor(oracles.states(size, len(x)))
    rows, data = len(every), torch.tensor([x]).expand(len(every), -1)
    everywhere = torch.ones_like(data).bool()
    last = levels[-1:][torch.zeros(1).long()]
    prior = model.prior.divergence(data[:1], last, model.kernel, size)
    total = float(prior.sum())
    for k in range(len(times)):
        t = levels[k : k + 1][torch.zeros(rows).long()]
        s = levels[k - 1 : k][torch.zeros(rows).long()] if k else TokenLevels.clean(rows)
        q = model.kernel.likelihood(every, t, size).gather(-1, data[..., None])[..., 0].prod(1)
        log_p = model.predict(every, torch.zeros_like(every).bool(), t)
        total += float((q * terms.step(model, model.kernel, log_p, data, every, s, t, everywhere)).sum())
    return total
