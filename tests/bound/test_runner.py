"""Draws shared among workers, and the surrogate that they compute: the same numbers however the work is cut."""

from __future__ import annotations

import pytest
import torch

from nelbo.bound import runner
from nelbo.bound.prepare import Prepared, prepare
from nelbo.bound.problem import Draws
from nelbo.bound.surrogate import GaussianSurrogate
from nelbo.maths import random, tiles
from nelbo.workers import Run
from tests.bound.workers import Worker, on_two
from tests.model.cases import network_model

CODES = torch.randint(0, 16, (20, 3), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("n", "batch"), [(1, 4), (7, 64), (30, 4)])
def test_a_call_is_shared_evenly(n, batch):
    """Also one of fewer rows than a batch: every worker has about half, and all have all values."""
    examples = torch.arange(n) % 20
    cells = examples % 5
    draws = Draws(examples, cells + 1, torch.arange(n), cells, torch.zeros(n))
    options = {"seed": 3, "batch_size": batch, "precision": "float64"}

    def nats(prepared: Prepared) -> torch.Tensor:
        return prepared.runner.nats(prepared.chain, draws)

    expected = nats(prepare(network_model(), CODES, Run(**options)))

    def work(worker: Worker) -> tuple[torch.Tensor, int]:
        prepared = prepare(network_model(), CODES, Run(workers=worker, **options))
        return nats(prepared), prepared.runner.nfe

    results, workers = on_two(work)
    for values, nfe in results:
        assert torch.allclose(values, expected, rtol=1e-12, atol=0) and nfe == n
    if n > 1:
        rows = [w.rows for w in workers]
        assert sum(rows) == n and min(rows) >= n // 2 - 2


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_even_batches(workers):
    for n in (1, 5, 9, 100, 1001):
        for largest in (1, 4, 340):
            size = runner._even(n, largest, workers)
            assert 1 <= size <= largest and (n <= workers or -(-n // size) >= workers // 2 + 1)


def test_leading_directions_hold_the_variance_of_all():
    """Subspace iteration against all eigenvalues, on more dimensions and examples than are done exactly."""
    scale = torch.logspace(0, -3, 400, dtype=torch.float64)
    x = random.normal(0, torch.arange(500), 0, 0, (400,)) * scale
    centred = x - x.mean(0)
    exact = torch.linalg.eigvalsh(centred.mT @ centred / 500)[-64:].sum()
    found = GaussianSurrogate.fit(x, rank=64)
    held = (centred @ found.basis.double()).square().sum() / 500
    assert 0.998 * float(exact) <= float(held) <= (1 + 1e-6) * float(exact)
    assert float(found._lengths.sub(1).abs().max()) < 1e-5  # float32


def test_the_excess_of_shared_examples_and_of_another_precision():
    x = random.normal(0, torch.arange(40), 1, 0, (6, 5))
    surrogate = GaussianSurrogate.fit(x.flatten(1), rank=8)
    exact = surrogate.in_precision(torch.float64)
    of = torch.arange(5).repeat_interleave(3)
    eps, logsnr = random.normal(1, torch.arange(15), 2, 0, (6, 5)), torch.linspace(8, -8, 15).double()
    whole = exact.excess(x[of], eps, logsnr)
    assert torch.allclose(exact.excess(x[:5], eps, logsnr, of), whole, rtol=1e-12, atol=1e-12)
    assert torch.allclose(surrogate.excess(x[of], eps, logsnr), whole, rtol=0, atol=1e-4)


def test_a_squared_norm_is_that_of_its_rows(monkeypatch):
    a, b = random.normal(0, torch.arange(50), 0, 0, (3, 7)), random.normal(0, torch.arange(50), 1, 0, (3, 7))
    expected = (a - b).square().sum((1, 2))
    for near in (1, 100, 1 << 16):
        monkeypatch.setattr(tiles, "NEAR", near)
        assert torch.allclose(tiles.squared_norm(a, b), expected, rtol=1e-14)
    assert tiles.squared_norm(a[:0], b[:0]).shape == (0,)
    a.requires_grad_()
    (slope,) = torch.autograd.grad(tiles.squared_norm(a, b).sum(), a)
    assert torch.allclose(slope, 2 * (a.detach() - b))
