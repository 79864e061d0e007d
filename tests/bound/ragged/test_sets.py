"""Examples of different size: exact Gaussians, padding of any length, sets, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import nelbo
from nelbo.bound.difference import Comparison
from nelbo.bound.estimators import Exhaustive, Stratified
from nelbo.bound.evaluate import evaluate
from nelbo.errors import NelboError
from nelbo.model.examples import Examples
from nelbo.workers import Run
from tests.bound.latent import linear

MOST = 6
SIZES = [3, 6, 1, 4, 2, 5]
V = linear.PRIOR


def exact(z, logsnr):
    """E[x | z] of independent elements N(0, V_f), of points (B, n, 2) or (B, 2n)."""
    v = V if z.ndim == 3 else V.repeat(z.shape[1] // 2)
    alpha2 = torch.sigmoid(logsnr.double()).reshape(-1, *(1,) * (z.ndim - 1))
    return alpha2.sqrt() * v / (alpha2 * v + 1 - alpha2) * z


def points(z, logsnr):
    return exact(z, logsnr)


def pooled(z, logsnr, mask):
    """Equivariant to the order of points: a little of their mean."""
    there = mask[..., None].to(z)
    mean = (z * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)
    return exact(z, logsnr) + 0.1 * mean


def careless(z, logsnr):
    return exact(z, logsnr) + 0.1 * z.mean(1, keepdim=True)


def model(fn=points, shape=(MOST, 2), grid=None, **settings):
    settings = {"decoder": "continuous_gaussian", **settings}
    return nelbo.from_callable(
        fn, schedule=linear.LAW, domain=nelbo.DataDomain(shape), predicts="x0", time="logsnr",
        grid=grid or nelbo.grids.even(5), **settings,
    )  # fmt: skip


def examples(sizes=SIZES):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 2, generator=generator, dtype=torch.float64) * V.sqrt() for n in sizes]


def padded(sets, length, content):
    mask = torch.zeros(len(sets), length, dtype=torch.bool)
    whole = torch.full((len(sets), length, 2), content, dtype=torch.float64)
    for i, x in enumerate(sets):
        whole[i, : len(x)], mask[i, : len(x)] = x, True
    return whole, mask


def nats(model, data, mask=None, **options):
    options = {"estimator": Exhaustive(4), "precision": "float64", **options}
    return nelbo.evaluate(model, data, mask=mask, per_example=True, progress=False, **options)


pytestmark = pytest.mark.filterwarnings("ignore:the chain does not end at its prior")


def test_gaussians_of_every_length():
    """Every example's bound is the sum of its points' closed forms; bits/dim are all nats over all elements."""
    sets = examples()
    bound = nats(model(), sets, estimator=Exhaustive(64))
    Q, _, c = linear.chain(linear.prior())
    expected = torch.tensor([np.einsum("ni,ij,nj->", x.numpy(), Q, x.numpy()) + len(x) * c for x in sets])
    rows = bound.per_example
    assert float(((rows.nats - expected) / rows.standard_error).abs().max()) < 4
    assert rows.dimensions.tolist() == [2 * n for n in SIZES] and bound.data["sizes"]["total"] == 2 * sum(SIZES)
    total = float(rows.nats.sum()) / (2 * sum(SIZES)) / math.log(2)
    assert bound.bits_per_dim == pytest.approx(total, abs=1e-12)
    assert sum(t.bits_per_dim for t in vars(bound.terms).values()) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("grid", [None, nelbo.grids.continuous()], ids=["finite", "continuous"])
@pytest.mark.parametrize("fn", [points, pooled])
def test_padding_longer_changes_no_bit(fn, grid):
    """A list, padding to the longest, by one more, and by a hundred, with zeros, rubbish or NaN in it."""
    sets, how = examples(), {"estimator": Exhaustive(4) if grid is None else Stratified(4, 4)}
    of = model(fn, grid=grid)
    first = nats(of, sets, **how).per_example
    for length, content in ((MOST, 0.0), (MOST + 1, 1e3), (MOST + 100, math.nan)):
        rows = nats(of, *padded(sets, length, content), **how).per_example
        assert all(torch.equal(values, getattr(first, name)) for name, values in vars(rows).items())


def test_a_whole_example_is_as_without_a_mask():
    """The same noise by position, so that a full example and one alone in a smaller domain have the same terms."""
    sets = examples()
    rows = nats(model(), sets).per_example
    alone = nats(model(shape=(6, 2)), torch.stack([sets[1]] * 2)).per_example
    assert float(alone.nats[1]) == pytest.approx(float(rows.nats[1]), rel=1e-12)


def test_an_adaptive_estimate_has_the_exact_mean():
    """Controls and features of examples of different size leave the mean where the closed form has it."""
    sets = examples([1 + i % MOST for i in range(300)])
    whole, mask = padded(sets, MOST, 0.0)
    grid = nelbo.grids.even(200)
    bound = evaluate(model(grid=grid), Examples(whole, mask=mask), Run(precision="float64"), tolerance=0.05)
    assert bound.estimator["name"] == "adaptive" and bound.data["sizes"]["smallest"] == 2
    Q, _, c = linear.chain(linear.prior(grid))
    exact = sum(float(np.einsum("ni,ij,nj->", x.numpy(), Q, x.numpy())) + len(x) * c for x in sets)
    bits = exact / (2 * sum(len(x) for x in sets)) / math.log(2)
    assert abs(bound.bits_per_dim - bits) < 4 * bound.standard_error.estimator < 0.3
    assert bound.standard_error.data > 0


def test_codes_and_masks_of_images():
    """A discretised decoder; the part of an image that is there, without a mask argument of the network."""
    of = nelbo.from_callable(
        lambda z, t: 0.5 * z, schedule=linear.LAW, domain=nelbo.DataDomain((1, 4, 4), bins=4), predicts="x0",
        time="logsnr", decoder="categorical", grid=nelbo.grids.even(4),
    )  # fmt: skip
    x = torch.arange(32).reshape(2, 1, 4, 4) % 4
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    with pytest.warns(UserWarning, match="worse than none"):
        whole = nelbo.evaluate(of, x, estimator=Exhaustive(2), per_example=True, progress=False)
    same = nelbo.evaluate(of, x, mask=mask, estimator=Exhaustive(2), per_example=True, progress=False)
    assert torch.allclose(whole.per_example.nats, same.per_example.nats, rtol=1e-10)
    left, right = mask.clone(), mask.clone()
    left[..., 2:], right[..., :2] = False, False
    halves = [
        nelbo.evaluate(of, x, mask=m, estimator=Exhaustive(2), per_example=True, progress=False) for m in (left, right)
    ]
    assert torch.allclose(sum(h.per_example.nats for h in halves), same.per_example.nats, rtol=1e-9)


@pytest.mark.parametrize(
    "how",
    [{}, *(pytest.param(how, marks=pytest.mark.slow) for how in ({"probes": 3}, {"dequantisation": "variational"}))],
)
def test_the_flow_of_every_length(how):
    """Exact Gaussians: the flow scales every number by √(v_L/v_1), and what is there alone counts."""
    sets, how = examples(), {"dequantisation": "none", "steps": 32, "precision": "float64", **how}
    of = model(grid=nelbo.grids.even(8))
    ode = nelbo.ode_likelihood(of, sets, per_example=True, progress=False, **how)
    again = nelbo.ode_likelihood(of, *padded(sets, MOST + 3, 1e3)[:1], mask=padded(sets, MOST + 3, 0.0)[1],
                                 per_example=True, progress=False, **how)  # fmt: skip
    assert torch.equal(ode.per_example.nats, again.per_example.nats)
    assert ode.per_example.dimensions.tolist() == [2 * n for n in SIZES] and ode.data == again.data | {
        "name": "the list"
    }
    total = float(ode.per_example.nats.sum()) / (2 * sum(SIZES)) / math.log(2)
    assert ode.bits_per_dim == pytest.approx(total, abs=1e-12)
    first, last = torch.sigmoid(of.levels().logsnr[[0, -1]])  # α²
    start, end = (a * V + 1 - a for a in (first, last))
    exact = [0.5 * (first * x**2 / start * end + math.log(2 * math.pi) - (end / start).log() - first.log()).sum()
             for x in sets]  # fmt: skip
    if how["dequantisation"] == "none":
        assert torch.allclose(ode.per_example.nats, torch.stack(exact), atol=2e-4)
    else:
        assert abs(ode.bits_per_dim - sum(exact) / (2 * sum(SIZES)) / math.log(2)) < 4 * ode.standard_error.estimator


def test_a_comparison_of_sets():
    """Two exact chains of other lengths: the difference of their closed forms, over all numbers."""
    sets, grids = examples([1 + i % MOST for i in range(24)]), (nelbo.grids.even(5), nelbo.grids.even(20))
    compared = nelbo.compare(*(model(grid=grid) for grid in grids), sets, tolerance=0.1, progress=False)
    forms = [linear.chain(linear.prior(grid)) for grid in grids]
    nats = [sum(np.einsum("ni,ij,nj->", x.numpy(), Q, x.numpy()) + len(x) * c for x in sets) for Q, _, c in forms]
    numbers = 2 * sum(len(x) for x in sets)
    exact = (nats[0] - nats[1]) / numbers / math.log(2)
    assert abs(compared.difference - exact) < 4 * compared.standard_error.estimator < 0.5
    assert compared.sizes.tolist() == [2 * len(x) for x in sets] == compared.to_dict()["dimensions_per_example"]
    assert compared.difference == pytest.approx(float(compared.per_example.sum()) / numbers / math.log(2))
    assert compared.a - compared.b == pytest.approx(compared.difference)
    again = Comparison.from_dict(compared.to_dict())
    assert torch.equal(again.sizes, compared.sizes) and again.data["sizes"]["total"] == numbers


def test_a_comparison_of_sets_at_common_noise():
    """Two networks, of which one takes the mask: the difference of bounds at every level, within all errors."""
    sets, pair = examples([1 + i % MOST for i in range(24)]), (model(), model(pooled))
    compared = nelbo.compare(*pair, sets, tolerance=0.05, any_cost=True)
    whole = [nelbo.evaluate(one, sets, estimator=Exhaustive(8)) for one in pair]
    apart = whole[0].bits_per_dim - whole[1].bits_per_dim
    error = math.hypot(compared.standard_error.estimator, *(b.standard_error.estimator for b in whole))
    assert compared.common_noise and abs(compared.difference - apart) < 4 * error and apart != 0
    for value, error, bound in zip(
        (compared.a, compared.b), (compared.standard_error_a, compared.standard_error_b), whole, strict=True
    ):
        assert abs(value - bound.bits_per_dim) < 4 * math.hypot(error, bound.standard_error.estimator)
    numbers = 2 * sum(len(x) for x in sets)
    assert compared.difference == pytest.approx(float(compared.per_example.sum()) / numbers / math.log(2))
    assert compared.a - compared.b == pytest.approx(compared.difference)


def test_results_of_sets_are_compared_by_their_numbers():
    """Σ difference/Σ D of two results, and the sampling error of that ratio."""
    sets = examples([1 + i % MOST for i in range(12)])
    a, b = (nats(model(grid=nelbo.grids.even(steps)), sets) for steps in (5, 10))
    compared = nelbo.compare(a, b)
    assert compared.difference == pytest.approx(a.bits_per_dim - b.bits_per_dim, abs=1e-12)
    sizes, rows = a.per_example.dimensions, a.per_example.nats - b.per_example.nats
    around = rows - rows.sum() / sizes.sum() * sizes
    expected = float((around.var() / 12).sqrt()) / float(sizes.double().mean()) / math.log(2)
    assert expected < compared.standard_error.total < 1.3 * expected  # of twelve differences


def shifted(z, logsnr, theta):
    """E[x | z] of points N(θ, V)."""
    shift = torch.sigmoid(logsnr.double()).sqrt()[:, None, None] * theta.double()[:, None, None]
    return exact(z - shift, logsnr) + theta.double()[:, None, None]


def test_conditions_and_a_parameter_of_sets():
    """Points N(θ, V): which θ, by every example; the likelihood of θ and its score by all of them; the ratio of two
    models. Padding changes no bit."""
    sets = [x + 0.4 for x in examples([1 + i % MOST for i in range(18)])]
    of, law = model(shifted, grid=nelbo.grids.continuous()), {"precision": "float64", "progress": False}
    whole, mask = padded(sets, MOST + 2, 7.0)
    information = float((1 / V).sum()) * sum(len(x) for x in sets)
    best = float(torch.stack([(x / V).sum() for x in sets]).sum()) / information
    found = nelbo.contrast(of, sets, "theta", [0.4, -0.6], confidence=None, tolerance=0.2, **law)
    again = nelbo.contrast(of, whole, "theta", [0.4, -0.6], confidence=None, tolerance=0.2, mask=mask, **law)
    assert torch.equal(found.difference, again.difference) and found.data["sizes"]["largest"] == 2 * MOST
    log_p = torch.stack([-0.5 * torch.stack([((x - t) ** 2 / V).sum() for t in (0.4, -0.6)]) for x in sets])
    other = 1 - found.best
    ratio = log_p.gather(1, found.best[:, None]) - log_p.gather(1, other[:, None])
    errors = found.standard_error.gather(1, other[:, None])
    assert bool(((found.difference.gather(1, other[:, None]) - ratio).abs() < 4 * errors + 0.02).all())
    profile = nelbo.likelihood_profile(of, sets, "theta", torch.linspace(best - 0.2, best + 0.2, 5), **law)
    assert abs(profile.maximum - best) < 4 * profile.monte_carlo_error + 0.01
    assert profile.information == pytest.approx(information, rel=0.1)
    score = nelbo.score(of, whole, "theta", best, mask=mask, **law)
    assert abs(float(score.value)) < 4 * float(score.standard_error) + 0.01 * information


def test_a_ratio_of_models_of_sets():
    sets = examples()
    models = [model(fn, grid=nelbo.grids.even(6)) for fn in (points, pooled)]
    ratio = nelbo.log_ratio(*models, sets, tolerance=0.5, precision="float64", progress=False)
    bounds = [nats(m, sets, estimator=Exhaustive(128)).per_example for m in models]
    errors = (ratio.standard_error**2 + sum(b.standard_error**2 for b in bounds)).sqrt()
    assert float(((ratio.value - bounds[1].nats + bounds[0].nats) / errors).abs().max()) < 4


def test_what_is_refused():
    sets = examples()
    whole, mask = padded(sets, MOST, 0.0)
    table = nelbo.decoders.Categorical(torch.zeros(MOST, 2, 3))
    coded = nelbo.from_callable(
        points, schedule=linear.LAW, domain=nelbo.DataDomain((MOST, 2), bins=3), predicts="x0", time="logsnr",
        decoder=table, grid=nelbo.grids.even(3),
    )  # fmt: skip
    for of, data, there, match in (
        (model(careless), whole, mask, "depends on what the padding holds"),
        (model(shape=(4, 2)), sets, None, r"6 positions, and the domain has 4"),
        (model(), whole, mask.float(), "mask of float32"),
        (model(), whole, mask[:, :3], "mask of shape"),
        (model(), whole, torch.zeros_like(mask), "example 0 has nothing"),
        (model(), whole[..., :1], mask, "scores examples of shape"),
        (coded, whole.long(), mask, "the decoder 'categorical' for examples of different size"),
        (model(), [*sets, torch.zeros(2, 3)], None, "only the first axis|arrays of shapes"),
        (linear.model(), linear.X, torch.ones(3, 4, dtype=torch.bool), "a mask with a latent model"),
    ):
        with pytest.raises(NelboError, match=match):
            nelbo.evaluate(of, data, mask=there, progress=False, estimator=Exhaustive(2))


@pytest.mark.parametrize(
    ("verb", "reason"),
    [
        (lambda: nelbo.tighten(model(), examples(), 2), "errors of whole examples"),
        (lambda: nelbo.codec.compress(coded(), [x.round().long() for x in examples()], "x.nelbo"), "and no sizes"),
        (lambda: nelbo.diagnose(model(), examples(), progress=False), "looked at by whole examples"),
        (lambda: nelbo.Monitor(model(), examples()), "planned times of whole examples"),
        (lambda: nelbo.RatioEstimator(model(), model(), examples()), "terms are of whole examples"),
        (lambda: nelbo.contrast(linear.model(), examples(), "y", [0, 1]), "of whole images"),
    ],
)
def test_what_needs_whole_examples_says_why(verb, reason):
    with pytest.raises(NelboError, match=reason):
        verb()


def coded():
    return nelbo.from_callable(
        points, schedule=linear.LAW, domain=nelbo.DataDomain((MOST, 2), bins=3), predicts="x0", time="logsnr",
        decoder="categorical", grid=nelbo.grids.even(3),
    )  # fmt: skip
