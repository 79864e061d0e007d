"""Shares of places in the bound: those of all orders, with honest errors; what symbols stand for."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch

import nelbo
from nelbo.bound.tokens.surprisal import _of_sequence
from nelbo.data.symbols import texts
from nelbo.errors import NumericalError, UsageError
from tests.bound.tokens import oracles


def by_orders(of: nelbo.TokenModel, x: list[int], scored: list[int]) -> np.ndarray:
    """What every place costs on average when the scored places are revealed one by one, over all orders."""
    total = np.zeros(len(x))
    orders = list(itertools.permutations(scored))
    for order in orders:
        for k, place in enumerate(order):
            z = [of.kernel.mask if i in order[k:] else v for i, v in enumerate(x)]  # type: ignore[attr-defined]
            total[place] -= oracles.log_law(of, z)[place, x[place]]
    return total / len(orders)


MODEL = oracles.model(nelbo.tokens.absorbing(mask=3), 3, 4)
X = torch.tensor([[0, 2, 1, 1]])


@pytest.mark.parametrize("prompt", [None, 1])
def test_they_are_the_mean_over_orders(prompt):
    found = nelbo.surprisal(MODEL, X, prompt=prompt, strata=3, repeats=200, precision="float64")
    exact = by_orders(MODEL, X[0].tolist(), [0, 1, 2, 3] if prompt is None else [1, 2, 3])
    error = found.standard_error[0]
    assert float(((found.nats[0] - torch.from_numpy(exact)).abs() / error.clamp_min(1e-12)).max()) < 4
    assert float(error.max()) < 0.2 and found.scored.sum() == (4 if prompt is None else 3)
    if prompt is None:
        assert exact.sum() == pytest.approx(oracles.by_orders(MODEL, X[0].tolist()))


def test_the_errors_are_those_of_repeats():
    prepared = nelbo.bound.tokens.evaluate.prepare(MODEL, X)
    values, spent = _of_sequence(prepared.chain, 0, 2, 150, None)
    few = nelbo.surprisal(MODEL, X.expand(80, -1), sequences=80, strata=2, repeats=4)
    assert few.nats.std(0) == pytest.approx(values.std(0) / 2, rel=0.25)
    mean = few.standard_error.square().mean(0).sqrt()
    assert mean == pytest.approx(values.std(0) / 2, rel=0.25)
    assert spent < 150 * 2 * 4


def test_of_independent_places_it_is_exact():
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
    found = nelbo.surprisal(nelbo.exact.ProductTokens(p).model(), torch.tensor([[0, 1, 1]]), mask=None)
    assert found.nats[0] == pytest.approx([math.log(2), math.log(10), -math.log(0.8)], abs=1e-6)
    document = json.loads(json.dumps(found.to_dict()))
    assert [place["text"] for place in document["sequences"][0]] == ["0", "1", "1"]
    assert document["nfe_total"] == found.evaluations and document["schema"] == "nelbo.surprisal/1"


def test_what_symbols_stand_for(tmp_path):
    raw = "a€é\n".encode() + b"\xff" + "é".encode()[:1]
    row = torch.tensor([list(raw)])
    assert texts(row, {"tokenizer": "bytes"}) == (("a", "€", "", "", "é", "", "\n", "\\xff", "\\xc3"),)
    assert texts(torch.tensor([[1, 0, 7]]), {"tokenizer": "chars", "alphabet": "ab"}) == (("b", "a", "7"),)
    assert texts(torch.tensor([[1, 0]]), {}) == (("1", "0"),)
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "cat": 1}, unk_token="[UNK]"))
    made.save(str(tmp_path / "t.json"))
    assert texts(torch.tensor([[1, 0]]), {"tokenizer": str(tmp_path / "t.json")}) == (("cat", "[UNK]"),)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (oracles.model(nelbo.tokens.absorbing(mask=3), 3, 4, grid=nelbo.grids.even(2)), {}),
        (oracles.model(nelbo.tokens.absorbing(mask=3), 3, 4, carry_over=False), {}),
        (oracles.model(nelbo.tokens.uniform(), 3, 4, schedule=nelbo.tokens.linear(0.1), grid=nelbo.grids.even(2)), {}),
        (MODEL, {"repeats": 1}),
        (MODEL, {"strata": 0}),
        (
            nelbo.exact.GaussianData(torch.zeros(2), torch.eye(2)).model(nelbo.schedules.linear(9), nelbo.grids.full()),
            {},
        ),
    ],
)
def test_what_has_none(model, settings):
    with pytest.raises(UsageError):
        nelbo.surprisal(model, X, **settings)


def test_a_cost_that_is_no_number():
    broken = nelbo.tokens.from_callable(
        lambda z: torch.full((*z.shape, 3), math.nan), vocabulary=3, length=4, kernel=nelbo.tokens.absorbing(mask=3)
    )
    with pytest.raises(NumericalError, match="sequence 0"):
        nelbo.surprisal(broken, X)
