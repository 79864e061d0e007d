"""Parts of the pooled design by themselves: draws of examples, cross-fitting, error bars."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nelbo.bound.planned import crossfit, error_bars
from nelbo.bound.planned.allocation import DesignPlan
from nelbo.bound.planned.laps import Folds, Repeats, credit, laps_of, random_examples
from nelbo.bound.planned.pooled import PooledDesign
from nelbo.bound.planned.regression import Features, TermFit

N = 120


def chances(kind: str) -> torch.Tensor:
    q = torch.ones(N, dtype=torch.float64)
    if kind == "unequal":
        q[:3] = torch.tensor([7.0, 2.5, 40.0], dtype=torch.float64)
    return q / q.sum()


@pytest.mark.parametrize("kind", ["equal", "unequal"])
def test_a_lap_has_every_example_about_as_often_as_it_should(kind):
    q = chances(kind)
    for lap in range(3):
        counts = torch.bincount(random_examples(0, q, 1, lap * N + torch.arange(N)), minlength=N)
        assert bool(((counts - N * q).abs() < 1 + 1e-9).all())


def test_every_draw_by_itself_has_the_stated_probabilities():
    """χ² over 1000 seeds, of the first draw and of one inside a lap: 6 classes, rejects beyond 4.5 in √2df."""
    q = chances("unequal")
    expected = torch.cat([q[:3], q[3:].reshape(3, -1).sum(1)]) * 1000
    for place in (0, 77):
        who = torch.tensor([int(random_examples(seed, q, 1, torch.tensor([place]))[0]) for seed in range(1000)])
        group = torch.where(who < 3, who, 3 + (who - 3) // ((N - 3) // 3))
        found = torch.bincount(group, minlength=6).double()
        chi = float(((found - expected).square() / expected).sum())
        assert chi < 5 + 4.5 * math.sqrt(10)


def test_error_bars_of_normal_draws_are_those_of_student():
    """For normal draws ν is their number, and the error bar is within a few per cent of t's."""
    values = torch.randn(4000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plain = float((values[:, 0] - values[:, 1]).square().sum()) / 4 / 4000**2
    _, variance, freedom, _ = error_bars.of_pairs([values], [4000], [1.0])
    assert freedom == pytest.approx(4000, rel=0.1)
    assert variance / plain == pytest.approx(1 + 2.42 / 4000, abs=1e-4)
    draws = values.flatten()
    value, variance, *_ = error_bars.of_draws([draws], [1.0])
    assert value == pytest.approx(float(draws.mean()))
    assert variance == pytest.approx(float(draws.var()) / 8000 * (1 + 2.42 / 8000), rel=1e-4)


def test_groups_are_averaged_by_their_shares():
    pairs = [torch.tensor([[1.0, 3.0]]).double(), torch.tensor([[0.0, 4.0], [2.0, 2.0]]).double()]
    value, variance, *_ = error_bars.of_pairs(pairs, [1, 2], [0.25, 0.75])
    assert value == pytest.approx(0.25 * 2 + 0.75 * 2)
    plain = 0.25**2 * 4 / 4 + 0.75**2 * 16 / 4 / 4
    assert variance == pytest.approx(plain * error_bars.widening(0))


def test_a_correction_finds_what_the_pilot_missed_and_never_sees_its_own_fold():
    """y = 3 F + noise in every cell, a fit that says 0: the corrected weights are near 3; and the fit of a fold does
    not change when the fold's own draws do."""
    rng = torch.Generator().manual_seed(5)
    M, n = 40, 800
    F = Features(torch.randn(N, 2, generator=rng))
    nothing = torch.zeros(M, 2, dtype=torch.float64)
    unit = torch.ones(M, dtype=torch.float64)
    nought = TermFit(0 * unit, unit, nothing, nothing.clone(), unit, unit, unit, nothing[:, :0])
    fold = crossfit.split(0, N, F.number)
    assert sorted(torch.bincount(fold).tolist()) == [N // crossfit.FOLDS] * crossfit.FOLDS
    who, cells = torch.randint(N, (n,), generator=rng), torch.randint(M, (n,), generator=rng)
    columns = torch.randn(n, 3, generator=rng, dtype=torch.float64)
    columns[:, 0] = 3 * F[who][:, 0] + 2 * columns[:, 1] + 0.1 * columns[:, 0]
    draws = crossfit.Observations(who, cells, columns, torch.ones(n, dtype=torch.float64), 0 * who)
    along = (torch.arange(M, dtype=torch.float64) + 0.5) / M
    before = crossfit.crossfit(nought, along, F, fold, [draws])
    for one in before:
        assert float((one.weights[:, 0] - 3).abs().max()) < 0.1
        assert float((one.controls[:, 0] - 2).abs().max()) < 0.1
    other = columns.clone()
    other[fold[who] == 1] *= -5
    after = crossfit.crossfit(nought, along, F, fold, [crossfit.Observations(who, cells, other, draws.weight, 0 * who)])
    assert torch.equal(before[1].weights, after[1].weights)
    assert not torch.equal(before[0].weights, after[0].weights)


def test_an_expected_error_is_found_where_its_share_of_the_term_changes_along_the_chain():
    """y = (1 + 2u) e + noise with e linear between two places: the corrected weights are (1 + 2u) of each place."""
    rng = torch.Generator().manual_seed(6)
    M, n = 40, 1500
    F = Features(torch.randn(N, 2, generator=rng), 2)
    along = (torch.arange(M, dtype=torch.float64) + 0.5) / M
    near = torch.stack([1 - along, along], 1)
    nothing, unit = torch.zeros(M, 2, dtype=torch.float64), torch.ones(M, dtype=torch.float64)
    nought = TermFit(0 * unit, unit, nothing, nothing[:, :1], unit, unit, unit, near)
    who, cells = torch.randint(N, (n,), generator=rng), torch.randint(M, (n,), generator=rng)
    columns = torch.zeros(n, 2, dtype=torch.float64)
    e = (F[who] * near[cells]).sum(1)
    columns[:, 0] = (1 + 2 * along[cells]) * e + 0.1 * torch.randn(n, generator=rng, dtype=torch.float64)
    fit = crossfit.corrected(nought, along, F[who], cells, columns, unit[:1].expand(n))
    assert float((fit.weights - (1 + 2 * along)[:, None] * near).abs().max()) < 0.1


def check_what_laps_save(kind: str) -> None:
    """Known values of N examples with noise, over 400 seeds: the variance of the mean of 2½ laps is that of independent
    draws less `part` of the known B, and the products' B is that, within 4 standard errors; their variance is half
    of what they say or more, since squares count the differences between examples, which are no errors here."""
    q = chances(kind)
    value = torch.randn(N, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    noise, nothing = torch.Generator().manual_seed(4), torch.arange(5 * N // 2)
    n, means, repeats = len(nothing), [], []
    for seed in range(400):
        folds = Folds(seed, torch.zeros(N, dtype=torch.long), q)
        who, _, weight, laps = folds.draws([n], 0, 0, nothing, [])
        r = (value[who] + torch.randn(n, generator=noise, dtype=torch.float64)) * weight
        means.append(float(r.mean()))
        repeats.append(folds.repeats(0, r, who, laps))
    often = (N * q).clamp_min(1)
    B = float(((value - value.mean() * N * q).square() / often).mean())
    independent = float(((value.square() + 1) / (N * q)).mean() - value.mean().square()) / n
    shown = float(torch.tensor(means).double().var())
    assert abs(shown - (independent - repeats[0].part * B)) < 4 * independent * math.sqrt(2 / 400)
    of_products = torch.tensor([one.products / one.pairs for one in repeats]).double()
    assert abs(float(of_products.mean()) - B) < 4 * float(of_products.std()) / 20
    stated = sum(one.squares / one.pairs**2 for one in repeats) / 400
    assert 0.9 < stated / float(of_products.var()) < 2.2
    assert repeats[0].part * B > (0.15 if kind == "unequal" else 0.35) * independent


@pytest.mark.parametrize("kind", ["equal", "unequal"])
def test_what_laps_save_is_seen_in_draws_of_one_example_in_two_laps(kind):
    check_what_laps_save(kind)


def check_credit() -> None:
    """B by precisions from draws and from the pilot, less its standard error; few pairs do not count, and a few
    products of nothing do not make B known."""
    some = Repeats(part=0.01, pairs=30.0, products=60.0, squares=200.0, expected=4.0)
    # 100 products with a mean of 2 and squares of 400 together: 2 ± 0.2; the pilot's 1 ± 0.4
    many = some._replace(pairs=40.0, products=80.0, squares=0.0)
    both, shares = [some, some, many], [0.3, 0.3, 0.4]
    part = 0.01 * (0.09 + 0.09 + 0.16)
    assert credit(both, shares) == pytest.approx(part * (2 - 0.2))
    precision = 1 / 0.04 + 1 / 0.16
    B = (2 / 0.04 + 1 / 0.16) / precision
    assert credit(both, shares, [(1.0, 0.16)]) == pytest.approx(part * (B - precision**-0.5))
    few = [some._replace(pairs=3.0, products=60.0)] * 3
    assert credit(few, shares, [(1.0, 0.16)]) == pytest.approx(part * 0.6)
    assert credit(few, shares) == credit(both, shares, [(-9.0, 0.01)]) == 0.0


def test_the_credit_of_laps():
    check_credit()


def test_laps_that_are_kept_are_the_same():
    q = chances("unequal")
    folds = Folds(7, torch.zeros(N, dtype=torch.long), q)
    parts = [folds._own(0, 1, torch.arange(a, b)) for a, b in ((0, 50), (50, 50), (50, 300), (300, 330))]
    assert torch.equal(torch.cat(parts), random_examples(7, q, 2, torch.arange(330)))
    assert torch.equal(laps_of(7, q, 2, torch.arange(2)).flatten(), random_examples(7, q, 2, torch.arange(2 * N)))


@pytest.mark.parametrize("known", [(math.inf, math.inf), (math.inf, 1.0), (1.0, math.inf)])
def test_a_stage_that_tells_no_variance_leaves_the_ratio_of_the_plan(known):
    """As after an interrupt in the first stage, where a term has too few draws."""
    design: Any = object.__new__(PooledDesign)
    design.problem = SimpleNamespace(cell_cost=1, first_cost=1)
    design.summary = lambda: SimpleNamespace(diffusion=(0.0, known[0]), reconstruction=(0.0, known[1]))
    assert design._size(DesignPlan(100.0, 25.0, 225.0, 225.0), 1.0, [10, 5]) == [90, 20]
