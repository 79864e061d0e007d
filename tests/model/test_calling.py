"""A network that refuses what it is called with: one error that names the argument and the remedy, on every verb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nelbo
from nelbo.errors import NelboError
from tests.expected import untrained

N = 4


class Embeds(nn.Module):
    """Looks its time up in a table of so many rows."""

    def __init__(self, rows: int):
        super().__init__()
        self.table = nn.Embedding(rows, 1)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return z * self.table(t)[:, :, None, None]


class Swapped(nn.Module):
    """f(t, x)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return self.conv(z) * t.float()[:, None, None, None]


class OfTime(nn.Module):
    """Takes a real time through a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return z * self.linear(t[:, None])[:, :, None, None]


class Halves(nn.Module):
    """Halves an image so many times and doubles it again, with a skip at each scale."""

    def __init__(self, times: int):
        super().__init__()
        self.times = times

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        skips = []
        for _ in range(self.times):
            skips.append(z)
            z = functional.avg_pool2d(z, 2)
        for skip in reversed(skips):
            z = skip + functional.interpolate(z, scale_factor=2.0)
        return z


class Labelled(nn.Module):
    """Takes a label of ten, or a vector of three."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 1)
        self.linear = nn.Linear(3, 1)

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        if y is not None:
            z = z * self.table(y)[:, :, None, None]
        if c is not None:
            z = z * self.linear(c)[:, :, None, None]
        return z


class Needs(Labelled):
    """Cannot do without its label."""

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return z * self.table(y)[:, :, None, None]


class Fails(nn.Module):
    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        raise KeyError("blocks.3")


REFUSED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], Any, str, str]] = {
    "swapped": (Swapped, {}, {}, "order (time, z)", "lambda z, t: net(t, z)"),
    "float time to a table": (lambda: Embeds(50), {"time": "unit"}, {}, "declared: unit", "time='index'"),
    "a table that ends": (lambda: Embeds(20), {}, {}, "table of times ends before", "more steps"),
    "index to a real time": (OfTime, {}, {}, "real numbers", "time='unit'"),
    "12 into three halvings": (lambda: Halves(3), {}, {}, "multiples of 8", "16 × 16"),
    "labels as floats": (Labelled, {}, {"y": torch.zeros(N)}, "y", ""),
    "labels past the end": (Labelled, {}, {"y": torch.full((N,), 10)}, "'y' ends before 10", "count from 0"),
    "one label past the end": (Labelled, {}, {"y": torch.tensor([0, 3, 10, 2])}, "'y' ends before 10", "count from 0"),
    "whole numbers for a vector": (Labelled, {}, {"c": torch.ones(N, 3).long()}, "condition 'c'", ""),
    "nan": (Labelled, {}, {"c": torch.full((N, 3), torch.nan)}, "condition 'c' has values that are nan", "finite"),
    "without its name": (Labelled, {}, torch.zeros(N).long(), "is a Tensor without the name", "condition={'y': rows}"),
    "none where it needs one": (Needs, {}, {}, "without y", "condition={'y': rows}"),
    "a vector too wide": (Labelled, {}, {"c": torch.zeros(N, 4)}, "condition", "one "),
    "no such condition": (Labelled, {}, {"w": torch.zeros(N)}, "w", ""),
    "None": (Labelled, {}, {"y": None}, "condition 'y' is None", "leave it out"),
    "too few": (Labelled, {}, {"y": torch.zeros(N - 1, dtype=torch.long)}, "'y' has", "one row each"),
    "words": (Labelled, {}, {"y": ["cat"] * N}, "condition 'y'", "numbers"),
    "an error of its own": (Fails, {}, {}, "KeyError: 'blocks.3'", "NELBO_TRACEBACK=1"),
}


def model(network: Callable[..., Tensor], **more: Any) -> nelbo.DiffusionModel:
    schedule = nelbo.schedules.linear(50, 1e-3, 0.2)
    return nelbo.from_callable(network, schedule=schedule, domain=nelbo.DataDomain((1, 12, 12), bins=17), **more)


VERBS: dict[str, Callable[..., Any]] = {
    "evaluate": lambda m, x, c: nelbo.evaluate(m, x, condition=c),
    "compare": lambda m, x, c: nelbo.compare(m, m, x, condition=c),
    "ode": lambda m, x, c: nelbo.ode_likelihood(m, x, condition=c, steps=2),
    "sample": lambda m, x, c: nelbo.sample(m, len(x), condition=c),
    "tighten": lambda m, x, c: nelbo.tighten(
        m, x.repeat(8, 1, 1, 1), 4, condition={k: _longer(v) for k, v in c.items()} if isinstance(c, dict) else c
    ),
    "compress": lambda m, x, c: nelbo.codec.compress(m, x, "x.nelbo", condition=c),
}


def _longer(values: Any) -> Any:
    return values.repeat(8, *[1] * (values.dim() - 1)) if isinstance(values, Tensor) else values and values * 8


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
@pytest.mark.parametrize(("network", "declared", "condition", "message", "remedy"), REFUSED.values(), ids=REFUSED)
def test_one_error_names_the_argument(network, declared, condition, message, remedy, verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    codes = torch.randint(0, 17, (N, 1, 12, 12), generator=torch.Generator().manual_seed(0))
    with pytest.raises(NelboError) as caught:
        verb(model(network(), **declared), codes, None if isinstance(condition, dict) and not condition else condition)
    between = verb is VERBS["ode"] and "asked between the steps" in str(caught.value)  # a table has no real times
    assert between or (message in str(caught.value) and remedy in caught.value.hint)


@untrained
def test_what_fits_is_taken():
    codes = torch.randint(0, 17, (N, 1, 12, 12), generator=torch.Generator().manual_seed(0))
    for network in (Embeds(50), Halves(2), Labelled()):
        assert nelbo.sample(model(network), 1).shape == (1, 1, 12, 12)
    condition = {"y": torch.arange(N), "c": torch.zeros(N, 3)}
    assert nelbo.evaluate(model(Labelled()), codes, condition=condition, estimator="exhaustive").examples == N


def test_memory_that_runs_out_is_left_to_smaller_batches():
    def network(z: Tensor, t: Tensor) -> Tensor:
        if len(z) > 2:
            raise RuntimeError("out of memory")
        return z

    codes = torch.randint(0, 17, (N, 1, 12, 12), generator=torch.Generator().manual_seed(0))
    assert nelbo.evaluate(model(network), codes, estimator="exhaustive").examples == N
