"""`contrast`: exact where laws are known, right in its errors, and the same however it is computed."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch

import nelbo
from nelbo.bound.contrast import contrast as contrasts
from nelbo.bound.contrast import places
from nelbo.bound.contrast.alternatives import UnderConditions
from nelbo.bound.prepare import prepare
from nelbo.bound.problem import Draws
from nelbo.cli.main import execute
from nelbo.errors import DomainError, NelboError, ShapeError, UsageError
from nelbo.workers import Run
from tests.bound.conditional import gaussians, model_of, swapped
from tests.bound.workers import on_two

LAWS = gaussians(4, 3)
MODEL = model_of(LAWS).with_grid(nelbo.grids.continuous())
X = torch.cat([law.sample(10, seed=k) for k, law in enumerate(LAWS)])
EXACT = torch.stack([-law.log_prob(X) for law in LAWS], 1)


def pull(found: nelbo.Contrast, exact: torch.Tensor) -> torch.Tensor:
    """Differences to the best one, less the exact ones, in standard errors."""
    right = exact - exact.gather(1, found.best[:, None])
    return ((found.difference - right) / found.standard_error)[found.standard_error > 0]


@pytest.fixture(scope="module")
def decided() -> nelbo.Contrast:
    return nelbo.contrast(MODEL, X, "y", range(4), confidence=0.95, indifference=1.0)


def test_the_best_condition_is_that_of_the_highest_density(decided):
    regret = EXACT.gather(1, decided.best[:, None])[:, 0] - EXACT.min(1).values
    assert float(regret.max()) < 1.0 and bool(decided.decided.all())
    assert decided.left.any(1).all() and bool((decided.difference >= 0).all())
    assert decided.nfe_total >= int(decided.evaluations.sum())  # pilot and trial are counted too


def test_the_posterior_of_decided_examples_has_honest_errors(decided):
    """Those eliminated keep a probability, and what is not known of it is part of the error."""
    away = (decided.posterior - (-EXACT).softmax(1)).abs()
    alone = decided.left.sum(1) == 1
    assert int(alone.sum()) > 5
    assert float((away <= 4 * decided.posterior_error + 0.02)[alone].double().mean()) > 0.97
    assert float((away > 0.02)[alone].double().mean()) > 0.05  # power: without errors many are too far


@pytest.fixture(scope="module")
def to_tolerance() -> nelbo.Contrast:
    return nelbo.contrast(MODEL, X, "y", range(4), confidence=None, tolerance=0.25, seed=3)


def test_differences_and_their_errors_are_right(to_tolerance):
    found = to_tolerance
    assert bool((found.standard_error <= 0.25).all()) and bool(found.left.all())
    z = pull(found, EXACT)
    # of an exact network the continuous bound is −log p but for its two ends, which are the same for all conditions
    # to 0.01 nats; differences of one example are dependent
    assert abs(float(z.mean())) < 4 / math.sqrt(len(X)) and 0.6 < float(z.std()) < 1.3
    wrong = EXACT + 0.5 * torch.arange(4)  # power: half a nat more for every class
    assert float(pull(found, wrong).std()) > 3


def test_the_posterior_is_that_of_the_differences(to_tolerance):
    exact = (-EXACT).softmax(1)
    error = ((to_tolerance.posterior - exact) / to_tolerance.posterior_error.clamp_min(1e-4)).abs()
    assert float((error < 3).double().mean()) > 0.95 and float(error.median()) > 0.2
    torch.testing.assert_close(to_tolerance.posterior.sum(1), torch.ones(len(X), dtype=torch.float64))


def test_the_covariance_is_that_of_many_runs():
    same = X[:1].expand(400, -1)  # one example under 400 keys of noise
    found = nelbo.contrast(MODEL, same, "y", range(3), confidence=None, tolerance=1e-9, max_nfe=78_000)  # 32 strata
    assert len(set(found.evaluations.tolist())) == 1
    assert found.covariance is not None
    claimed = found.covariance.mean(0)
    values = found.difference + 0.0
    best = found.best
    assert bool((best == best[0]).all())
    c, b = (int(best[0]) + 1) % 3, int(best[0])
    variance = float(claimed[c, c] + claimed[b, b] - 2 * claimed[c, b])
    assert 0.85 < variance / float(values[:, c].var()) < 2  # neighbouring strata are unlike: a little long
    alone = float(claimed[c, c] + claimed[b, b])
    assert alone > 2 * variance  # what pairing saves


def test_a_finite_chain_with_a_decoder_that_asks_the_network():
    """Against an independent loop over the steps, by the formulas of Ho et al. 2020 for the variance β̃."""
    T, draws = 12, 8000
    schedule = nelbo.schedules.linear(T, 1e-3, 0.3)
    model, x = model_of(LAWS[:2], schedule, "index"), X[:6]
    network: Any = model.denoiser.net
    betas = torch.linspace(1e-3, 0.3, T, dtype=torch.float64)
    kept = (1 - betas).cumprod(0)
    totals = torch.zeros(6, 2, draws, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for i in range(T):
        eps = torch.randn(6, draws, 3, generator=generator, dtype=torch.float64)
        z = kept[i].sqrt() * x[:, None] + (1 - kept[i]).sqrt() * eps
        for c in range(2):
            time, y = torch.full((6 * draws,), i), torch.full((6 * draws,), c)
            found = network(z.reshape(-1, 3), time, y=y).reshape(eps.shape)
            if i:
                tilde = betas[i] * (1 - kept[i - 1]) / (1 - kept[i])
                weight = betas[i] ** 2 / (2 * tilde * (1 - betas[i]) * (1 - kept[i]))
                totals[:, c] += weight * (eps - found).square().sum(-1)
            else:
                mean = (z - (1 - kept[0]).sqrt() * found) / kept[0].sqrt()
                variance = betas[1] * (1 - kept[0]) / (1 - kept[1])
                totals[:, c] += (x[:, None] - mean).square().sum(-1) / (2 * variance)
    gap = totals[:, 1] - totals[:, 0]
    found = nelbo.contrast(model, x, "y", [0, 1], confidence=None, tolerance=0.1)
    difference = found.difference[:, 1] - found.difference[:, 0]
    error = (found.standard_error.max(1).values.square() + gap.var(1) / draws).sqrt()
    assert float(((difference - gap.mean(1)) / error).abs().max()) < 4 and float(error.max()) < 0.25


def test_pairs_of_noise_and_its_opposite_are_one_draw():
    chain = prepare(MODEL, X).chain
    examples, numbers = torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    at = torch.zeros(2, dtype=torch.int64), torch.full((2,), 0.5, dtype=torch.float64)
    drawn = chain.noised(Draws(examples, numbers + 1, numbers, *at, signs=torch.tensor([1.0, -1.0])), torch.arange(2))
    torch.testing.assert_close(drawn.z.sum(0), 2 * (drawn.at.alpha[0] * drawn.x[0]))
    assert float((drawn.z[0] - drawn.z[1]).abs().min()) > 0


def test_draws_go_where_differences_vary_and_opposites_pay():
    one = prepare(MODEL, X, Run())
    alternatives = UnderConditions(one.chain, {"y": torch.arange(4)}, torch.zeros(4, dtype=torch.bool))
    planned, even = places.piloted(alternatives, one.runner), places.Places.even(alternatives)
    left = torch.ones(len(X), 4, dtype=torch.bool)

    def variance(where: places.Places, opposite: bool = True) -> float:
        drawn = places.draw(alternatives, one.runner, where, torch.arange(len(X)), left, 0, 64).values
        difference = drawn[..., 1] - drawn[..., 0]
        return float((difference[:, 0::2] - difference[:, 1::2]).square().mean())

    assert variance(planned) < 0.6 * variance(even)
    both = variance(planned)
    original = Draws.__init__

    def alone(self, *args, signs=None, **more):
        original(self, *args, signs=None if signs is None else torch.ones_like(signs), **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Draws, "__init__", alone)
        assert both < 0.6 * variance(planned)


def test_batches_and_workers_change_nothing():
    options: dict[str, Any] = {"confidence": 0.95, "indifference": 1.0}
    x = X[::8]
    alone = nelbo.contrast(MODEL, x, "y", range(4), **options)
    shared, _ = on_two(lambda worker: nelbo.contrast(MODEL, x, "y", range(4), **options, workers=worker))
    for found in [nelbo.contrast(MODEL, x, "y", range(4), **options, batch_size=33), *shared]:
        for name in ("difference", "standard_error", "posterior", "left", "evaluations"):
            torch.testing.assert_close(getattr(found, name), getattr(alone, name), rtol=0, atol=1e-9)
        assert found.nfe_total == alone.nfe_total


def test_it_goes_on_from_its_state(tmp_path):
    model = model_of(LAWS[:2])
    named = dataclasses.replace(model, provenance={})
    options: dict[str, Any] = {"indifference": 0.5, "state": tmp_path / "s"}
    first, again = (nelbo.contrast(named, X[:4], "y", [0, 1], **options) for _ in range(2))
    assert torch.equal(first.difference, again.difference) and first.nfe_total == again.nfe_total
    with pytest.raises(UsageError, match="another evaluation"):
        nelbo.contrast(named, X[:4], "y", [1, 0], indifference=0.5, state=tmp_path / "s")


def test_a_budget_is_kept_and_the_undecided_are_named():
    with pytest.warns(UserWarning, match="are not decided"):
        found = nelbo.contrast(MODEL, X, "y", range(4), max_nfe=4000)
    assert found.nfe_total <= 4000 and not bool(found.decided.all())
    assert found.to_dict()["decided"].count(False) == int((~found.decided).sum())


def test_covariances_of_very_many_conditions_are_not_kept(monkeypatch):
    monkeypatch.setattr(contrasts, "COVARIANCES", 30)
    found = nelbo.contrast(MODEL, X[:2], "y", range(4), confidence=None, tolerance=5.0)
    assert found.covariance is None and bool((found.standard_error <= 5.0).all())


def test_a_prior_moves_the_decision():
    x = torch.tensor([[0.5, 0.5]], dtype=torch.float64).expand(20, -1)
    laws = swapped()
    model = model_of(laws).with_grid(nelbo.grids.continuous())
    found = nelbo.contrast(model, x, "y", [0, 1], prior=[0.02, 0.98], confidence=0.9)
    assert bool((found.best == 1).all()) and bool(found.decided.all())
    even = nelbo.contrast(model, x, "y", [0, 1], confidence=None, posterior_tolerance=0.1)
    assert float((even.posterior[:, 0] - 0.5).abs().max()) < 0.45
    assert float(even.posterior_error.max()) <= 0.1 + 1e-12


def test_one_condition_and_no_condition():
    alone = nelbo.contrast(MODEL, X[:3], "y", [2])
    assert alone.nfe_total <= 5 and alone.posterior.tolist() == [[1.0]] * 3 and bool(alone.decided.all())
    found = nelbo.contrast(MODEL, X[:10], "y", [None, 0, 3], confidence=None, tolerance=0.6)
    # without y the network is that of class 0: the same values to the last bit
    both = found.difference[:, 0] == found.difference[:, 1]
    assert bool(both.all()) and found.values == (None, 0, 3)
    rows = nelbo.contrast(MODEL, X[:10], "y", {"y": torch.tensor([0, 3])}, confidence=None, tolerance=0.6)
    assert rows.values == (0, 1)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"values": []}, UsageError, "no conditions"),
        ({"values": None}, UsageError, "not known"),
        ({"values": ["cat"]}, UsageError, "cat"),
        ({"values": [[1, 2], [1]]}, UsageError, "no tensor"),
        ({"values": {"y": [0, 1], "z": [0]}}, ShapeError, "rows"),
        ({"values": [0.0, math.nan]}, DomainError, "nan"),
        ({"condition": "not a name"}, UsageError, "keyword"),
        ({"prior": [0.5]}, ShapeError, "prior"),
        ({"prior": [1.0, 0.0]}, DomainError, "positive"),
        ({"confidence": 1.5}, UsageError, "confidence"),
        ({"confidence": None}, UsageError, "one of them"),
        ({"indifference": -1}, UsageError, "indifference"),
        ({"tolerance": 0}, UsageError, "tolerance"),
        ({"posterior_tolerance": 2}, UsageError, "posterior_tolerance"),
        ({"max_nfe": 0}, UsageError, "max_nfe"),
        ({"values": [0, 9]}, NelboError, "9|condition|raised"),
    ],
)  # fmt: skip
def test_what_is_refused(given, error, says):
    options: dict[str, Any] = {"condition": "y", "values": [0, 1], **given}
    with pytest.raises(error, match=says) as caught:
        nelbo.contrast(MODEL, X[:2], **options)
    assert caught.value.hint


def test_the_json_and_the_table(decided, capsys):
    document = json.loads(json.dumps(decided.to_dict(), allow_nan=False))
    assert document["schema"] == "nelbo.contrast/1" and document["values"] == [0, 1, 2, 3]
    shape = np.array(document["difference"], dtype=object).shape
    assert shape == (len(X), 4) == np.array(document["posterior"]).shape
    gone = ~decided.left
    assert all(v is None for row, out in zip(document["difference"], gone, strict=True)
               for v, o in zip(row, out.tolist(), strict=True) if o)  # fmt: skip
    text = str(decided)
    assert "decided at 0.95" in text and len(text.splitlines()) == 13 and max(map(len, text.splitlines())) < 100


PLUGIN = """
import nelbo
from tests.bound.conditional import gaussians, model_of

def model():
    return model_of(gaussians(2, 2))
"""


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "contrasted.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    laws = gaussians(2, 2)
    x = torch.cat([law.sample(3) for law in laws]).numpy()
    np.savez(tmp_path / "x.npz", data=x, labels=np.repeat([0, 1], 3))
    command = ["contrast", "contrasted:model", "--data", "x.npz#data", "--condition", "y", "--indifference", "1"]
    assert execute([*command, "--values", "0,1", "--out", "c.json"]) == 0
    table = capsys.readouterr().out
    assert "decided at 0.99" in table and json.loads((tmp_path / "c.json").read_text())["examples"] == 6
    assert execute([*command, "--json"]) == 2
    assert "values" in capsys.readouterr().err
    assert execute([*command, "--values", "0,,1"]) == 2 and "--values" in capsys.readouterr().err
