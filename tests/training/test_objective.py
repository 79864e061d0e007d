"""Objectives: unbiased draws of the bound, expectations against closed forms, the right gradient, every level drawn.

On Gaussian data N(m, c) with the exact denoiser E‖ε − ε̂‖² = Σ c e^λ/(1 + c e^λ). z-scores: 120 batches of 64 leave an
error of 1 to 2 % of each mean, so that a weight of another kind is seen.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import nelbo
from nelbo import evaluate
from nelbo.bound.estimators import Exhaustive, Stratified
from nelbo.errors import UsageError
from nelbo.maths import random
from nelbo.model.exact import CategoricalData, GaussianData
from nelbo.model.examples import Examples
from nelbo.process import grid as grids
from nelbo.process import schedule as schedules
from nelbo.training.batches import Batch, BatchPart
from nelbo.training.build import build_model
from nelbo.training.criterion import Criterion
from nelbo.training.objective import BoundObjective, HybridObjective, NoisedBatch, Objective, SimpleObjective
from nelbo.training.settings import check_config
from nelbo.training.times import TimeSampler, TimeSampling
from nelbo.training.weighting import EDMMonotone, Flat, MinSNR, Sigmoid
from tests.training.cases import codes, small

CODES = CategoricalData([[0.1, 0.2, 0.6, 0.1], [0.4, 0.1, 0.1, 0.4], [0.7, 0.1, 0.1, 0.1]])
REAL = GaussianData([0.5, -0.2], [[0.5, 0.2], [0.2, 0.3]])
C = np.array([0.5, 0.9])
CENTRED = GaussianData([0.0, 0.0], np.diag(C).tolist())
HIGH, LOW = 4.0, -4.0
LAW = schedules.logsnr_linear(HIGH, LOW)
TABLE = schedules.linear(12, 1e-2, 0.5)
TERMS = ("diffusion", "reconstruction", "prior")
BITS = 2 * math.log(2)
"""Nats of a bit a dimension, of two dimensions."""


def losses(model, target: torch.Tensor, seed: int, step: int, share: float) -> dict[str, torch.Tensor]:
    """The bound of a batch and its terms, `share` of it scoring the first level."""
    return Criterion(BoundObjective(reconstruction_share=share))(model, Batch(target, seed, step))


# ---------------------------------------------------------------- the bound


@pytest.mark.filterwarnings("ignore:the chain does not end at its prior")
@pytest.mark.parametrize("data", [CODES, REAL], ids=["codes", "real"])
@pytest.mark.parametrize("schedule", [LAW, TABLE], ids=["law", "table"])
def test_unbiased(schedule, data):
    """Every term's mean over steps is the term of `evaluate` on the same examples, within 4 standard errors."""
    table = schedule is TABLE
    model = data.model(schedule, grids.full() if table else grids.continuous(), exact_ends=False)
    pool, steps = data.sample(64), 200
    rows = [random.permutation(5, 64, level=step)[:32] for step in range(steps)]
    draws = [losses(model, pool[r], 3, k, 0.25) for k, r in enumerate(rows)]
    estimator = Exhaustive(draws=64) if table else Stratified(32, 64)
    bound = evaluate(model, pool, estimator=estimator, precision="float64", seed=9)
    for term in TERMS:
        values = torch.stack([d[term].double() for d in draws])
        mean, error, exact = float(values.mean()), float(values.std()) / math.sqrt(steps), getattr(bound.terms, term)
        # the loss computes in float32, where λ at the first level has 7 digits: 1e-5 relative, far below the noise
        scale = math.hypot(error, exact.standard_error) + 1e-5 * abs(exact.bits_per_dim)
        assert abs(mean - exact.bits_per_dim) < 4 * scale, term
        if term == "diffusion":  # the same comparison sees a factor of 1.3
            assert abs(1.3 * mean - exact.bits_per_dim) > 4 * 1.3 * error


def test_weight_of_a_step_and_of_a_rate():
    """With x̂ = 0 no noise is left in a step. On a table a batch that covers it twice gives the sum of its KLs exactly,
    ½ (SNR_1 − SNR_T) x²; on a law the mean over batches is ½ (SNR(0) − SNR(1)) x²."""
    x = 0.7
    target = torch.full((2 * 11, 2), x, dtype=torch.float64)

    def zero(schedule) -> nelbo.DiffusionModel:
        domain = nelbo.DataDomain((2,))
        return nelbo.from_callable(lambda z, t: 0 * z, schedule=schedule, domain=domain, predicts="x0", time="unit")

    snr = [math.exp(float(TABLE.table[k])) for k in (0, -1)]
    for step in range(5):
        loss = losses(zero(TABLE), target, 0, step, 0.5)
        assert float(loss["diffusion"]) == pytest.approx((snr[0] - snr[1]) * x**2 / BITS, rel=1e-5)
    draws = torch.stack([losses(zero(LAW), target, 0, step, 0.5)["diffusion"] for step in range(200)]).double()
    error = float(draws.std()) / math.sqrt(200)
    assert error < 0.02 * float(draws.mean())
    assert abs(float(draws.mean()) - (math.exp(HIGH) - math.exp(LOW)) * x**2 / BITS) < 4 * error


@pytest.mark.parametrize(
    ("objective", "first"), [(BoundObjective(), 1), (SimpleObjective(), 0)], ids=["bound", "simple"]
)
def test_a_batch_covers_the_table(objective, first):
    """Each of the steps of the bound, or of the levels of L_simple, gets B/count of the batch, rounded up or down."""
    indices: list[torch.Tensor] = []

    def network(z, t):
        indices.append(t.clone())
        return torch.zeros_like(z)

    domain = nelbo.DataDomain((2,), bins=4)
    model = nelbo.from_callable(network, schedule=TABLE, domain=domain, time="index", decoder="categorical")
    for step in range(50):
        Criterion(objective)(model, Batch(torch.zeros(32, 2, dtype=torch.int64), 0, step))
    counts = torch.stack([t.bincount(minlength=12) for t in indices])
    share = 32 / (12 - first)
    assert bool((counts[:, :first] == 0).all())  # the first level belongs to the decoder
    assert bool(((counts[:, first:] >= math.floor(share)) & (counts[:, first:] <= math.ceil(share))).all())


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
        return losses(model, examples.data, 0, 0, 0.5)["loss"]

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
    model = build_model(examples, check_config(small(levels=6)))
    flat = examples.data.reshape(len(examples), -1)
    counts = torch.stack([(flat == k).sum(0) for k in range(5)], -1).double() + 0.5
    exact = CategoricalData(counts / counts.sum(-1, keepdim=True)).model(model.schedule, model.grid, exact_ends=False)
    a, b = (
        evaluate(m, x, estimator=Exhaustive(2), precision="float64", per_example=True).per_example
        for m, x in ((model, examples), (exact, flat))
    )
    assert a is not None and b is not None
    torch.testing.assert_close(a.nats, b.nats, rtol=2e-6, atol=0)  # logits are float32


# ---------------------------------------------------------------- closed forms of every objective


def error(logsnr: np.ndarray) -> np.ndarray:
    """E‖ε − ε̂‖² of CENTRED, summed over the two dimensions."""
    snr = C[:, None] * np.exp(logsnr)
    return (snr / (1 + snr)).sum(0)


def integral(weight) -> float:
    """∫ w(λ) E‖ε − ε̂‖² dλ over λ from LOW to HIGH."""
    nodes, w = np.polynomial.legendre.leggauss(80)
    logsnr = 0.5 * (HIGH + LOW) + 0.5 * (HIGH - LOW) * nodes
    return float(0.5 * (HIGH - LOW) * (w @ (weight(torch.from_numpy(logsnr)).numpy() * error(logsnr))))


BOUND = 0.5 * integral(Flat()) / BITS
SIMPLE, CAPPED = (integral(w) / (HIGH - LOW) / 2 for w in (Flat(), MinSNR(0.7)))
SIGMOID, MONOTONE = (0.5 * integral(w) / BITS for w in (Sigmoid(0.0), EDMMonotone()))


@pytest.mark.parametrize(
    ("objective", "sampling", "exact", "wrong"),
    [
        *((BoundObjective(), sampling, BOUND, 1.3 * BOUND) for sampling in TimeSampling),
        (BoundObjective(Sigmoid(0.0)), TimeSampling.LOW_DISCREPANCY, SIGMOID, BOUND),
        (BoundObjective(EDMMonotone()), TimeSampling.LOW_DISCREPANCY, MONOTONE, SIGMOID),
        (SimpleObjective(), TimeSampling.IMPORTANCE, SIMPLE, CAPPED),
        (SimpleObjective(MinSNR(0.7)), TimeSampling.IMPORTANCE, CAPPED, SIMPLE),
    ],
)
def test_expectation(objective: Objective, sampling: TimeSampling, exact: float, wrong: float):
    """The mean over steps is the closed form within 4 standard errors, and not the form of another weight; importance
    sampling learns as it goes."""
    model = CENTRED.model(LAW, grids.continuous(), exact_ends=False)
    criterion = Criterion(objective, TimeSampler(sampling, cells=8))
    values = []
    for step in range(120):
        terms = criterion(model, Batch(CENTRED.sample(64, seed=step), 11, step))
        criterion.after_backward()
        criterion.end_of_step()
        values.append(terms.get("diffusion", terms["loss"]).double())
    mean, se = float(torch.stack(values).mean()), float(torch.stack(values).std()) / math.sqrt(120)
    assert abs(mean - exact) < 4 * se + 1e-6, (mean, exact, se)
    assert abs(mean - wrong) > 4 * se


def test_ends_are_weighed_as_their_levels():
    """Reconstruction at w(λ_max), prior at w(λ_min): with w a sigmoid the ratios to the bound's own are its values."""
    model = CENTRED.model(LAW, grids.continuous(), exact_ends=False)
    batch = Batch(CENTRED.sample(64), 0, 0)
    plain, weighed = (Criterion(BoundObjective(w))(model, batch) for w in (Flat(), Sigmoid(1.0)))
    for name, end in (("reconstruction", HIGH), ("prior", LOW)):
        assert float(weighed[name] / plain[name]) == pytest.approx(1 / (1 + math.exp(end - 1.0)), rel=1e-6)


@pytest.mark.parametrize("objective", [BoundObjective(), SimpleObjective()], ids=["bound", "simple"])
def test_parts_add_up_to_the_batch(objective):
    model = CENTRED.model(LAW, grids.continuous(), exact_ends=False)
    x, positions = CENTRED.sample(12), torch.arange(12)
    criterion = Criterion(objective, TimeSampler(TimeSampling.IMPORTANCE))
    total = criterion(model, Batch(x, 2, 5))["loss"]
    parts = [criterion(model, Batch(x[k::3], 2, 5, BatchPart(positions[k::3], 12)))["loss"] for k in range(3)]
    assert float(sum(parts)) == pytest.approx(float(total), rel=1e-5)


# ---------------------------------------------------------------- the hybrid


@pytest.mark.parametrize("law", [True, False])
def test_hybrid_needs_a_chain_and_a_variance(law):
    schedule, grid = (LAW, grids.continuous()) if law else (TABLE, grids.full())
    model = CENTRED.model(schedule, grid, exact_ends=False)
    with pytest.raises(UsageError, match="hybrid"):
        Criterion(HybridObjective())(model, Batch(CENTRED.sample(4), 0, 0))


def test_hybrid_at_both_ends_of_a_long_chain():
    """The first level with the last in one batch: x̂ is 10⁴ there, and the decoder, which only scores the first level,
    would have no finite gradient."""
    settings = check_config({
        "net": {"name": "mlp", "head": "plain", "predicts": "eps", "width": 8}, "objective": "hybrid", "bins": 256,
        "schedule": {"name": "cosine", "T": 4000}, "variance": "learned_range", "levels": None,
    })  # fmt: skip
    data = torch.randint(0, 256, (3, 4), generator=torch.Generator().manual_seed(0))
    model = build_model(Examples(data, "bytes", bins=256), settings)
    unit = torch.tensor([0.0, 0.5, 0.9999], dtype=torch.float64)
    each = HybridObjective().losses(model, NoisedBatch.draw(model, Batch(data, 0, 0))._replace(unit=unit)).per_example
    each.sum().backward()
    assert bool(each.isfinite().all()) and all(bool(p.grad.isfinite().all()) for p in model.denoiser.parameters())
    first = NoisedBatch.draw(model, Batch(data[:1], 0, 0))._replace(unit=unit[:1])
    alone = HybridObjective().losses(model, first).per_example
    assert float(alone[0].detach()) == pytest.approx(float(each[0].detach()), rel=1e-5)
