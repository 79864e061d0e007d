"""Tightening of models of symbols: a known fault is undone, what cannot help is not kept, steps are the best ones."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

import nelbo
from nelbo.bound.tokens import evaluate as bounds
from nelbo.cli.main import execute
from nelbo.codec.compress import compress
from nelbo.codec.decompress import decompress
from nelbo.errors import DomainError, UsageError
from nelbo.model.tokens.calibration import Calibration, NGramTable, Surroundings
from nelbo.model.tokens.model import TokenModel
from nelbo.process.tokens import counts
from nelbo.process.tokens.kernel import Absorbing, Uniform
from nelbo.process.tokens.survival import Linear
from nelbo.tightening.tokens import steps
from nelbo.tightening.tokens.answers import Answers, ask
from nelbo.tightening.tokens.fit import calibrated, fitted
from tests.codec.tokens import test_sequences as sequences
from tests.model.tokens import checks, folders

L = 12
DATA = checks.markov(L)
EXACT = DATA.model()
TILT = torch.tensor([0.0, 0.7, -0.4], dtype=torch.float64)


def blunt(z: torch.Tensor) -> torch.Tensor:
    """Half of the exact logits and a bias: a temperature of 1/2 and twice the opposite bias make it exact."""
    return 0.5 * EXACT.denoiser(z, z == 3, None) + TILT


def constant(z: torch.Tensor) -> torch.Tensor:
    return torch.zeros(*z.shape, 3)


def masked(network) -> TokenModel:
    return nelbo.tokens.from_callable(network, vocabulary=3, length=L, kernel=Absorbing(3))


def asked(model: TokenModel, n: int, seed: int = 0, ngrams: NGramTable | None = None) -> Answers:
    return ask(bounds.prepare(model, DATA.sample(n, seed)).chain, None, ngrams)


def test_a_known_fault_is_undone():
    """The fit finds the inverse of what was done to the exact network, and its costs are then those of −log p(x)."""
    model = masked(blunt)
    start = Calibration(torch.tensor([1.0, 0.0, 0.0]), torch.zeros(3))
    found = fitted(model, asked(model, 100), start)
    assert found.bias is not None
    bias = found.bias - found.bias[0]
    assert torch.allclose(found.coefficients, torch.tensor([2.0, 0.0, 0.0]).double(), atol=0.4)
    assert torch.allclose(bias, -2 * TILT, atol=0.4)
    others = asked(model, 60, 1)
    exact = Calibration(torch.tensor([2.0]), -2 * TILT)
    per_sequence = others.costs(model, exact)
    gap = per_sequence + DATA.log_prob(DATA.sample(60, 1))
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / 60**0.5  # a quarter of the chain's steps: not each by itself
    assert float((others.costs(model, found) - per_sequence).mean()) < 0.2
    assert float((others.costs(model, None) - per_sequence).mean()) > 1


def test_what_cannot_help_is_not_kept():
    """Of an exact network every part is tried, and none is."""
    table = NGramTable.of(DATA.sample(60, 5), 3)
    kept, trials = calibrated(EXACT, *(asked(EXACT, 60, s, table) for s in (0, 1)), table)
    assert not kept
    assert [t.name for t in trials] == ["temperature", "temperature along the chain", "bias of symbols", "n-grams"]


def test_ngrams_say_what_the_tables_hold():
    """The law of n-grams is that of `NGrams.nll`, symbol by symbol, for every pattern of visible neighbours."""
    x = DATA.sample(40, 2)
    tables = NGramTable.of(DATA.sample(80, 3), 3).tables
    for pattern in range(16):
        hidden = torch.zeros(len(x), L).bool()
        hidden[:, 5] = True
        for k, offset in enumerate(tables.offsets):
            hidden[:, 5 + offset] = not pattern >> k & 1
        near = torch.stack([counts.shifted(x, offset, False)[:, 5] for offset in tables.offsets], 1)
        law = tables.log_law(counts.patterns(hidden, tables.offsets)[:, 5], near)
        of_symbol = law.gather(1, x[:, 5:6])[:, 0]
        assert torch.allclose(-of_symbol, tables.nll(x)[:, 5, pattern], atol=1e-12)
        assert torch.allclose(law.exp().sum(1), torch.ones(()).double(), atol=0.02)


def test_a_mixture_with_ngrams_makes_up_for_a_network_that_says_nothing():
    """Neighbours tell all of a Markov chain's symbol that visible places tell, where both neighbours are visible."""
    model, table = masked(constant), NGramTable.of(DATA.sample(400, 7), 3)
    fit, choice = (asked(model, 80, s, table) for s in (0, 1))
    kept, _ = calibrated(model, fit, choice, table)
    assert kept[-1][0] == "n-grams"
    gain = choice.costs(model, None).mean() - choice.costs(model, kept[-1][1].calibration).mean()
    best = choice.costs(model, None).mean() + DATA.log_prob(DATA.sample(80, 1)).mean()
    assert 0.7 * best < gain < 1.1 * best


def test_a_calibration_is_a_law():
    """It sums to 1, keeps what has no probability, and changes nothing where it is the identity."""
    log_p = torch.tensor([[0.2, 0.8, 0.0], [0.5, 0.3, 0.2]], dtype=torch.float64).log()
    near = Surroundings(torch.tensor([0.25, 1.0]))
    law = Calibration(torch.tensor([1.5, -0.2]), torch.tensor([0.1, 0.0, 2.0])).law(log_p, near)
    assert torch.allclose(law.exp().sum(1), torch.ones(2).double()) and law[0, 2] == -torch.inf
    odds = law[1, 0] - law[1, 1]  # at u = 1, β = 1.5 − 0.2
    assert float(odds) == pytest.approx(1.3 * float(log_p[1, 0] - log_p[1, 1]) + 0.1)
    assert torch.allclose(Calibration(torch.ones(1)).law(log_p, near), log_p)
    with pytest.raises(DomainError, match="do not fit each other"):
        Calibration(torch.ones(1), weights=torch.zeros(16))
    with pytest.raises(DomainError, match="a vocabulary of 4"):
        Calibration(torch.ones(1), torch.zeros(3)).check(4, True)


def test_a_plug_in_of_a_denoiser_is_converted():
    """The mixture of the exact posterior is the plug-in of its leave-one-out law, and far better than the posterior's
    own plug-in."""
    schedule = Linear(0.02)
    model = DATA.model(Uniform(), schedule=schedule, grid=nelbo.grids.even(8), reverse="plug_in")
    kept, trials = calibrated(model, asked(model, 24), asked(model, 24, 1), None)
    assert trials[0].name == "leave-one-out conversion" and trials[0].kept
    assert kept[0][1].reverse.rule == "mixture"
    right = DATA.model(Uniform(), schedule=schedule, grid=nelbo.grids.even(8), reverse="plug_in", law="leave_one_out")
    x = DATA.sample(6, 3)
    pair = [nelbo.evaluate(m, x, estimator="exhaustive", per_example=True) for m in (kept[0][1], right)]
    assert torch.allclose(pair[0].per_example.nats, pair[1].per_example.nats, atol=1e-9)


def test_chosen_steps_are_the_cheapest():
    """Of all chains over 7 places, by enumeration; and a profile that only rises is that of least squares."""
    g = np.array([0.1, 0.1, 0.3, 1.0, 1.1, 1.1, 2.0])
    for K in range(1, 8):
        chains = [[*c, 7] for c in itertools.combinations(range(1, 7), K - 1)]
        least = min(chains, key=lambda c: steps.cost_of(g, c))
        found, cost = steps.best_counts(g, K)
        assert steps.cost_of(g, found) == pytest.approx(cost) == pytest.approx(steps.cost_of(g, least))
    noisy = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    assert steps.isotonic(noisy).tolist() == [2.0, 2.0, 2.0, 4.5, 4.5]
    drawn = np.arange(200) % 50 + 1
    costs = np.sqrt(drawn / 50) + 0.3 * np.random.default_rng(0).standard_normal(200)
    rising = steps.profile(drawn, costs, 60)
    assert (np.diff(rising) >= 0).all() and abs(rising[4:50] - np.sqrt(np.arange(5, 51) / 50)).max() < 0.12


def test_what_cannot_be_tightened_is_refused():
    x = DATA.sample(80)
    with pytest.raises(UsageError, match="13 steps for 12 places"):
        nelbo.tighten(EXACT, x, 13)
    timed = DATA.model(Uniform(), schedule=Linear(0.02), grid=nelbo.grids.even(4))
    with pytest.raises(UsageError, match="4 steps for a chain that has times"):
        nelbo.tighten(timed, x, 4)
    with pytest.raises(UsageError, match="reveals block by block"):
        nelbo.tighten(nelbo.tokens.from_callable(blunt, vocabulary=3, length=L, kernel=Absorbing(3), block=3), x)
    with pytest.raises(UsageError, match="of a model of symbols"):
        nelbo.tighten(EXACT, x, target=1.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the model does not say", "ignore:only", "ignore:n-grams are not tried")
def test_a_tightened_model_is_one_like_any_other(tmp_path):
    """Written, read, evaluated, sampled, coded and described; its certificate adds up and is read again."""
    place = torch.arange(folders.L)
    x = torch.stack([place * (k % 2) + k // 7 for k in range(160)]).remainder(3)
    x = (x + (torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.3).long()).remainder(3)
    model, out = folders.make("counts"), tmp_path / "tight"
    tight, certificate = nelbo.tighten(model, x[:100], 2, corpus=x[100:], out=out, progress=False)
    assert tight.calibration is not None and certificate.gain[0] > 3 * certificate.gain[1]
    names = [stage.name for stage in certificate.stages]
    assert names[0] == "the model as it was" and names[-2:] == ["2 even steps", "2 chosen steps"]
    tried = certificate.details["calibration"]["tried"]
    assert [f"+ {t['name']}" for t in tried if t["kept"]] == names[1:-2]
    loaded = nelbo.load(out)
    assert isinstance(loaded, TokenModel)
    assert loaded.fingerprint() == tight.fingerprint() != model.fingerprint()
    assert loaded.describe()["calibration"] == tight.calibration.to_config()
    assert loaded.parameters > model.parameters
    pair = [nelbo.evaluate(m, x[:20], estimator="exhaustive").bits_per_dim for m in (tight, loaded)]
    assert pair[0] == pair[1]
    assert torch.equal(nelbo.sample(loaded, 5, seed=1), nelbo.sample(tight, 5, seed=1))
    compress(loaded, x[:30], tmp_path / "x.nelbo")
    assert torch.equal(decompress(tight, tmp_path / "x.nelbo"), x[:30])
    assert execute(["report", str(out), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "bits/token" in page and "2 chosen steps" in page and "temperature along the chain" in page
    assert "bits/token" in certificate._repr_html_()
    document = certificate.to_dict()
    read = type(certificate).load(out / "certificate.json")
    assert read.to_dict() == document and "bits/token" in str(read)


@pytest.mark.slow
def test_a_file_is_as_long_as_the_calibrated_chain_says(tmp_path):
    """Coded under temperature, bias and n-grams: the chain rule's length of the same orders, to 0.1 %."""
    mixed = Calibration(torch.tensor([1.5, 0.1]), TILT, torch.full((16,), 0.3), NGramTable.of(DATA.sample(200, 7), 3))
    model = replace(EXACT, calibration=mixed)
    x = DATA.sample(100, 4)
    result, bits = sequences.written(model, x, tmp_path), sequences.chain_rule(model, x)
    assert result.net_bits == pytest.approx(bits, rel=1e-3)
    assert abs(sequences.chain_rule(EXACT, x) / bits - 1) > 0.05
