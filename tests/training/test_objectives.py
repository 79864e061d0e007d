"""Every objective's expectation against a closed form, on data whose exact denoiser is known.

The data are N(m, c) in two independent dimensions with the exact denoiser, for which E‖ε − ε̂‖² = Σ c e^λ/(1 + c e^λ).
z-scores: 120 batches of 64 leave an error of 1 to 2 % of each mean, so that a weight of another kind is seen.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nelbo.errors import UsageError
from nelbo.model.exact import GaussianData
from nelbo.model.examples import Examples
from nelbo.process import grid as grids
from nelbo.process import schedule as schedules
from nelbo.training.build import build_model
from nelbo.training.config import check_config
from nelbo.training.criterion import Criterion
from nelbo.training.data import Batch, BatchPart
from nelbo.training.loop import train
from nelbo.training.objective import BoundObjective, HybridObjective, NoisedBatch, Objective, SimpleObjective
from nelbo.training.times import TimeSampler, TimeSampling
from nelbo.training.weighting import EDMMonotone, Flat, MinSNR, Sigmoid
from tests.training.cases import codes, small

C = np.array([0.5, 0.9])
DATA = GaussianData([0.0, 0.0], np.diag(C).tolist())
HIGH, LOW = 4.0, -4.0
LAW = schedules.logsnr_linear(HIGH, LOW)
STEPS, BATCH = 120, 64
WEIGHTS = [Flat(), Sigmoid(0.0), EDMMonotone()]


def error(logsnr: np.ndarray) -> np.ndarray:
    """E‖ε − ε̂‖², summed over the two dimensions."""
    snr = C[:, None] * np.exp(logsnr)
    return (snr / (1 + snr)).sum(0)


def integral(values) -> float:
    """∫ over λ from LOW to HIGH of a function of λ."""
    nodes, w = np.polynomial.legendre.leggauss(80)
    logsnr = 0.5 * (HIGH + LOW) + 0.5 * (HIGH - LOW) * nodes
    return float(0.5 * (HIGH - LOW) * (w @ values(logsnr)))


def draws(objective: Objective, sampling: TimeSampling, name: str) -> torch.Tensor:
    """(STEPS,): the part `name` of the loss at successive steps; importance sampling learns as it goes."""
    model = DATA.model(LAW, grids.continuous(), exact_ends=False)
    criterion = Criterion(objective, TimeSampler(sampling, cells=8))
    found = []
    for step in range(STEPS):
        parts = criterion(model, Batch(DATA.sample(BATCH, seed=step), 11, step))
        criterion.after_backward()
        criterion.end_of_step()
        found.append(parts.get(name, parts["loss"]).double())
    return torch.stack(found)


def check_expectation(objective: Objective, sampling: TimeSampling, name: str, exact: float, wrong: float) -> None:
    """The mean of the draws is the closed form within 4 standard errors, and not the form of another weight."""
    found = draws(objective, sampling, name)
    se = float(found.std()) / math.sqrt(STEPS)
    assert abs(float(found.mean()) - exact) < 4 * se + 1e-6, (float(found.mean()), exact, se)
    assert abs(float(found.mean()) - wrong) > 4 * se


def check_bounds() -> None:
    bits = 2 * math.log(2)
    for k, w in enumerate(WEIGHTS):
        exact, other = (
            0.5 * integral(lambda lam, w=v: w(torch.from_numpy(lam)).numpy() * error(lam)) / bits
            for v in (w, WEIGHTS[k - 1])
        )
        check_expectation(BoundObjective(w), TimeSampling.LOW_DISCREPANCY, "diffusion", exact, other)


def check_samplings() -> None:
    exact = 0.5 * integral(error) / (2 * math.log(2))
    for sampling in TimeSampling:
        check_expectation(BoundObjective(), sampling, "diffusion", exact, 1.3 * exact)


def check_simple() -> None:
    mean = integral(error) / (HIGH - LOW) / 2
    capped = integral(lambda lam: np.minimum(1, 0.7 * np.exp(-lam)) * error(lam)) / (HIGH - LOW) / 2
    check_expectation(SimpleObjective(), TimeSampling.IMPORTANCE, "simple", mean, capped)
    check_expectation(SimpleObjective(MinSNR(0.7)), TimeSampling.IMPORTANCE, "simple", capped, mean)


@pytest.mark.parametrize("check", [check_bounds, check_samplings, check_simple], ids=lambda f: f.__name__)
def test_check(check):
    check()


def test_ends_are_weighed_as_their_levels():
    """Reconstruction at w(λ_max), prior at w(λ_min): with w a sigmoid the ratios to the bound's own are its values."""
    model = DATA.model(LAW, grids.continuous(), exact_ends=False)
    x = DATA.sample(BATCH)
    plain, weighed = (Criterion(BoundObjective(w))(model, Batch(x, 0, 0)) for w in (Flat(), Sigmoid(1.0)))
    for name, end in (("reconstruction", HIGH), ("prior", LOW)):
        assert float(weighed[name] / plain[name]) == pytest.approx(1 / (1 + math.exp(end - 1.0)), rel=1e-6)


@pytest.mark.parametrize("objective", [BoundObjective(), SimpleObjective()])
def test_parts_add_up_to_the_batch(objective):
    model = DATA.model(LAW, grids.continuous(), exact_ends=False)
    x, whole = DATA.sample(12), BatchPart.whole(12)
    criterion = Criterion(objective, TimeSampler(TimeSampling.IMPORTANCE))
    total = criterion(model, Batch(x, 2, 5))["loss"]
    parts = [criterion(model, Batch(x[k::3], 2, 5, BatchPart(whole.positions[k::3], 12)))["loss"] for k in range(3)]
    assert float(sum(parts)) == pytest.approx(float(total), rel=1e-5)


@pytest.mark.parametrize("law", [True, False])
def test_hybrid_wants_a_chain_and_a_variance(law):
    schedule, grid = (LAW, grids.continuous()) if law else (schedules.linear(10, 0.01, 0.3), grids.full())
    model = DATA.model(schedule, grid, exact_ends=False)
    with pytest.raises(UsageError, match="hybrid"):
        Criterion(HybridObjective())(model, Batch(DATA.sample(4), 0, 0))


def test_hybrid_at_both_ends_of_a_long_chain():
    """The first level beside the last in one batch: x̂ is 10⁴ there, and the decoder, of which only the first level is
    told, would have no finite gradient."""
    settings = check_config({
        "net": {"name": "mlp", "head": "plain", "predicts": "eps", "width": 8}, "objective": "hybrid", "bins": 256,
        "schedule": {"name": "cosine", "T": 4000}, "variance": "learned_range", "levels": None,
    })  # fmt: skip
    data = torch.randint(0, 256, (3, 4), generator=torch.Generator().manual_seed(0))
    model = build_model(Examples(data, "bytes", bins=256), settings)
    batch = NoisedBatch.draw(model, Batch(data, 0, 0))._replace(
        unit=torch.tensor([0.0, 0.5, 0.9999], dtype=torch.float64)
    )
    each = HybridObjective().losses(model, batch).per_example
    each.sum().backward()
    assert bool(each.isfinite().all()) and all(bool(p.grad.isfinite().all()) for p in model.denoiser.parameters())
    alone = (
        HybridObjective()
        .losses(model, NoisedBatch.draw(model, Batch(data[:1], 0, 0))._replace(unit=batch.unit[:1]))
        .per_example
    )
    assert float(alone[0]) == pytest.approx(float(each[0]), rel=1e-5)


def test_a_run_with_importance_sampling_resumes_to_the_bit(tmp_path):
    """The density that was learned is in the checkpoint: cut off after 8 of 12 steps, the same weights come out."""
    settings = small(objective={"name": "bound", "t": "importance"})
    whole = train(codes(), tmp_path, settings)
    (tmp_path / "model.json").unlink()
    (tmp_path / "checkpoints" / "step-00000012.pt").unlink()
    assert train(codes(), tmp_path, settings, resume=True).fingerprint() == whole.fingerprint()
    plain = train(codes(), tmp_path / "plain", small())
    assert plain.fingerprint() != whole.fingerprint()
