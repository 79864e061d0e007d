"""`evaluate` and `Bound`: the fields of the contract, sums that add up, and refusals."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from nelbo import evaluate
from nelbo.bound.checks import NelboWarning
from nelbo.bound.estimators import Exhaustive, Stratified
from nelbo.bound.result import Bound, StandardError
from nelbo.bound.trial import EVALUATIONS
from nelbo.errors import DomainError, NumericalError, ShapeError, UnknownNameError
from nelbo.model.denoiser import NetworkDenoiser
from nelbo.model.examples import Examples
from nelbo.model.reverse import BetaTilde, Clip, Reverse
from nelbo.process import grid
from tests.bound import checks
from tests.expected import early_end, untrained
from tests.model.cases import LAW, categorical_model, network_model
from tests.tables import refusals

pytestmark = [untrained, early_end]

CODES = torch.from_numpy(np.random.default_rng(0).integers(0, 16, (20, 3)))


@pytest.fixture(scope="module")
def bound() -> Bound:
    how = {"estimator": "exhaustive", "precision": "float64", "seed": 7}
    return evaluate(network_model(), Examples(CODES, "mine"), per_example=True, **how)


def test_the_schema_of_the_contract(bound):
    found = json.loads(json.dumps(bound.to_dict(), allow_nan=False))
    assert found["schema"] == "nelbo.bound/1" and found["quantity"] == "vlb"
    assert found.keys() >= {
        "schema", "quantity", "bits_per_dim", "standard_error", "terms", "levels", "nats_per_example", "examples",
        "dimensions", "nfe_total", "nfe_per_example", "grid", "decoder", "variance", "clipping", "domain", "estimator",
        "precision", "seed", "data", "model", "version",
    }  # fmt: skip
    assert found["standard_error"].keys() == {"estimator", "data", "total"}
    assert found["terms"].keys() == {"prior", "diffusion", "reconstruction"}
    for term in found["terms"].values():
        assert term.keys() == {"bits_per_dim", "standard_error", "standard_error_data"}
    for level in found["levels"]:
        assert level.keys() == {"t", "s", "logsnr_t", "logsnr_s", "bits_per_dim", "standard_error", "evaluations"}
    assert found["data"].keys() == {"name", "fingerprint"} and found["model"].keys() == {"fingerprint", "parameters"}
    assert found["data"]["name"] == "mine" and found["seed"] == 7 and found["precision"] == "float64"
    assert (found["examples"], found["dimensions"]) == (20, 3)
    assert found["estimator"] == {"name": "exhaustive", "draws": 2}
    assert found["decoder"]["kind"] == "categorical" and found["variance"] == {"kind": "beta_tilde"}
    assert found["clipping"] is None and found["domain"]["bins"] == 16
    assert found["grid"]["steps"] == 6 and found["model"]["parameters"] == 48
    assert found["data"]["fingerprint"] == Examples(CODES).fingerprint


def test_terms_and_levels_add_up(bound):
    found = bound.to_dict()
    terms = found["terms"]
    checks.close(sum(t["bits_per_dim"] for t in terms.values()), found["bits_per_dim"], 1e-12)
    checks.close(sum(v["bits_per_dim"] for v in found["levels"]), terms["diffusion"]["bits_per_dim"], 1e-12)
    errors = [t["standard_error"] for t in terms.values()]
    checks.close(math.sqrt(sum(e**2 for e in errors)), found["standard_error"]["estimator"], 1e-10)
    levels = [v["standard_error"] for v in found["levels"]]
    checks.close(math.sqrt(sum(e**2 for e in levels)), terms["diffusion"]["standard_error"], 1e-10)
    e = found["standard_error"]
    checks.close(math.hypot(e["estimator"], e["data"]), e["total"], 1e-12)
    assert sum(v["evaluations"] for v in found["levels"]) == found["nfe_total"] - EVALUATIONS == 20 * 6 * 2
    assert found["nfe_per_example"] == 12.25 and terms["prior"]["standard_error"] == 0


def test_per_example(bound):
    per = bound.per_example
    nats = np.array(bound.to_dict()["nats_per_example"])
    checks.close(nats, per.nats, 1e-15)
    checks.close(per.prior + per.diffusion + per.reconstruction, per.nats, 1e-12)
    checks.close(nats.mean() / (3 * math.log(2)), bound.bits_per_dim, 1e-12)
    plain = math.sqrt(float(per.standard_error.square().sum())) / 20 / (3 * math.log(2))
    assert plain < bound.standard_error.estimator < 1.04 * plain  # 120 differences of draws tell it
    without = evaluate(network_model(), CODES, estimator="exhaustive", precision="float64", seed=7)
    assert without.per_example is None and without.to_dict()["nats_per_example"] is None
    assert without.bits_per_dim == bound.bits_per_dim


def test_it_prints_a_table(bound):
    text = str(bound)
    words = ["prior", "diffusion", "reconstruction", "bound", "bits/dim", "mine", "categorical"]
    assert all(word in text for word in (*words, "± estimator", "± data"))
    assert f"{bound.bits_per_dim:.5f}" in text and "245 network evaluations (12.25 an example)" in text
    assert "x̂ not clipped" in text and "density" not in text
    density = evaluate(checks.mixture_model(grid.continuous()), checks.POINTS, estimator=Stratified(8))
    assert "bits/dim (density)" in str(density) and "continuous" in str(density)


@pytest.mark.parametrize(
    "codes", [CODES[:1], CODES[:4], CODES[:7], CODES[:1].repeat(20, 1)], ids=["one", "four", "seven", "equal"]
)
def test_the_error_of_the_data_is_not_measurable(codes):
    """Of few or equal examples: the word, and null in JSON. Four of them were said to have an error of 0.00000."""
    bound = evaluate(network_model(), codes)
    found = json.loads(json.dumps(bound.to_dict(), allow_nan=False))
    assert found["standard_error"]["data"] is None and found["standard_error"]["total"] is None
    assert found["standard_error"]["estimator"] > 0
    assert all(term["standard_error_data"] is None for term in found["terms"].values())
    lines = str(bound).splitlines()
    assert all(line.endswith("not measurable") for line in [*lines[2:5], lines[6]])


def test_eight_examples_that_differ_show_their_spread():
    assert Examples(CODES[:8]).representative and not Examples(CODES[:7]).representative
    assert not Examples(CODES[:1].repeat(3000, 1)).representative
    e = StandardError.of(3.0, 1.0, 1, representative=True)
    assert 0 < e.data < e.estimator < e.total


def test_a_spread_within_the_noise_is_not_zero():
    """Values that differ no more than their noise: the error of the data is unknown, and the whole that of the noise.
    Without noise, a spread of zero is one: the prior of a chain that ends at it."""
    hidden = StandardError.of(1.0, 0.0, 1, representative=True)
    assert math.isnan(hidden.data) and hidden.total == hidden.estimator > 0
    assert StandardError.of(0.0, 0.0, 1, representative=True) == StandardError(0.0, 0.0, 0.0)


def test_seeds_and_batches():
    model = network_model()
    first = evaluate(model, CODES, precision="float64", seed=1)
    checks.close(
        evaluate(model, CODES, precision="float64", seed=1, batch_size=3).bits_per_dim, first.bits_per_dim, 1e-12
    )
    assert evaluate(model, CODES, precision="float64", seed=2).bits_per_dim != first.bits_per_dim
    assert evaluate(model, CODES.numpy(), precision="float64", seed=1).bits_per_dim == first.bits_per_dim


def test_precision_changes_little_and_is_said():
    model = categorical_model(bins=16)
    runs = {p: evaluate(model, CODES, precision=p) for p in ("float64", "float32")}
    with pytest.warns(UserWarning, match="bf16 shifts the value by"):
        runs["bf16"] = evaluate(model, CODES, precision="bf16")
    assert all(run.precision == p for p, run in runs.items())
    checks.close(runs["float32"].bits_per_dim, runs["float64"].bits_per_dim, 1e-5)
    checks.close(runs["bf16"].bits_per_dim, runs["float64"].bits_per_dim, 2e-2)
    assert len({run.model["fingerprint"] for run in runs.values()}) == 1


def test_another_grid_is_recorded():
    model = network_model()
    found = evaluate(model, CODES, grid=grid.even(3), estimator="exhaustive")
    assert found.to_dict()["grid"]["steps"] == 3 and found.nfe_per_example == 6.25 and model.steps == 6
    assert found.model["fingerprint"] != evaluate(model, CODES).model["fingerprint"]
    continuous = evaluate(model, CODES, grid=grid.continuous(), estimator=Stratified(8))
    assert continuous.to_dict()["grid"]["steps"] is None
    assert len(continuous.levels) == 8 and continuous.nfe_per_example == 16.25


def test_training_examples_are_noticed():
    model = dataclasses.replace(network_model(), trained_on=Examples(CODES[:15]).hashes)
    with pytest.warns(NelboWarning, match="5 of 10 examples are among those the model was trained on"):
        found = evaluate(model, CODES[10:].int())
    assert "5 of 10" in found.warnings[0] and "warning: 5 of 10" in str(found)
    unseen = (CODES[:5] + 1) % 16
    assert not any("trained on" in w for w in evaluate(model, unseen).warnings)


def test_progress_reaches_what_was_planned():
    for estimator in (Exhaustive(2), Exhaustive(1, 5), Stratified(4)):
        calls: list[tuple[int, int]] = []
        found = evaluate(
            network_model(), CODES, estimator=estimator, batch_size=6, progress=lambda *c, calls=calls: calls.append(c)
        )
        done = [c[0] for c in calls]
        assert done == sorted(done) and calls[-1] == (found.nfe_total, found.nfe_total)


def test_the_network_keeps_its_mode():
    model = network_model(denoiser=NetworkDenoiser(torch.nn.Dropout(0.5), "eps", "logsnr"))
    model.denoiser.net.forward = lambda z, t: torch.nn.functional.dropout(z, 0.5, model.denoiser.net.training)
    model.denoiser.train()
    runs = [evaluate(model, CODES, precision="float64").bits_per_dim for _ in range(2)]
    assert runs[0] == runs[1], "dropout was on during the evaluation"
    assert model.denoiser.training and model.denoiser.net.training


def broken(value: float) -> NetworkDenoiser:
    def net(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        out = z.clone()
        out[-1] = value
        return out

    return NetworkDenoiser(net, "eps", "logsnr")


@pytest.mark.parametrize("estimator", ["exhaustive", "stratified"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_network_that_breaks_is_named(value, estimator):
    model = network_model(denoiser=broken(value))
    with pytest.raises(
        NumericalError, match=r"the diffusion term of example 19 is not finite\nhint: the network returned NaN"
    ):
        evaluate(model, CODES, estimator=estimator)


def test_an_example_of_probability_zero_is_no_number():
    model = categorical_model(bins=4)
    with torch.no_grad():
        model.denoiser.net.second.fill_(math.inf)
    with pytest.raises(NumericalError, match="the reconstruction term of example 0"):
        evaluate(model, CODES[:3] % 4)


test_nonsense_is_refused = refusals(
    (lambda: evaluate(network_model(), CODES.double()), DomainError, r"data holds float64 values where integer codes"),
    (lambda: evaluate(network_model(), CODES + 1), DomainError, r"the model has 16 bins"),
    (lambda: evaluate(network_model(), CODES[:, :2]), ShapeError, r"\(20, 2\), but the model scores .*\(3,\)"),
    (
        lambda: evaluate(network_model(), CODES, precision="half"),
        UnknownNameError,
        r"precision 'half'\n.*bf16, float32, float64",
    ),
    (lambda: evaluate(network_model(), CODES, estimator="all"), UnknownNameError, r"unknown estimator 'all'"),
    (lambda: evaluate(network_model(), CODES, batch_size=0), r"a batch of 0 examples"),
    (lambda: evaluate(network_model(), CODES, grid=grid.full()), r"a full grid was asked of"),
    (
        lambda: evaluate(network_model(), CODES, condition={"y": torch.zeros(3)}),
        ShapeError,
        r"'y' has 3 rows for 20 examples",
    ),
    (lambda: evaluate(network_model(), CODES, seed=-1), r"seed -1"),
    (
        lambda: evaluate(checks.mixture_model(grid.even(2)), torch.tensor([[0.0], [math.nan]])),
        DomainError,
        r"NaN or infinity, first in example 1",
    ),
)


def test_clipping_is_recorded():
    found = evaluate(network_model(reverse=Reverse(BetaTilde(), Clip(-1.0, 1.0))), CODES)
    assert found.to_dict()["clipping"] == {"kind": "range", "low": -1.0, "high": 1.0}
    assert "x̂ clipped to [-1.0, 1.0]" in str(found)


def test_the_bound_of_a_model_does_not_depend_on_the_chains_unused_parts():
    """The schedule outside the grid's ends is never looked at."""
    model = network_model(schedule=LAW, grid=grid.times([0.25, 0.5, 0.75]))
    found = evaluate(model, CODES, precision="float64")
    assert len(found.levels) == 2
    assert (found.levels[0].logsnr_s, found.levels[-1].logsnr_t) == (2.25, -3.25)
