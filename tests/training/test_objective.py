"""The training loss is an unbiased draw of the bound, sweeps the chain, and has the right gradient."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

import nelbo
from nelbo import evaluate
from nelbo.bound.estimators import Exhaustive, Stratified
from nelbo.maths import random
from nelbo.model.exact import CategoricalData, GaussianData
from nelbo.process import grid as grids
from nelbo.process import schedule as schedules
from nelbo.training.build import build_model
from nelbo.training.config import check_config
from nelbo.training.criterion import Criterion
from nelbo.training.data import Batch
from nelbo.training.objective import BoundObjective, SimpleObjective
from tests.training.cases import codes, small

CODES = CategoricalData([[0.1, 0.2, 0.6, 0.1], [0.4, 0.1, 0.1, 0.4], [0.7, 0.1, 0.1, 0.1]])
REAL = GaussianData([0.5, -0.2], [[0.5, 0.2], [0.2, 0.3]])
LAW = schedules.logsnr_linear(4.0, -5.0)
TABLE = schedules.linear(12, 1e-2, 0.5)
POOL, BATCH, STEPS = 64, 32, 200
TERMS = ("diffusion", "reconstruction", "prior")


def case(name: str):
    if name == "law, codes":
        return CODES.model(LAW, grids.even(7), exact_ends=False), CODES.sample(POOL), grids.continuous()
    if name == "law, real":
        return REAL.model(LAW, grids.continuous(), exact_ends=False), REAL.sample(POOL), None
    if name == "table, codes":
        return CODES.model(TABLE, grids.full(), exact_ends=False), CODES.sample(POOL), None
    return REAL.model(TABLE, grids.full(), exact_ends=False), REAL.sample(POOL), None


def bound_losses(model, target: torch.Tensor, seed: int, step: int, share: float) -> dict[str, torch.Tensor]:
    """The loss of a batch and its terms, `share` of it scoring the first level."""
    return Criterion(BoundObjective(reconstruction_share=share))(model, Batch(target, seed, step))


def simple_loss(model, target: torch.Tensor, seed: int, step: int) -> torch.Tensor:
    return Criterion(SimpleObjective())(model, Batch(target, seed, step))["loss"]


def draws_of_the_loss(model, pool) -> torch.Tensor:
    """(STEPS, 3): diffusion, reconstruction, prior of random batches, as the loop draws them."""
    rows = [random.permutation(5, POOL, level=step)[:BATCH] for step in range(STEPS)]
    losses = [bound_losses(model, pool[r], 3, k, 0.25) for k, r in enumerate(rows)]
    return torch.stack([torch.stack([v[name].double() for name in TERMS]) for v in losses])


@pytest.mark.parametrize("name", ["law, codes", "law, real", "table, codes", "table, real"])
def test_unbiased(name):
    """Every term's mean over steps is the term of `evaluate` on the same examples, within 4 standard errors."""
    model, pool, grid = case(name)
    draws = draws_of_the_loss(model, pool)
    estimator = Exhaustive(draws=64) if isinstance(model.schedule, schedules.Table) else Stratified(32, 64)
    bound = evaluate(model, pool, grid=grid, estimator=estimator, precision="float64", seed=9)
    mean, error = draws.mean(0), draws.std(0) / math.sqrt(STEPS)
    for k, term in enumerate(TERMS):
        known = getattr(bound.terms, term)
        # The loss computes in float32, where λ at the first level has 7 digits: 1e-5 relative, far below the noise.
        scale = math.hypot(float(error[k]), known.standard_error) + 1e-5 * abs(known.bits_per_dim)
        assert abs(float(mean[k]) - known.bits_per_dim) < 4 * scale, term
    # The same comparison sees a factor of 1.3 in the diffusion term, so it can fail.
    assert abs(1.3 * float(mean[0]) - bound.terms.diffusion.bits_per_dim) > 4 * 1.3 * float(error[0])


def test_weight_of_a_step_and_of_a_rate():
    """With x̂ = 0 no noise is left in a step. On a table a batch that sweeps it twice gives the sum of its KLs exactly,
    ½ (SNR_1 − SNR_T) x²; on a law the mean over batches is ½ (SNR(0) − SNR(1)) x²."""
    x = 0.7
    target = torch.full((2 * 11, 2), x, dtype=torch.float64)
    unit = 2 * math.log(2)

    def of(schedule) -> nelbo.DiffusionModel:
        domain = nelbo.DataDomain((2,))
        return nelbo.from_callable(lambda z, t: 0 * z, schedule=schedule, domain=domain, predicts="x0", time="unit")

    snr = [math.exp(float(TABLE.table[k])) for k in (0, -1)]
    for step in range(5):
        loss = bound_losses(of(TABLE), target, 0, step, 0.5)
        assert float(loss["diffusion"]) == pytest.approx((snr[0] - snr[1]) * x**2 / unit, rel=1e-5)
    law = of(LAW)
    draws = torch.stack([bound_losses(law, target, 0, step, 0.5)["diffusion"] for step in range(200)]).double()
    error = float(draws.std()) / math.sqrt(200)
    assert error < 0.02 * float(draws.mean())
    assert abs(float(draws.mean()) - (math.exp(4.0) - math.exp(-5.0)) * x**2 / unit) < 4 * error


def test_the_loss_is_the_sum_of_its_terms():
    model, pool, _ = case("law, codes")
    loss = bound_losses(model, pool, 0, 0, 1.0)
    assert float(loss["loss"]) == pytest.approx(sum(float(loss[name]) for name in TERMS), rel=1e-6)


def probe(schedule, time: str):
    """A model whose network remembers the times it is asked about."""
    asked: list[torch.Tensor] = []

    def fn(z, t):
        asked.append(t.clone())
        return torch.zeros_like(z)

    domain = nelbo.DataDomain((2,), bins=4)
    return nelbo.from_callable(fn, schedule=schedule, domain=domain, time=time, decoder="categorical"), asked


def test_times_of_a_batch_sweep_the_chain():
    """One time in each of B equal parts of [0, 1], at a common offset that is uniform over steps."""
    model, asked = probe(LAW, "unit")
    target = torch.zeros(BATCH, 2, dtype=torch.int64)
    for step in range(100):
        bound_losses(model, target, 0, step, 0.1)
    times = torch.stack(asked).double()
    assert times.shape == (100, BATCH) and bool(((times >= 0) & (times < 1)).all())
    cells = (times * BATCH).floor().long().sort(1).values
    near_an_edge = ((times * BATCH).frac() * (1 - (times * BATCH).frac()) < 1e-4).any(1)  # float32 may cross it
    assert bool((cells[~near_an_edge] == torch.arange(BATCH)).all()) and int(near_an_edge.sum()) < 10
    offset = (times[:, 0] * BATCH).frac().numpy()
    assert stats.kstest(offset, "uniform").pvalue > 1e-4
    for slot in (0, 7):  # no slot of the batch is tied to a part of the chain
        assert stats.kstest(times[:, slot].numpy(), "uniform").pvalue > 1e-4


def test_levels_of_a_batch_sweep_the_table():
    """On a table of L levels, each of the L − 1 steps gets B/(L − 1) of the batch, rounded up or down."""
    model, asked = probe(TABLE, "index")
    for step in range(50):
        bound_losses(model, torch.zeros(BATCH, 2, dtype=torch.int64), 0, step, 0.1)
    counts = torch.stack([t.bincount(minlength=12) for t in asked])
    assert bool((counts[:, 0] == 0).all())  # the first level belongs to the decoder
    share = BATCH / 11
    assert bool(((counts[:, 1:] >= math.floor(share)) & (counts[:, 1:] <= math.ceil(share))).all())
    asked.clear()
    for step in range(50):
        simple_loss(model, torch.zeros(BATCH, 2, dtype=torch.int64), 0, step)
    counts = torch.stack([t.bincount(minlength=12) for t in asked])
    assert bool(((counts >= BATCH // 12) & (counts <= BATCH // 12 + 1)).all())


def test_simple_loss_by_hand():
    """L_simple of a network that says ε̂ = 0 is the mean of ε²; of the exact one it is less; of none, a number."""
    model, _ = probe(LAW, "unit")
    target = torch.randint(0, 4, (4096, 2))
    zero = float(simple_loss(model, target, 0, 0))
    assert abs(zero - 1) < 4 * math.sqrt(2 / (2 * 4096))
    exact = CODES.model(LAW, grids.even(7), exact_ends=False)
    assert float(simple_loss(exact, CODES.sample(4096), 0, 0)) < 0.9


@pytest.mark.parametrize("head", ["categorical", "plain"])
def test_gradient(head):
    """The derivative along the gradient is the gradient's squared norm: central difference against autograd."""
    examples = codes()
    model = build_model(examples, check_config(small(net={"head": head, "dropout": 0.0})))
    net = model.denoiser
    with torch.no_grad():  # off the start at zero, where most of the gradient vanishes
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))

    def loss() -> torch.Tensor:
        return bound_losses(model, examples.data, 0, 0, 0.5)["loss"]

    loss().backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    assert all(bool(g.abs().max() > 0) for g in gradients), "a parameter gets no gradient"
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    h = 1e-2 / norm

    def shifted(by: float) -> float:
        with torch.no_grad():
            for p, g in zip(net.parameters(), gradients, strict=True):
                p.add_(by * g)
            value = float(loss())
            for p, g in zip(net.parameters(), gradients, strict=True):
                p.sub_(by * g)
        return value

    assert (shifted(h) - shifted(-h)) / (2 * h) == pytest.approx(norm**2, rel=0.02)


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 2, 3)])
def test_the_first_prediction_is_the_histogram(shape):
    """A fresh categorical head has the bound of the exact denoiser of independent pixels with the smoothed counts."""
    examples = codes(20, shape)
    settings = check_config(small(levels=6))
    model = build_model(examples, settings)
    flat = examples.data.reshape(len(examples), -1)
    counts = torch.stack([(flat == k).sum(0) for k in range(5)], -1).double() + 0.5
    exact = CategoricalData(counts / counts.sum(-1, keepdim=True)).model(model.schedule, model.grid, exact_ends=False)
    a = evaluate(model, examples, estimator=Exhaustive(2), precision="float64", per_example=True)
    b = evaluate(exact, flat, estimator=Exhaustive(2), precision="float64", per_example=True)
    assert a.per_example is not None and b.per_example is not None
    torch.testing.assert_close(a.per_example.nats, b.per_example.nats, rtol=2e-6, atol=0)  # logits are float32
