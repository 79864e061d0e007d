"""Units of texts and their errors: of a ratio where sequences differ in length, by the delta method of perplexity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import nelbo
from nelbo.bound import units
from nelbo.bound.estimate import Spread, TermEstimate
from nelbo.data.windows import Cut, Stream, windows
from nelbo.errors import UsageError
from tests.model.tokens import checks

RNG = np.random.default_rng(0)


def population(n: int, sets: int):
    """Lengths and bounds of `sets` data sets of n sequences: nats about 1.2 a token, of very unequal lengths."""
    sizes = RNG.integers(1, 40, (sets, n)).astype(float)
    return sizes, 1.2 * sizes + RNG.normal(size=(sets, n)) * np.sqrt(sizes)


def test_the_error_of_a_ratio_is_its_spread_over_data_sets():
    sizes, nats = population(50, 4000)
    ratio = nats.sum(1) / sizes.sum(1)
    noise = RNG.normal(size=nats.shape) * 2  # of an estimate of every sequence, of variance 4
    of_sets = []
    for y, s in zip(nats[:200] + noise[:200], sizes[:200], strict=True):
        spread = Spread(torch.from_numpy(y), -4.0)
        of_sets.append(spread.of_ratio(y.mean(), torch.from_numpy(s)) / s.mean() ** 2)
    expected, found = ratio.std(), math.sqrt(np.mean(of_sets))
    assert found == pytest.approx(expected, rel=0.08)
    of_a_mean = math.sqrt(nats.var(1).mean() / 50) / sizes.mean()
    assert of_a_mean > 2 * expected  # what the spread of the bounds alone would say


def test_of_sequences_of_one_length_it_is_that_of_the_mean():
    values, variances = torch.rand(30, dtype=torch.float64) * 9, torch.full((30,), 0.3).double()
    term = TermEstimate.of(values, variances)
    assert term.over(torch.full((30,), 7)).data_variance == pytest.approx(term.data_variance)
    assert math.isnan(TermEstimate(1.0, 0.1, 0.2).over(torch.ones(3)).data_variance)
    assert math.isnan(TermEstimate.of(values[:1], variances[:1]).data_variance)


def test_perplexity_by_the_delta_method():
    """Its error is that of its value over repeated estimates, for each of the two errors."""
    errors = {"estimator": 0.02, "data": 0.05, "total": math.hypot(0.02, 0.05)}
    found = units.of_tokens(2.0, errors, {"tokens": 100, "bytes": 250, "bits_per_byte_error": 0.03})
    for name, error in errors.items():
        spread = np.std(2 ** (2.0 + error * RNG.normal(size=40_000)))
        assert found["perplexity"]["standard_error"][name] == pytest.approx(spread, rel=0.03)
    of_bytes = found["bits_per_byte"]["standard_error"]
    assert of_bytes["estimator"] == pytest.approx(0.008) and of_bytes["data"] == 0.03
    assert of_bytes["total"] == pytest.approx(math.hypot(0.008, 0.03))


def test_bits_a_byte_have_an_error_of_their_own():
    """Where a symbol is more bytes, it costs more: the ratio to bytes varies less than bits a symbol do."""
    torch.manual_seed(0)
    x = (torch.rand(40, 16) < 0.5 * torch.rand(40, 1)).long()
    widths = 1 + 2 * x
    logits = torch.tensor([0.0, -2.0])  # symbol 1 costs 2 nats more, and is 3 bytes
    model = nelbo.tokens.from_callable(
        lambda z: logits.expand(*z.shape, 2), vocabulary=2, length=16, kernel=nelbo.tokens.absorbing(mask=2)
    )
    data = nelbo.Examples(x, place_bytes=widths)
    bound = nelbo.evaluate(model, data, tolerance=0.02, estimator="stratified")
    nats = torch.where(x == 1, 2.0, 0.0).sum(1).double() + 16 * math.log1p(math.exp(-2))
    of_rows = widths.sum(1).double()
    residual = nats - nats.sum() / of_rows.sum() * of_rows
    expected = float(residual.std()) / math.sqrt(40) / float(of_rows.mean()) / math.log(2)
    found = bound.units["bits_per_byte"]
    assert found["value"] == pytest.approx(float(nats.sum() / of_rows.sum()) / math.log(2), rel=0.02)
    assert found["standard_error"]["data"] == pytest.approx(expected, rel=0.15)
    assert bound.standard_error.data * 16 * 40 / float(of_rows.sum()) > 1.5 * expected  # bytes a token taken as fixed
    again = nelbo.Bound.from_dict(bound.to_dict())
    assert again.units == bound.units and str(again) == str(bound)


@pytest.mark.parametrize("rows", [{"prompt": torch.ones(2, 3)}, {"mask": torch.ones(2, 2, dtype=torch.bool)},
                                  {"place_bytes": torch.ones(2, 3, dtype=torch.bool)}])  # fmt: skip
def test_rows_of_places_that_are_none(rows):
    with pytest.raises(UsageError, match=r"examples of shape \(2, 3\) with"):
        nelbo.Examples(torch.zeros(2, 3, dtype=torch.long), **rows)


@pytest.mark.parametrize("verb", [nelbo.evaluate, nelbo.ode_likelihood])
def test_models_of_images_know_no_places(verb):
    images = nelbo.exact.CategoricalData(torch.ones(3, 4)).model(nelbo.schedules.linear(9), nelbo.grids.full())
    codes = torch.ones(9, 3, dtype=torch.long)
    with pytest.raises(UsageError, match="given places of array with a model of images"):
        verb(images, nelbo.Examples(codes, prompt=codes > 0))


def test_rolling_windows_add_up_to_the_chain_rule():
    """Of a Markov chain the symbol before is all that a window needs: the windows' costs given their contexts sum to
    −log p of the whole stream."""
    whole = checks.markov(61)
    x = whole.sample(1, seed=4)
    for stride in (3, 11):
        made = windows([Stream(x[0].numpy())], Cut(12, stride), None, "a stream")
        assert made.prompt is not None  # there is context
        nats = 0.0
        for row, given in zip(made.data.long(), made.prompt, strict=True):
            nats -= float(checks.markov(12).log_prob(row[None]))
            if given.any():
                nats += float(checks.markov(int(given.sum())).log_prob(row[given][None]))
        assert nats == pytest.approx(-float(whole.log_prob(x)), abs=1e-9)


def test_names_of_symbols():
    assert [units.symbol({"tokenizer": t}) for t in ("bytes", "chars", "some.json")] == ["byte", "char", "token"]
