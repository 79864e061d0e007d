"""`nelbo.evaluate` of models of symbols: the right number with its error, units, given places, and what is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import nelbo
from nelbo.bound.checks import NelboWarning
from nelbo.errors import DomainError, NelboError, ShapeError, UnknownNameError, UsageError
from nelbo.typing import Json
from tests.bound.workers import on_two
from tests.model.tokens import checks

V, LENGTH = 3, 24
DATA = checks.markov(LENGTH)
X = DATA.sample(80, seed=1)
EXACT = DATA.model()


def network(z: torch.Tensor) -> torch.Tensor:
    return EXACT.denoiser(z, z == V, None)


def model(fn=network, **settings) -> nelbo.TokenModel:
    given = {"vocabulary": V, "length": LENGTH, "kernel": nelbo.tokens.absorbing(mask=V), **settings}
    return nelbo.tokens.from_callable(fn, **given)


def test_the_exact_network():
    nll = -DATA.log_prob(X)
    bound = nelbo.evaluate(model(), X, tolerance=0.02, seed=3)
    exact = float(nll.mean()) / LENGTH / math.log(2)
    assert abs(bound.bits_per_dim - exact) < 4 * bound.standard_error.estimator <= 4 * 0.02
    assert bound.nfe_total < 10 * len(X) and not bound.warnings
    assert bound.terms.prior.bits_per_dim == 0 and bound.terms.reconstruction.bits_per_dim == 0
    assert sum(level.bits_per_dim for level in bound.levels) == pytest.approx(bound.bits_per_dim, rel=0.02)
    assert bound.levels[-1].t == 1 and bound.levels[-1].evaluations == 1  # one evaluation for all sequences
    rows = nelbo.evaluate(model(), X, tolerance=0.01, per_example=True, seed=3).per_example
    assert 0.6 < honest(rows, nll) < 1.5


def honest(rows, nll: torch.Tensor) -> float:
    """The mean square of the errors of single sequences over what their standard errors say."""
    return float((rows.nats - nll).square().mean() / rows.standard_error.square().mean())


def units_of(bound: nelbo.Bound) -> Json:
    assert bound.units is not None
    return bound.units


def test_units():
    examples = nelbo.Examples(X, facts={"bytes": 4000})
    bound = nelbo.evaluate(model(), examples, tolerance=0.05)
    units, error = units_of(bound), bound.standard_error.total
    assert units["nats_per_token"]["value"] == pytest.approx(bound.bits_per_dim * math.log(2))
    assert units["perplexity"]["value"] == pytest.approx(2**bound.bits_per_dim)
    assert units["perplexity"]["standard_error"]["total"] == pytest.approx(2**bound.bits_per_dim * error * math.log(2))
    assert units["bits_per_byte"]["value"] == pytest.approx(bound.bits_per_dim * X.numel() / 4000)
    document = json.loads(json.dumps(bound.to_dict()))
    assert document["units"]["bits_per_token"]["value"] == bound.bits_per_dim
    again = nelbo.Bound.from_dict(document)
    assert again.units == units and str(again) == str(bound)
    assert "perplexity" in str(bound) and "bits/token" in repr(bound) and bound.to_frame is not None
    assert nelbo.evaluate(model(), X, tolerance=0.05).to_dict()["units"]["bits_per_byte"] is None


def test_given_places():
    """A prompt, or padding: the bound is −log p of the rest given it, of sequences with other numbers of places too."""
    table = checks.enumerated("markov")
    x = table.sample(60, seed=2)
    exact = table.model()
    prompt = torch.zeros(60, 4, dtype=torch.bool)
    prompt[:30, 0], prompt[30:, 2:] = True, True
    nll = torch.tensor([conditional(table, row, given) for row, given in zip(x, prompt, strict=True)])
    for given, scored in ((prompt, None), (None, ~prompt)):
        bound = nelbo.evaluate(exact, x, tolerance=0.05, per_example=True, prompt=given, mask=scored)
        rows = bound.per_example
        assert rows is not None
        assert 0.5 < honest(rows, nll) < 1.8
        assert bound.data["tokens"] == int((~prompt).sum())
        assert bound.data["law"] == ("p(x | given places)" if scored is None else "p(x | length)")
        total = float(rows.nats.sum()) / bound.data["tokens"] / math.log(2)
        assert bound.bits_per_dim == pytest.approx(total)
    # the error of the data is that of the ratio Σ nats/Σ places, also where no example was looked at by itself
    places = (~prompt).sum(1).double()
    residual = nll - nll.sum() / places.sum() * places
    expected = float(residual.std()) / math.sqrt(60) / float(places.mean()) / math.log(2)
    pooled = nelbo.evaluate(exact, x, tolerance=0.03, estimator="pooled", prompt=prompt, max_nfe=3000)
    assert pooled.standard_error.data == pytest.approx(expected, rel=0.2)
    assert bound.standard_error.data == pytest.approx(expected, rel=0.1)
    first = nelbo.evaluate(exact, x[:20], tolerance=0.2, prompt=1)
    assert first.data["tokens"] == 60
    even = prompt[:1].expand(60, -1)  # as many places for all, and another input where all of them are hidden
    bound = nelbo.evaluate(exact, x, tolerance=0.05, prompt=even, limit=40)
    expected = np.mean([conditional(table, row, prompt[0]) for row in x[:40]]) / 3 / math.log(2)
    assert abs(bound.bits_per_dim - expected) < 4 * bound.standard_error.estimator


def conditional(table, x: torch.Tensor, given: torch.Tensor) -> float:
    """−log p(x | given places) from the joint."""
    every = table.sequences
    alike = (every[:, given] == x[given]).all(1)
    return float(table.joint.flatten()[alike].sum().log() - table.joint[tuple(x)].log())


def test_chains_of_times():
    """A network that is told the time: the continuous bound; uniform noise; a table of steps."""
    timed = model(lambda z, t: network(z), time="unit", schedule=nelbo.tokens.cosine())
    exact = float(-DATA.log_prob(X).mean()) / LENGTH / math.log(2)
    bound = nelbo.evaluate(timed, X, tolerance=0.03)
    assert abs(bound.bits_per_dim - exact) < 4 * bound.standard_error.estimator
    assert bound.description["grid"]["over"] == "times"
    matched = model(
        lambda z, t: network(z), time="sigma", schedule=nelbo.tokens.linear(0.01), prior="matched",
        grid=nelbo.grids.even(8),
    )  # fmt: skip
    prior = nelbo.evaluate(matched, X, tolerance=0.05).terms.prior.bits_per_dim
    assert prior == pytest.approx(0.01 * math.log2(V))
    noised = DATA.model(nelbo.tokens.uniform(), schedule=nelbo.tokens.linear(0.01))
    bound = nelbo.evaluate(noised, X, tolerance=0.1, max_nfe=1500)
    assert bound.bits_per_dim > exact - 4 * bound.standard_error.estimator


def test_a_coarser_chain_costs_more():
    whole, coarse = (
        nelbo.evaluate(model(), X, tolerance=0.02, grid=nelbo.grids.even(K)).bits_per_dim for K in (LENGTH, 2)
    )
    assert coarse > whole + 0.1


def test_networks_that_cannot_be_trusted_are_refused():
    state = {"calls": 0}

    def changing(z: torch.Tensor) -> torch.Tensor:
        state["calls"] += 1
        return network(z).clamp(min=-20) * (1 + 0.5 * state["calls"])

    with pytest.raises(UsageError, match="answers differently when it is asked twice"):
        nelbo.evaluate(model(changing), X)
    with pytest.raises(UsageError, match="depends on the others of its batch"):
        nelbo.evaluate(model(lambda z: network(z).clamp(min=-20) * len(z)), X)
    with pytest.warns(NelboWarning, match="declared stochastic"):
        nelbo.evaluate(model(stochastic=True), X, tolerance=0.1)


def test_worse_than_none():
    with pytest.warns(NelboWarning, match=r"worse than none: .* a uniform law over the vocabulary has 1\.585"):
        nelbo.evaluate(model(lambda z: -3 * network(z).clamp(min=-9)), X, tolerance=0.2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nelbo.evaluate(model(), X[:, :5]), ShapeError, "24"),
        (lambda: nelbo.evaluate(model(kernel=nelbo.tokens.absorbing(mask=1)), X), DomainError, "holds the mask"),
        (lambda: nelbo.evaluate(model(), X, prompt=X > 9, precision="float8"), UnknownNameError, "precision"),
        (lambda: nelbo.evaluate(model(), X, overrides=nelbo.Overrides(clip=True)), UsageError, "clip"),
        (lambda: nelbo.compare(model(), model(), X), UsageError, "one of images"),
        (lambda: model(kernel="absorbing"), UsageError, "absorbing"),
        (lambda: model(schedule="cosine"), UsageError, "cosine"),
        (lambda: model(fn=3), UsageError, "int"),
        (lambda: model(prior="mask"), UnknownNameError, "matched"),
        (lambda: nelbo.tokens.matrix(torch.eye(3)), DomainError, "number of its steps"),
        (lambda: nelbo.tokens.matrix([[-1.0, 0.5], [1.0, -1.0]]), DomainError, "sum to 0"),
    ],
)
def test_nonsense_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_trained_on():
    with pytest.warns(NelboWarning, match="2 of 80 examples are among those"):
        nelbo.evaluate(model(trained_on=X[3:5]), X, tolerance=0.2)


def test_the_command(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from nelbo.cli.main import app

    (tmp_path / "symbols.py").write_text(
        "import torch, nelbo\n\n"
        "def model():\n"
        "    fn = lambda z: torch.zeros(*z.shape, 3)\n"
        "    return nelbo.tokens.from_callable(fn, vocabulary=3, length=24, kernel=nelbo.tokens.absorbing(mask=3))\n"
    )
    np.savez(tmp_path / "x.npz", tokens=X.numpy())
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["evaluate", "symbols:model", "--data", "x.npz#tokens", "--json"])
    assert done.exit_code == 0, done.output
    bound = json.loads(done.stdout)
    assert bound["bits_per_dim"] == pytest.approx(math.log2(3)) and bound["kernel"] == {"kind": "absorbing", "mask": 3}
    assert CliRunner().invoke(app, ["info", "symbols:model"]).exit_code == 0
    places = np.arange(24) < np.arange(80)[:, None] % 12
    np.savez(tmp_path / "x.npz", tokens=X.numpy(), given=places, lengths=24 - np.arange(80) % 5)
    how = ["--prompt", "given", "--mask", "lengths", "--per-example", "rows.csv", "--surprisal", "surprisal.json"]
    done = CliRunner().invoke(app, ["evaluate", "symbols:model", "--data", "x.npz#tokens", *how, "--json"])
    assert done.exit_code == 0, done.output
    scored = ~places & (np.arange(24) < 24 - np.arange(80)[:, None] % 5)
    second = json.loads(done.stdout)
    assert second["data"]["tokens"] == scored.sum() and second["data"]["law"] == "p(x | length, given places)"
    head, *lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert head == "index,nats,standard_error,prior,diffusion,reconstruction,tokens" and len(lines) == 80
    rows = np.array([[float(v) for v in line.split(",")] for line in lines])
    assert np.array_equal(rows[:, -1], scored.sum(1))
    assert np.isclose(rows[:, 1] / rows[:, -1], math.log(3), rtol=0.2).all()
    done = CliRunner().invoke(app, ["evaluate", "symbols:model", "--data", "x.npz#tokens", "--prompt", "20", "--json"])
    assert json.loads(done.stdout)["data"]["tokens"] == 4 * 80
    for wrong in (["--prompt", "24"], ["--prompt", "nothing"], ["--mask", "24"], ["--prompt", "-1"]):
        done = CliRunner().invoke(app, ["evaluate", "symbols:model", "--data", "x.npz#tokens", *wrong])
        assert isinstance(done.exception, NelboError)
    places = json.loads((tmp_path / "surprisal.json").read_text())["sequences"]
    assert len(places) == 8 and [p["nats"] is not None for p in places[7]] == scored[7].tolist()
    assert all(p["nats"] == pytest.approx(math.log(3)) for p in places[7] if p["nats"] is not None)
    (tmp_path / "bound.json").write_text(json.dumps(bound))
    assert CliRunner().invoke(app, ["report", ".", "--out", "page.html"]).exit_code == 0
    page = (tmp_path / "page.html").read_text()
    assert "bits on each of the 24 symbols of an example" in page and "What every symbol costs" in page
    assert "bits/token per unit" in page and "In other units: a perplexity of 3" in page
    assert CliRunner().invoke(app, ["sample", "symbols:model", "-n", "5", "--out", "y.npz"]).exit_code == 0
    assert np.load("y.npz")["samples"].shape == (5, 24)
    assert CliRunner().invoke(app, ["sample", "symbols:model", "-n", "1", "--out", "y.png"]).exit_code != 0


def test_bits_a_byte_of_a_text(tmp_path):
    """From the text's own bytes, of the places that are scored; not where only those of all of them are known."""
    (tmp_path / "some.txt").write_text("éa" * 40)
    fn = lambda z: torch.zeros(*z.shape, 2)  # noqa: E731
    flat = nelbo.tokens.from_callable(fn, vocabulary=2, length=8, kernel=nelbo.tokens.absorbing(mask=2))
    data = f"text:{tmp_path / 'some.txt'}#length=8#tokenizer=chars"
    bound = nelbo.evaluate(flat, data)
    assert units_of(bound)["bits_per_byte"]["value"] == pytest.approx(80 / 120)
    prompt = torch.zeros(10, 8, dtype=torch.bool)
    prompt[:, 0] = True
    of_a_byte = units_of(nelbo.evaluate(flat, data, prompt=prompt))["bits_per_byte"]
    assert of_a_byte["value"] == pytest.approx(70 / 100)  # without ten times é
    known = nelbo.Examples(nelbo.data.read(data).data, facts={"bytes": 120})
    assert units_of(nelbo.evaluate(flat, known, prompt=prompt))["bits_per_byte"] is None


def test_batches_workers_and_a_kill_change_nothing(tmp_path):
    def evaluated(**how) -> nelbo.Bound:
        return nelbo.evaluate(EXACT, X, tolerance=0.05, precision="float64", **how)

    whole = evaluated()
    assert evaluated(batch_size=7).bits_per_dim == pytest.approx(whole.bits_per_dim, rel=1e-12)
    for bound in on_two(lambda workers: evaluated(workers=workers, batch_size=40))[0]:
        assert bound.bits_per_dim == pytest.approx(whole.bits_per_dim, rel=1e-12)
        assert bound.nfe_total == whole.nfe_total

    class Killed(Exception):
        """Nothing that the engine knows."""

    def kill(done: int, planned: int) -> None:
        if done > whole.nfe_total // 2:
            raise Killed

    state = tmp_path / "state"
    with pytest.raises(Killed):
        evaluated(state=state, progress=kill, batch_size=16)
    again = evaluated(state=state, batch_size=16)
    assert again.bits_per_dim == pytest.approx(whole.bits_per_dim, rel=1e-12) and again.nfe_total == whole.nfe_total
    with pytest.raises(UsageError, match="state"):
        evaluated(state=state, batch_size=16, prompt=X == 0)
