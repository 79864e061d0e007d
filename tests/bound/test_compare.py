"""`compare`: exact where the answer is exact, paired error bars that are right, and common noise that pays."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

import nelbo
from nelbo import compare
from nelbo.bound.compare import compare as two_models
from nelbo.bound.difference import Comparison
from nelbo.bound.planned import error_bars, regression
from nelbo.bound.planned.sign import Sign
from nelbo.bound.prepare import prepare
from nelbo.bound.problem import Cells
from nelbo.errors import UsageError
from nelbo.model.reverse import Beta, Reverse
from nelbo.process.prediction import Prediction
from nelbo.workers import Run
from tests.bound.shrunk import Shrunk, sum_over_steps
from tests.bound.workers import on_two

SPECTRUM = torch.tensor([0.6, 0.4, 0.2, 0.1], dtype=torch.float64)
DATA = nelbo.exact.GaussianData(torch.zeros(4), torch.diag(SPECTRUM))
X = DATA.sample(60)
SCHEDULE = nelbo.schedules.linear(60, 1e-3, 0.2)
EXACT = DATA.model(SCHEDULE, nelbo.grids.full(), exact_ends=False)


def worse(factor: float = 0.9):
    return dataclasses.replace(EXACT, denoiser=Shrunk(DATA, factor))


class OneWorse(Shrunk):
    """The exact denoiser with the first two coordinates times factors of their own."""

    def __init__(self, data, factors):
        super().__init__(data, 1.0)
        self.factors = torch.cat([factors, torch.ones(2).double()])

    def forward(self, z, t, condition=None):
        return Prediction(self.factors * self.exact(z, t).x0)


def exact(model_factor: float, x=X) -> np.ndarray:
    """Diffusion term of every example in bits/dim, (N,)."""
    return sum_over_steps(np.linspace(1e-3, 0.2, 60), x, SPECTRUM, model_factor) / 4 / math.log(2)


@pytest.mark.parametrize("per_example", [False, True])
def test_a_model_against_itself_is_exactly_zero(per_example):
    c = compare(EXACT, EXACT, X, tolerance=0.001, per_example=per_example)
    assert c.difference == 0 and c.standard_error.estimator == 0 and c.common_noise
    assert "no difference" in str(c) and c.a == c.b and c.standard_error_a == c.standard_error_b > 0
    assert c.nfe_total < 2000  # the least of either design: nothing is drawn for a tolerance that is reached


def test_few_examples_do_not_show_the_error_of_the_data():
    c = compare(EXACT, worse(), X[:4], tolerance=0.5)
    found = c.to_dict()["standard_error"]
    assert found["data"] is None and found["total"] is None and found["estimator"] > 0
    assert "± data not measurable" in str(c) and "standard errors of the estimator" in str(c)


def rest(x=X) -> float:
    """The terms that both models share, in bits/dim: ½‖ε‖² and a constant at the first level, and the exact prior."""
    first = float(EXACT.levels().logsnr[0])
    prior = float(prepare(EXACT, x).chain.priors().mean())
    return (0.5 * 4 * (1 + math.log(2 * math.pi) - first) + prior) / 4 / math.log(2)


@pytest.mark.parametrize("options", [{"per_example": True}, {}], ids=["every example", "random examples"])
def test_difference_bounds_and_their_error_bars_are_right(options):
    x, tolerance = (X, 0.06) if options else (DATA.sample(400, seed=3), 0.1)
    right, wrong = (float(exact(factor, x).mean()) for factor in (1.0, 0.9))
    runs = [compare(EXACT, worse(), x, tolerance=tolerance, seed=s, **options) for s in range(8)]
    assert {c.per_example is None for c in runs} == {not options}
    of = {
        "difference": (right - wrong, lambda c: (c.difference, c.standard_error.estimator)),
        "a": (right + rest(x), lambda c: (c.a, c.standard_error_a)),
        "b": (wrong + rest(x), lambda c: (c.b, c.standard_error_b)),
    }
    for what, (truth, read) in of.items():
        values, errors = (np.array(v) for v in zip(*map(read, runs), strict=True))
        assert abs(values.mean() - truth) < 4 * errors.mean() / math.sqrt(8), what
        assert 0.25 < ((values - truth) / errors).std() < 2.0, what  # a chi of 8 degrees: with probability 0.9998
    assert all(c.a - c.b == pytest.approx(c.difference) and c.standard_error.estimator <= tolerance for c in runs)
    # power: with the sign of one model's noise lost the same test would miss by the size of the loss itself
    assert abs(right - wrong) > 4 * tolerance / math.sqrt(8)


def test_what_is_asked_of_examples_is_there():
    coarse, fine = (compare(EXACT, worse(), DATA.sample(300), tolerance=0.2, per_example=p) for p in (False, True))
    assert coarse.per_example is None and coarse.to_dict()["nats_per_example"] is None
    for ask in (coarse.plot, coarse.to_frame):
        with pytest.raises(UsageError, match="no values of single examples") as caught:
            ask()
        assert "per_example=True" in caught.value.hint
    assert fine.difference == pytest.approx(float(fine.per_example.mean()) / 4 / math.log(2), rel=1e-9)
    for c in (coarse, fine):
        assert Comparison.from_dict(json.loads(json.dumps(c.to_dict()))).to_dict() == c.to_dict()
        assert str(c).count(" ± ") == 4  # of the difference, which has two, and of both models
    assert coarse.nfe_total < fine.nfe_total


def test_common_noise_saves_evaluations():
    """To tell two alike models apart by as much takes less than half of what two bounds do."""
    x = DATA.sample(300)
    paired = compare(EXACT, worse(0.98), x, tolerance=0.02)
    alone = [nelbo.evaluate(m, x, tolerance=0.02 / math.sqrt(2)) for m in (EXACT, worse(0.98))]
    assert 2 * paired.nfe_total < sum(bound.nfe_total for bound in alone)


SHORT = nelbo.schedules.linear(4, 0.01, 0.5)


def short(factor: float = 1.0):
    return dataclasses.replace(DATA.model(SHORT, nelbo.grids.full(), exact_ends=False), denoiser=Shrunk(DATA, factor))


@pytest.mark.parametrize("N", [1, 5])
def test_short_chains_of_few_examples(N):
    """They are drawn at every level until the error is short; the tolerance is kept, and known to be kept."""
    c = compare(short(0.9), short(), X[:N], tolerance=0.05)
    wrong, right = (sum_over_steps(np.linspace(0.01, 0.5, 4), X[:N], SPECTRUM, f).mean() for f in (0.9, 1.0))
    assert abs(c.difference - (wrong - right) / 4 / math.log(2)) < 4 * c.standard_error.estimator < 0.2
    assert c.standard_error.estimator <= 0.05 and c.per_example is not None and not c.warnings
    assert c.a - c.b == pytest.approx(c.difference) and min(c.standard_error_a, c.standard_error_b) > 0


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of the run that is killed
@pytest.mark.parametrize("models", [(EXACT, worse()), (short(), short(0.9))], ids=["planned", "short"])
def test_workers_a_kill_and_an_interrupt(models, tmp_path):
    def of(run, **options):
        return two_models(*models, X, run, tolerance=0.1, any_cost=True, **options)

    whole = of(Run(batch_size=50))
    numbers = whole.difference, whole.standard_error.estimator, whole.a, whole.standard_error_a
    for c in on_two(lambda w: of(Run(workers=w, batch_size=50)))[0]:
        assert (c.difference, c.standard_error.estimator, c.a, c.standard_error_a) == pytest.approx(numbers, 1e-6)
        assert c.nfe_total == whole.nfe_total

    def ended(how):
        def progress(done, planned):
            if done > 0.7 * whole.nfe_total:
                raise how

        return progress

    state = tmp_path / "state"
    with pytest.raises(ZeroDivisionError):
        of(Run(batch_size=50, state=state, progress=ended(ZeroDivisionError)))
    again = []
    c = of(Run(batch_size=50, state=state, progress=lambda done, planned: again.append(done)))
    assert (c.difference, c.standard_error.estimator, c.a, c.standard_error_a) == numbers and again[0] > 50
    with pytest.warns(UserWarning, match="interrupted"):
        c = of(Run(batch_size=50, progress=ended(KeyboardInterrupt)))
    assert c.interrupted and c.to_dict()["interrupted"] and c.nfe_total < whole.nfe_total
    assert all(math.isfinite(v) for v in (c.difference, c.a, c.standard_error_a, c.standard_error_b))
    assert abs(c.difference - whole.difference) < 5 * c.standard_error.estimator


def test_terms_of_either_sign_are_fitted_with_their_sign():
    """A difference that is positive on one half of the chain and negative on the other, with little noise: the pilot's
    fit foretells it at every cell."""
    scale, at = np.ones(9), np.linspace(0, 8, 9)
    truth = 2.0 - at / 2  # crosses 0 in the middle
    rng = np.random.default_rng(0)
    columns = np.stack([truth + 0.01 * rng.normal(size=(24, 9)), rng.normal(size=(24, 9))], 2)
    place = torch.linspace(0, 8, 33, dtype=torch.float64)
    cells = Cells(place, place, place, torch.ones(33, dtype=torch.float64))
    node = regression.at_nodes(columns, scale, np.zeros((24, 0)), np.ones((9, 0)), 1, measure=np.full((24, 9), 5.0))
    fit = regression.spread_over_cells(node, torch.arange(0, 33, 4), cells, np.ones((33, 0)))
    assert torch.allclose(fit.mean, 2 - place / 2, atol=0.02) and torch.allclose(fit.size, torch.full_like(place, 5.0))


def test_it_ends_when_the_sign_is_known():
    options = {"tolerance": 0.01, "confidence": 0.99, "any_cost": True}
    found, whole = compare(EXACT, worse(), X, **options), compare(EXACT, worse(), X, tolerance=0.02)
    assert found.decided and found.difference < 0 and found.nfe_total < whole.nfe_total
    assert found.to_dict()["decided"] and "known at 0.99" in str(found) and not found.warnings
    other = dataclasses.replace(worse(0.8), schedule=nelbo.schedules.linear(30))  # whose draws have nothing in common
    apart = compare(EXACT, other, X, **options)
    assert apart.decided and not apart.common_noise and apart.nfe_total < whole.nfe_total
    same = compare(EXACT, EXACT, X, **options)
    assert same.decided is False and "not known at 0.99" in str(same)
    with pytest.raises(UsageError, match="confidence=2"):
        compare(EXACT, EXACT, X, confidence=2)


@pytest.mark.slow
def test_the_level_of_a_known_sign():
    """Of 2,000 values that are 0, with heavy tails, and as many draws again at every stage."""
    runs = 2000
    draws = torch.distributions.StudentT(torch.tensor(4.0).double())
    with torch.random.fork_rng():
        torch.manual_seed(3)
        drawn = draws.sample((runs, 3, 64))
    wrong = naive = 0
    for run in drawn:
        sign, ended, plain = Sign(0.95), False, False
        for n in (4, 8, 16, 32, 64):
            values = run[:, :n]
            errors = (values[:, 0::2] - values[:, 1::2]) / n
            difference, error = float(values.mean()), float(errors.square().sum().sqrt()) / 3
            variance, freedom = error_bars.of_squares(errors.square().flatten() / 9)
            ended = ended or (sign.look(difference, variance, freedom, n, last=n == 64) and difference > 0)
            plain = plain or difference > 1.645 * error
        wrong, naive = wrong + ended, naive + plain
    most = 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert wrong / runs < most < 1.5 * most < naive / runs


@pytest.mark.filterwarnings("ignore:the chain does not end at its prior")
def test_a_chain_of_one_level():
    """It has no cells: its bound is the prior's and the first level's term, and both are compared with themselves and
    with a chain that has some."""
    one = short().with_grid(nelbo.grids.subset([3]))
    bound, c, other = nelbo.evaluate(one, X), compare(one, one, X), compare(short(), one, X, tolerance=0.2)
    assert one.steps == 0 and bound.terms.diffusion.bits_per_dim == 0 and c.difference == 0 < c.standard_error_a
    assert abs(c.a - bound.bits_per_dim) < 5 * bound.standard_error.estimator
    whole = nelbo.evaluate(short(), X, tolerance=0.1, any_cost=True).bits_per_dim - bound.bits_per_dim
    assert abs(other.difference - whole) < 5 * 0.25 and not other.common_noise


@pytest.mark.slow
@pytest.mark.parametrize(
    ("models", "x", "tolerance"),
    [((short(0.9), short()), X[:1], 0.05), ((EXACT, worse()), DATA.sample(300, seed=3), 0.3)],
    ids=["one example of a short chain", "random examples"],
)
def test_coverage(models, x, tolerance):
    """300 comparisons: the exact difference lies within 1.96 standard errors in 95 % of them, but for what so many
    leave to chance with probability 0.001, and would not with error bars that are 30 % too short."""
    betas = np.linspace(0.01, 0.5, 4) if len(x) == 1 else np.linspace(1e-3, 0.2, 60)
    factors = (0.9, 1.0) if len(x) == 1 else (1.0, 0.9)
    first, second = (sum_over_steps(betas, x, SPECTRUM, f).mean() / 4 / math.log(2) for f in factors)
    runs = [compare(*models, x, tolerance=tolerance, any_cost=True, seed=s) for s in range(300)]
    z = np.array([(c.difference - (first - second)) / c.standard_error.estimator for c in runs])
    least = 0.95 - 3.1 * math.sqrt(0.95 * 0.05 / 300)
    assert (abs(z) < 1.96).mean() > least > (abs(z) < 0.7 * 1.96).mean()


@pytest.mark.slow
def test_the_level_where_models_are_as_good():
    """Each is worse in one of two coordinates, and the examples are as they are with these exchanged: the difference is
    0, and is called positive or negative in no more than 5 % of 150 comparisons at 95 %."""
    x = DATA.sample(40, seed=5)
    x = torch.cat([x, x[:, [1, 0, 2, 3]]])
    even = nelbo.exact.GaussianData(torch.zeros(4), torch.diag(torch.tensor([0.5, 0.5, 0.2, 0.1]).double()))
    base = even.model(SCHEDULE, nelbo.grids.full(), exact_ends=False)
    a, b = (
        dataclasses.replace(base, denoiser=OneWorse(even, torch.tensor(f).double())) for f in ([0.9, 1.0], [1.0, 0.9])
    )
    runs = [compare(a, b, x, tolerance=0.08, confidence=0.95, any_cost=True, seed=s) for s in range(150)]
    assert sum(c.decided for c in runs) / 150 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)
    assert sum(c.nfe_total for c in runs) / 150 > 1500  # several looks each


def test_other_chains_are_compared_with_independent_noise():
    c = compare(EXACT, DATA.model(nelbo.schedules.linear(30), nelbo.grids.full(), exact_ends=False), X, tolerance=0.2)
    assert not c.common_noise and c.standard_error.estimator <= 0.2


def test_other_variance_shares_the_chain():
    c = compare(EXACT, dataclasses.replace(EXACT, reverse=Reverse(Beta())), X, tolerance=0.05)
    assert c.common_noise
    json.dumps(c.to_dict(), allow_nan=False)
    assert c.to_dict()["difference"] == pytest.approx(c.a - c.b)


def test_unlike_domains_are_refused():
    other = nelbo.exact.GaussianData(torch.zeros(3), torch.eye(3)).model(SCHEDULE, nelbo.grids.full(), exact_ends=False)
    with pytest.raises(UsageError, match="unlike data"):
        compare(EXACT, other, X)
