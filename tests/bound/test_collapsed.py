"""Single draws in strata: their contrasts, and the ratio by which examples that are drawn twice correct squares."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo.bound.planned import allocation, collapsed, pilot
from nelbo.bound.planned.blocks import Block, third_of_pairs, with_ratio
from nelbo.bound.planned.per_example import PerExampleDesign
from nelbo.bound.prepare import prepare
from nelbo.workers import Run
from tests.bound.shrunk import D, X, exact_diffusion, model

N = len(X)


def check_third() -> None:
    """Exponential draws, of third cumulant 2: the sum of n means of K single ones has 2 n/K², within 4 standard errors
    of what 60 samples of pairs say of it, whose own is a twentieth."""
    g = torch.Generator().manual_seed(7)
    n, K = 2000, 5
    pairs = torch.empty(60, n, K, 2, dtype=torch.float64).exponential_(generator=g)
    seen = torch.tensor([collapsed.third_of_single(third_of_pairs(one)) for one in pairs]) * K**2 / (2 * n)
    error = float(seen.std()) / 60**0.5
    assert error < 0.05 and abs(float(seen.mean()) - 1) < 4 * error


def check_contrasts() -> None:
    """They vanish where all draws are equal, are independent of each other, and have the variance of the mean."""
    assert torch.equal(collapsed.errors(torch.tensor([[3.0], [-4.0]])), torch.tensor([[3.0], [-4.0]]))
    for n in range(2, 9):
        H = collapsed.errors(torch.eye(n, dtype=torch.float64))
        assert H.shape == (n, (n + 1) // 2)
        assert torch.allclose(H.sum(0), torch.zeros(H.shape[1]).double(), atol=1e-12)
        products = H.mT @ H
        assert torch.allclose(products, products.diagonal().diag(), atol=1e-12)
        assert float(products.trace()) == pytest.approx(1 / n)


def drawn(examples: int, n: int, copies: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws (examples, n, copies) of terms that jump, bend and rise within the strata, each example's by as much as it
    likes and with noise of its own size; and the variance of the mean of single draws, (examples,)."""
    rng = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=rng, dtype=torch.float64)

    slope, bend, jump, at = (uniform(examples, 1) for _ in range(4))
    size = (2 * uniform(examples, 1)).exp()

    def mean(u: torch.Tensor) -> torch.Tensor:
        return size * (6 * slope * u + 2 * bend * torch.sin(25 * u) + 3 * jump * (u > at))

    u = (torch.arange(n).repeat_interleave(copies) + uniform(examples, n * copies)) / n
    noise = torch.randn(examples, n * copies, generator=rng, dtype=torch.float64)
    fine = mean((torch.arange(400 * n) + 0.5).expand(examples, -1) / (400 * n)).reshape(examples, n, 400)
    variance = (fine.var(2, correction=0) + size**2).sum(1) / n**2
    return (mean(u) + size * noise).reshape(examples, n, copies), variance


def check_ratio(n: int = 3) -> None:
    """Whatever the terms do within a stratum, the squares add up to the variance, to the freedom that is stated."""
    both, _ = drawn(600, n, 2, 1)
    single, V = drawn(6000, n, 1, 2)
    R = collapsed.ratio([(collapsed.of_strata(both[:200]), 10.0), (collapsed.of_strata(both[200:]), 10.0)])
    squares = collapsed.errors(single[..., 0]).square().sum(1)
    scaled = R.value * squares
    assert 100 < R.freedom < 2 * 600
    error = math.sqrt(2 / R.freedom + float(scaled.var() / scaled.mean() ** 2) / 6000)
    assert abs(float(scaled.mean() / V.mean()) - 1) < 3.5 * error
    assert float(squares.mean() / V.mean()) > 1 + 10 * error  # as they are


def test_contrasts():
    check_contrasts()


def test_the_third_cumulant():
    check_third()


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_squares_are_corrected(n):
    check_ratio(n)


def test_without_examples_that_are_drawn_twice_squares_stand():
    cut_off = torch.full((2, 2), math.nan, dtype=torch.float64)
    for groups in ([], [(cut_off, 3.0)], [(torch.zeros(5, 2).double(), 3.0)]):
        assert collapsed.ratio(groups) == (1.0, math.inf)


def check_weights() -> None:
    """Each example counts for those that it stands for; what is farther than the cap counts as the cap."""
    a, b = (torch.tensor(v, dtype=torch.float64) for v in ([[1.0, 2.0], [3.0, 4.0]], [[5.0, 4.0], [2.0, 1e9]]))
    R = collapsed.ratio([(a, 2.0), (b, 3.0)])
    V, C = torch.tensor([2.0, 6.0, 15.0, 6.0]), torch.tensor([4.0, 8.0, 12.0, 3 * collapsed.CAP * 4])
    assert R.value == pytest.approx(float(V.sum() / C.sum()))
    rest = float((V - R.value * C).square().sum() / V.sum() ** 2)
    assert R.freedom == pytest.approx(2 / rest)


def check_scaled() -> None:
    """Of two examples with single draws, drawn again, the first errors alone are corrected: R = 1/4 halves them."""
    known = collapsed.Collapsed(torch.tensor([[1.0, 3.0], [1.0, 5.0]], dtype=torch.float64), 2)
    both = Block(torch.tensor([0]), draws=2)
    block = Block(torch.tensor([1, 2]), twice=both, draws=1, of_diffusion=known)
    errors, freedom = with_ratio(torch.ones(3, 3).double(), [both, block], "of_diffusion")
    assert torch.equal(errors, torch.tensor([[1.0, 1.0, 1.0], [0.5, 0.5, 1.0], [0.5, 0.5, 1.0]]).double())
    assert freedom == pytest.approx(collapsed.ratio([(known.known, 2.0)]).freedom * 6**2)
    assert with_ratio(torch.ones(3, 3), [both], "of_diffusion")[1] == math.inf


def test_examples_that_are_drawn_twice_stand_for_others():
    check_weights()
    check_scaled()


def check_design() -> None:
    """Against every example's exact value: the squared errors of single draws are as large as stated, before and after
    the examples are drawn again; a draw at the first level has the variance D/2, whatever the example."""
    exact, seen, stated = torch.from_numpy(exact_diffusion()), [0.0, 0.0], [0.0, 0.0]
    first = []
    for seed in range(6):
        one = prepare(model(), X, Run(seed=seed))
        known = pilot.run(one.chain, one.runner, 24, regressed=False, controlled=False)
        some = PerExampleDesign(one.chain, one.runner, known, allocation.density(known.diffusion))
        some.twice = 0.25
        block = some.new(N)
        assert len(block.rows) == 90 and block.twice is not None and len(block.twice.rows) == 30
        for k in range(2):
            some.draw(block, 3 - k, 1)
            rows = some.summary().examples
            assert rows is not None
            stated[k] += float(rows.diffusion_errors[block.rows].square().sum())
            seen[k] += float((rows.diffusion - exact)[block.rows].square().sum())
            if not k:
                first.append(rows.reconstruction_errors[block.rows].square().sum(1).mean())
                assert one.runner.nfe - known.nfe == 90 * 3 + 30 * 6  # the decoder asks no network
        assert float(some.summary().bins[:, 0].sum()) == pytest.approx(some.summary().diffusion[0], rel=1e-6)
    for k in range(2):
        assert abs(seen[k] / stated[k] - 1) < 0.25, (k, seen, stated)
    spread = torch.stack(first)
    assert abs(float(spread.mean()) / (D / 2) - 1) < 4 * math.sqrt(2 / 30 / 6)


def test_errors_of_examples_with_single_draws():
    check_design()
