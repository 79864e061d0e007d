"""Answers to prompts: an enumerated model knows the right ones exactly, and pairs of them have less noise."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import nelbo
from nelbo.bound.tokens.options import OptionChain
from nelbo.errors import ShapeError, UsageError
from nelbo.model.exact.tokens import TokenData
from nelbo.model.tokens.calibration import Calibration
from nelbo.model.tokens.model import TokenModel
from nelbo.process.tokens.kernel import Absorbing, Uniform
from nelbo.process.tokens.survival import Linear
from tests.bound.tokens import oracles
from tests.model.tokens.checks import markov

L = 4
DATA = TokenData(torch.rand(3, 3, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 3)
EXACT = DATA.model()
LETTERS = "abc"


def network(z: torch.Tensor) -> torch.Tensor:
    """The exact law of a place of the first n of L places, whatever follows them."""
    longer = torch.full((len(z), L), 3)
    longer[:, : z.shape[1]] = z
    return EXACT.denoiser(longer, longer == 3, None)[:, : z.shape[1]]


def model(fn=network) -> TokenModel:
    made = nelbo.tokens.from_callable(fn, vocabulary=3, length=L, kernel=Absorbing(3))
    return dataclasses.replace(made, provenance={"data": {"tokenizer": "chars", "alphabet": LETTERS}})


def log_p(prompt: str, answer: str) -> float:
    """log p(answer | prompt), by sums of the joint over whatever follows."""
    one, other = (float(DATA.joint[tuple(LETTERS.index(c) for c in t)].sum()) for t in (prompt + answer, prompt))
    return math.log(one / other)


PROMPTS = ["", "a", "bc", "ca", "b"]
ANSWERS = ["a", "ba", "cb", "c"]
NLL = torch.tensor([[-log_p(p, a) for a in ANSWERS] for p in PROMPTS], dtype=torch.float64)


def test_an_enumerated_model_knows_the_right_answers(tmp_path):
    """Of any length, of texts or symbols, exactly: sums over an answer, given the prompt."""
    right = NLL.argmin(1)
    found = nelbo.contrast(model(), PROMPTS, "answer", ANSWERS, labels=right, confidence=None, tolerance=0.1)
    assert torch.allclose(found.difference, NLL - NLL.min(1, keepdim=True).values, atol=1e-9)
    assert torch.equal(found.best, right) and found.accuracy == 1.0 and found.values == tuple(ANSWERS)
    assert found.accuracy_error == {"estimator": 0.0, "data": 0.0, "total": 0.0}
    assert found.lengths is not None and found.lengths.tolist() == [[1, 2, 2, 1]] * 5
    assert float(found.standard_error.max()) < 1e-9
    as_symbols = [[[LETTERS.index(c) for c in a] for a in ANSWERS] for _ in PROMPTS]
    prompts = [torch.tensor([LETTERS.index(c) for c in p], dtype=torch.long) for p in PROMPTS]
    again = nelbo.contrast(model(), prompts, "answer", as_symbols, labels=right - 1, max_nfe=2000)
    assert torch.equal(again.best, right) and again.values == (0, 1, 2, 3)
    assert again.accuracy == 0.0 and again.accuracy_error is not None
    again.save(tmp_path / "answers.json")
    assert nelbo.Contrast.load(tmp_path / "answers.json").to_dict() == again.to_dict()


def test_an_order_takes_as_many_evaluations_as_it_has_symbols():
    """What is counted is what the network was asked."""
    asked = []

    def counting(z: torch.Tensor) -> torch.Tensor:
        asked.append(len(z))
        return network(z)

    found = nelbo.contrast(model(counting), PROMPTS, "answer", ANSWERS, confidence=None, tolerance=0.1)
    trial = found.nfe_total - sum(asked)
    assert abs(trial) <= 6 and found.nfe_total > 5 * 6 * 8


def test_answers_to_one_prompt_share_their_orders():
    """Of a network whose orders differ: unbiased, and a pair has less noise than two answers by themselves."""
    flat = dataclasses.replace(EXACT, calibration=Calibration(torch.tensor([0.3])))
    rows = [torch.tensor([0, 1, 0, 2]), torch.tensor([0, 1, 0, 1])]
    exact, n = [oracles.by_orders(flat, row.tolist()) for row in rows], 200
    values, _ = OptionChain.of(flat, [rows[0]] * n + [rows[1]] * n, [0] * 2 * n).scores(2)
    for v, e in zip(values.reshape(2, n), exact, strict=True):
        assert abs(float(v.mean()) - e) < 4 * float(v.std()) / n**0.5
    chain = markov(9)
    flat = dataclasses.replace(chain.model(), calibration=Calibration(torch.tensor([0.3])))
    one = chain.sample(1, seed=4)[0]
    other, spread = torch.cat([one[:-1], (one[-1:] + 1) % 3]), []
    for keys in (torch.arange(60).repeat(2), torch.arange(120)):
        values, _ = OptionChain.of(flat, [one] * 60 + [other] * 60, [1] * 120, keys=keys).scores(2)
        a, b = values.reshape(2, 60)
        spread.append(float((a - b).var()))
    assert spread[0] < 0.5 * spread[1]


def test_other_chains_reveal_answers_as_they_do():
    """In two steps, told the time with a matched prior: the mean cost of an order is the bound of the answer."""
    data = markov(3)
    x = data.sample(1, seed=2)[0]
    steps = data.model(grid=nelbo.grids.even(2))
    chain = OptionChain.of(steps, [x] * 400, [0] * 400)
    values, _ = chain.scores(2)
    bound = nelbo.evaluate(steps, x[None], estimator="exhaustive", per_example=True)
    assert bound.per_example is not None
    error = float(values.std()) / 20
    assert abs(float(values.mean() - bound.per_example.nats[0])) < 4 * math.hypot(
        error, float(bound.per_example.standard_error[0])
    )
    assert chain.prices.tolist() == [2] * 400


def test_a_prompt_that_does_not_fit_loses_its_beginning():
    with pytest.warns(UserWarning, match="the beginning of 1 prompts is left out"):
        found = nelbo.contrast(model(), ["abc", "a"], "answer", ["ba", "c"], confidence=None, tolerance=0.1)
    kept = torch.tensor([[-log_p(p, a) for a in ("ba", "c")] for p in ("bc", "a")], dtype=torch.float64)
    assert torch.allclose(found.difference, kept - kept.min(1, keepdim=True).values, atol=1e-9)


WRONG = {
    "an answer alone is too long": (ShapeError, "of 5 symbols", {"values": ["abcab", "a"]}),
    "an empty answer": (ShapeError, "has no symbol", {"values": ["a", ""]}),
    "no answers": (UsageError, "lists of 0 answers", {"values": []}),
    "unequal numbers": (UsageError, "1 or 2 answers", {"values": [["a"], ["a", "b"]]}),
    "labels of another number": (UsageError, "for 2 prompts", {"values": ["a", "b"], "labels": [1]}),
    "numbers that are real": (UsageError, "a text, or whole numbers", {"values": [[0.5], [1.5]]}),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(name):
    error, match, how = WRONG[name]
    with pytest.raises(error, match=match):
        nelbo.contrast(model(), ["a", "b"], "answer", **how)


def test_models_without_masks_are_refused():
    noised = DATA.model(Uniform(), schedule=Linear(0.1))
    with pytest.raises(UsageError, match="noised symbols"):
        nelbo.contrast(noised, [[0]], "answer", [[0, 1], [1, 1]])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*are not decided")
def test_the_error_of_an_accuracy_is_that_of_its_draws():
    """Over seeds: decisions from few orders vary as the stated error says."""
    table = oracles.model(Absorbing(2), 2, 3)
    prompts = [[k % 2] for k in range(12)]
    answers = [[[0, 1], [1, 0]]] * 12
    runs = [
        nelbo.contrast(table, prompts, "answer", answers, labels=[0] * 12, max_nfe=900, seed=seed, confidence=0.6)
        for seed in range(60)
    ]
    observed = torch.tensor([run.accuracy for run in runs]).std()
    stated = torch.tensor([run.accuracy_error["estimator"] for run in runs]).square().mean().sqrt()
    assert 0.5 < float(stated / observed) < 2.0
