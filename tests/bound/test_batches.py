"""Batches shared among workers, and the surrogate that they compute: the same numbers however the work is cut."""

from __future__ import annotations

import threading

import pytest
import torch

import nelbo
from nelbo.bound import batches
from nelbo.bound.prepare import prepare
from nelbo.bound.surrogate import GaussianSurrogate
from nelbo.maths import random, tiles
from tests.model.cases import network_model

CODES = torch.randint(0, 16, (20, 3), generator=torch.Generator().manual_seed(0))


class Pair:
    """Workers that are threads of this process and meet at every gather."""

    def __init__(self, rank: int, meeting: threading.Barrier, table: dict[int, torch.Tensor]):
        self.rank, self.size, self.stopping = rank, 2, False
        self.meeting, self.table, self.rows = meeting, table, 0

    def gather(self, values: torch.Tensor) -> list[torch.Tensor]:
        self.meeting.wait()
        self.table[self.rank] = values
        self.rows += len(values) - 1  # but the one that says how long they took
        self.meeting.wait()
        return [self.table[0], self.table[1]]


@pytest.mark.parametrize(("n", "batch"), [(1, 4), (7, 64), (30, 4)])
def test_a_call_is_shared_evenly(n, batch):
    """Also one of fewer rows than a batch: every worker has about half, and all have all values."""
    who = torch.arange(n) % 20
    options = {"seed": 3, "batch_size": batch, "precision": "float64"}
    alone, _ = prepare(network_model(), nelbo.Examples(CODES), **options)
    expected = alone.diffusion(who, 1 + who % 5, torch.arange(n))
    meeting, table, found = threading.Barrier(2, timeout=60), {}, {}
    workers = [Pair(rank, meeting, table) for rank in (0, 1)]

    def work(rank: int) -> None:
        problem, _ = prepare(network_model(), nelbo.Examples(CODES), workers=workers[rank], **options)
        found[rank] = problem.diffusion(who, 1 + who % 5, torch.arange(n)), problem.nfe

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for values, nfe in found.values():
        assert torch.allclose(values, expected, rtol=1e-12, atol=0) and nfe == n
    if n > 1:
        rows = [w.rows for w in workers]
        assert sum(rows) == n and min(rows) >= n // 2 - 2


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_even_batches(workers):
    for n in (1, 5, 9, 100, 1001):
        for largest in (1, 4, 340):
            size = batches._even(n, largest, workers)
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
