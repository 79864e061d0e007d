"""The verb: every kind of model, oracles that no tightened bound may undercut, splits, targets, folders, refusals."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings

import pytest
import torch

import nelbo
from nelbo.bound.estimators import Stratified
from nelbo.errors import ModelFolderError, UsageError
from nelbo.model.examples import Examples
from nelbo.tightening import certificate as certificates
from nelbo.tightening.split import split
from nelbo.tightening.tighten import BUDGET, estimator_of

SHAPE, BINS = (1, 6, 6), 8


class Net(torch.nn.Module):
    """A smooth random convolution: (B, 1, 6, 6) to as many channels as asked for."""

    def __init__(self, channels: int = 1):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.inner = torch.nn.Conv2d(1, 4, 3, padding=1)
            self.out = torch.nn.Conv2d(4, channels, 3, padding=1)

    def forward(self, z, t):
        return self.out(torch.tanh(self.inner(z)))


@pytest.fixture(scope="module")
def codes() -> torch.Tensor:
    """96 smooth images of eight codes."""
    make = torch.Generator().manual_seed(5)
    ramp = torch.linspace(0, 5, 6)
    x = torch.rand(96, 1, 1, 1, generator=make) * 4 + ramp[:, None] * torch.rand(96, 1, 1, 1, generator=make)
    return (x + 0.7 * torch.randn(96, *SHAPE, generator=make)).round().clamp(0, BINS - 1).long()


def of_kind(kind: str) -> nelbo.DiffusionModel:
    domain = nelbo.DataDomain(SHAPE, bins=BINS)
    law, table = nelbo.schedules.logsnr_linear(7.0, -6.0), nelbo.schedules.linear(40, 1e-3, 0.35)
    if kind in ("learned_range", "learned_log"):
        return nelbo.from_callable(Net(2), schedule=table, domain=domain, variance=kind)
    if kind == "flow":
        schedule = nelbo.schedules.flow(0.02, 0.98)
        return nelbo.from_callable(Net(), schedule=schedule, domain=domain, predicts="velocity", time="unit")
    if kind == "vdm":
        return nelbo.from_callable(Net(), schedule=law, domain=domain, predicts="v", time="logsnr")
    return nelbo.from_callable(Net(), schedule=table, domain=domain, predicts=kind)


def tightened(model, data, steps=5, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nelbo.tighten(model, data, steps, **options)


OTHERS = ("v", "x0", "learned_range", "vdm", "flow")


@pytest.mark.parametrize("kind", ["eps", *(pytest.param(kind, marks=pytest.mark.slow) for kind in OTHERS)])
def test_every_kind_of_model(kind, codes, tmp_path):
    """A chain of the steps asked for, a gain that holds on held-out examples, at most 50 evaluations an example."""
    model = of_kind(kind)
    tight, found = tightened(model, codes)
    assert tight.steps == 5 and found.after.description["grid"]["steps"] == 5
    document = found.to_dict()
    gain = document["gain"]
    assert gain["bits_per_dim"] > 3 * gain["standard_error"]["total"] > 0
    parts = [stage["part"]["bits_per_dim"] for stage in document["stages"][1:]]
    assert sum(parts) == pytest.approx(gain["bits_per_dim"], abs=1e-9)
    assert document["nfe"]["fit_per_example"] <= 50
    assert document["data"]["fit"]["examples"] == document["data"]["held_out"]["examples"] == 48
    levels = tight.levels().logsnr
    assert document["chain"]["logsnr"] == pytest.approx(levels.tolist())
    assert json.loads(json.dumps(document, allow_nan=False)) == document and "gained" in str(found)


@pytest.mark.parametrize("kind", ["eps", "vdm"])
def test_long_chains_are_certified_as_evaluate_does_it(kind, codes):
    """Forty steps, or the continuous bound: less than half the error of even strata, at no more than their cost."""
    model, held_out = of_kind(kind), codes[:48]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        planned = nelbo.evaluate(model, held_out, estimator=estimator_of(model, 48), per_example=True)
        even = nelbo.evaluate(model, held_out, estimator=Stratified(25, 4), per_example=True)
    a, b = planned.standard_error.estimator, even.standard_error.estimator
    assert a < b / 2 and planned.nfe_per_example <= BUDGET
    assert abs(planned.bits_per_dim - even.bits_per_dim) < 4 * math.hypot(a, b)


def test_short_chains_are_certified_step_by_step():
    """Each step twice, so that rows with the same levels share their noise."""
    short, long = (estimator_of(of_kind("vdm").with_grid(nelbo.grids.even(k)), 48) for k in (25, 26))
    assert (short.name, long.name) == ("exhaustive", "adaptive")


def test_gains_are_those_of_the_same_examples(codes):
    """The error of every part and the whole is the spread of the examples' differences over √N, widened a little."""
    _, found = tightened(of_kind("eps"), codes)
    nats = [stage.bound.per_example.nats for stage in found.stages]
    document, bits = found.to_dict(), 1 / (36 * math.log(2))
    for before, after, stage in zip(nats, nats[1:], document["stages"][1:], strict=False):
        assert stage["part"]["bits_per_dim"] == pytest.approx(float((before - after).mean()) * bits)
        spread = float((before - after).std()) / math.sqrt(len(before)) * bits
        assert spread < stage["part"]["standard_error"] < 1.3 * spread
    whole = float((nats[0] - nats[-1]).std()) / math.sqrt(48) * bits
    assert whole < document["gain"]["standard_error"]["total"] < 1.3 * whole


@pytest.mark.slow
@pytest.mark.parametrize("first_level", ["own", "gaussian", "histogram", "pixel", "context"])
def test_the_decoder_may_be_chosen(first_level, codes):
    model = of_kind("eps")
    tight, found = tightened(model, codes, first_level=first_level)
    assert found.details["decoder"]["kind"] == first_level and tight.steps == 5
    if first_level == "own":
        assert tight.decoder is model.decoder and found.details["chain"]["positions"][0] == 0


def test_standardised_data_are_tightened_as_they_are():
    """A model of (x − mean)/scale and one of x differ by Σ log scale alone: in bounds, in predictions, in targets."""
    mean, scale = torch.tensor([3.0, -2e6]).double(), torch.tensor([1e-6, 1e6]).double()
    data = nelbo.exact.GaussianData([0.2, -0.3], [[1.0, 0.6], [0.6, 0.9]])
    model = data.model(nelbo.schedules.linear(40, 1e-3, 0.35), nelbo.grids.full(), exact_ends=False)
    u, shift = data.sample(80), float(scale.log().sum()) / 2 / math.log(2)
    raw = dataclasses.replace(model, domain=nelbo.DataDomain((2,), mean=mean, scale=scale))
    target = {"steps": None, "target": 2.0}, {"steps": None, "target": 2.0 + shift}
    for ours, theirs in (({}, {}), target):
        _, a = tightened(model, u, **ours)
        _, b = tightened(raw, mean + scale * u, **theirs)
        pairs = zip(a.to_dict()["stages"], b.to_dict()["stages"], strict=True)
        for one, other in pairs:
            assert other["bits_per_dim"] == pytest.approx(one["bits_per_dim"] + shift, abs=1e-5)
            predicted = one["fitted_bits_per_dim"], other["fitted_bits_per_dim"]
            assert predicted == (None, None) or predicted[1] == pytest.approx(predicted[0] + shift, abs=1e-5)
        assert a.details["chain"] == b.details["chain"] and a.details["decoder"]["kind"] == b.details["decoder"]["kind"]


def test_columns_of_extreme_scales():
    """A model of N(0, I) on columns of 1, 10⁶ and 10⁻⁶: a certificate without a number that is not finite."""
    data = nelbo.exact.GaussianData(torch.zeros(3), torch.eye(3))
    model = data.model(nelbo.schedules.linear(60, 1e-3, 0.3), nelbo.grids.full(), exact_ends=False)
    _, found = tightened(model, data.sample(80) * torch.tensor([1.0, 1e6, 1e-6]), 6)
    gain = found.to_dict()["gain"]
    assert gain["bits_per_dim"] > 1e6 and math.isfinite(gain["standard_error"]["total"])
    columns = [line.split() for line in str(found).splitlines()[2:5]]
    assert all(len(row) >= 6 for row in columns)  # no number runs into the next


@pytest.mark.slow
@pytest.mark.parametrize("steps", [3, 12])
def test_no_tightened_bound_is_below_the_entropy(steps):
    """Codes and a Gaussian whose law is known, exact networks: E[bound] ≥ entropy, each within 4 standard errors."""
    mass = nelbo.exact.CategoricalData(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.4, 0.3, 0.3]]))
    density = nelbo.exact.GaussianData([0.0, 1.0], [[1.0, 0.9], [0.9, 1.0]])
    for data in (mass, density):
        model = data.model(nelbo.schedules.logsnr_linear(6.0, -6.0), nelbo.grids.even(40))
        fit, held_out = data.sample(300), data.sample(500, seed=9)
        _, found = tightened(model, fit, steps, held_out=held_out)
        rows = split(model, Examples(fit), Examples(held_out), 0).held_out
        paired = found.after.per_example.nats + data.log_prob(held_out[rows])
        assert float(paired.mean()) > -4 * float(paired.std()) / math.sqrt(len(paired))


def test_the_splits_share_nothing_and_leave_training_data_out(codes):
    model = dataclasses.replace(of_kind("eps"), trained_on=Examples(codes[:30]).hashes)
    data = Examples(torch.cat([codes, codes[90:93]]))
    parts = split(model, data, None, 0)
    fit, held = parts.fit_examples.hashes, parts.held_out_examples.hashes
    assert not torch.isin(fit, held).any() and len(torch.cat([fit, held]).unique()) == 66
    assert not torch.isin(torch.cat([fit, held]), model.trained_on).any()
    assert any("30 examples of the data are training data" in n for n in parts.notes)
    assert any("3 examples of the data are copies of others" in n for n in parts.notes)
    other = split(model, Examples(codes[:80]), Examples(codes[70:]), 0)
    assert not torch.isin(other.fit_examples.hashes, other.held_out_examples.hashes).any()
    assert len(other.held_out) == 26 and len(other.fit) == 40
    with pytest.raises(UsageError, match="none of which the model was trained on") as refused:
        split(model, Examples(codes[:50]), None, 0)
    assert "not trained on" in refused.value.hint


def test_few_examples_are_said_to_be_few(codes):
    parts = split(of_kind("eps"), Examples(codes[:40]), None, 0)
    assert any("only 20 examples to fit to" in note for note in parts.notes)
    with pytest.raises(UsageError, match="to fit and"):
        nelbo.tighten(of_kind("eps"), codes[:20], 3)


@pytest.mark.slow
def test_a_target_takes_the_fewest_steps_that_promise_it(codes):
    model = of_kind("eps")
    tight, found = tightened(model, codes, None, target=3.5, first_level="gaussian")
    curve = {row["steps"]: row["bits_per_dim"] for row in found.details["curve"]}
    K = found.details["steps"]
    assert tight.steps == K and curve[K] <= 3.5 and all(bits > 3.5 for k, bits in curve.items() if k < K)
    with pytest.raises(UsageError, match=r"a bound of 0\.01 bits/dim") as refused:
        tightened(model, codes, None, target=0.01)
    assert "at best" in refused.value.hint


def test_nonsense_is_refused(codes, tmp_path):
    model = of_kind("eps")
    for options, words in (
        ({"steps": 0}, "0 steps"),
        ({"steps": 41}, "41 steps of a model that has 40"),
        ({"steps": 5, "target": 3.0}, "give one of them"),
        ({"steps": 5, "first_level": "contxt"}, "did you mean 'context'"),
        ({"steps": 5, "target": math.nan}, "target=nan is not finite"),
        ({"steps": 5, "out": tmp_path / "x"}, "callable that a folder cannot hold"),
    ):
        with pytest.raises(nelbo.NelboError, match=words):
            nelbo.tighten(model, codes, **options)
    assert not (tmp_path / "x").exists()


PLUGIN = """
import torch, nelbo
from tests.tightening.test_tighten import Net
SHIFT = 0.0
def model():
    net = Net()
    with torch.no_grad():
        net.out.bias += SHIFT
    return nelbo.from_callable(net, schedule=nelbo.schedules.linear(20, 1e-3, 0.4),
                               domain=nelbo.DataDomain((1, 6, 6), bins=8))
"""


def test_a_tightened_plugin_is_kept_by_its_name(codes, tmp_path, monkeypatch):
    (tmp_path / "tight_plugin.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    tight, _ = tightened("tight_plugin:model", codes, 4, out="kept")
    again = nelbo.load("kept", trust_code=True)
    assert again.fingerprint() == tight.fingerprint() and again.steps == 4
    assert certificates.read(tmp_path / "kept" / "certificate.json")["model"]["after"] == tight.fingerprint()
    assert (tmp_path / "kept" / "model.safetensors").stat().st_size < 150_000  # the fit alone
    import tight_plugin

    tight_plugin.SHIFT = 1.0
    with pytest.raises(ModelFolderError, match="other weights"):
        nelbo.load("kept", trust_code=True)
