"""Draws shared among workers: the same numbers however the work is cut."""

from __future__ import annotations

import pytest
import torch

from nelbo.bound.prepare import Prepared, prepare
from nelbo.bound.problem import Draws
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
