"""NaN as what was not observed: exact marginals of Gaussians, standardised columns, and what gives no marginal."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import nelbo
from nelbo.bound.estimators import Exhaustive, Stratified
from nelbo.data import read
from nelbo.errors import NelboError
from tests.bound.latent import linear
from tests.bound.ragged import test_sets as sets

pytestmark = pytest.mark.filterwarnings("ignore:the chain does not end at its prior")
COVARIANCE = torch.tensor([[1.0, 0.6, 0.2], [0.6, 0.8, -0.3], [0.2, -0.3, 0.5]], dtype=torch.float64)
LAW = nelbo.exact.GaussianData(torch.zeros(3), COVARIANCE)
SEEN = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, True, True]])
TABLE = torch.where(SEEN, LAW.sample(len(SEEN), 3), torch.tensor(math.nan, dtype=torch.float64))


def marginal(z, logsnr, mask):
    """E[x | z] of the columns observed, by their own covariance."""
    a = torch.sigmoid(logsnr.double())[:, None, None]
    cov = COVARIANCE * mask[:, :, None] * mask[:, None]
    x0 = a.sqrt() * cov @ torch.linalg.solve(a * cov + (1 - a) * torch.eye(3), (z * mask).double()[..., None])
    return torch.where(mask, x0[..., 0], 7.0)  # what it says of the others does not count


def scored(model, data, **options):
    options = {"estimator": Exhaustive(4), "precision": "float64", "per_example": True, **options}
    return nelbo.evaluate(model, data, progress=False, **options)


def model(fn, grid=None, **domain):
    return nelbo.from_callable(
        fn, schedule=nelbo.schedules.logsnr_linear(9.0, -9.0), domain=nelbo.DataDomain(**domain), predicts="x0",
        time="logsnr", decoder="continuous_gaussian", grid=grid or nelbo.grids.continuous(),
    )  # fmt: skip


def test_the_exact_marginal_of_a_gaussian():
    """Told what is there, the exact network of a Gaussian gives of the first k columns the bound of their own law, by
    the noise of the same places to rounding; that of other columns is −log p of them within its errors."""
    grid = nelbo.grids.even(6)
    of, x = model(marginal, grid, shape=(3,)), LAW.sample(4, 3)
    for k in (1, 2, 3):
        own = nelbo.exact.GaussianData(torch.zeros(k), COVARIANCE[:k, :k])
        alone = own.model(of.schedule, grid, exact_ends=False)
        alone = scored(dataclasses.replace(alone, decoder=of.decoder), x[:, :k]).per_example
        seen = x.masked_fill(torch.arange(3) >= k, math.nan)
        rows = scored(of, seen, missing="marginal").per_example
        assert torch.allclose(rows.nats, alone.nats, rtol=1e-9), k
    continuous = scored(model(marginal, shape=(3,)), TABLE, missing="marginal", estimator=Stratified(128, 128))
    rows, exact = continuous.per_example, []
    for values, seen in zip(TABLE, SEEN, strict=True):
        law = torch.distributions.MultivariateNormal(torch.zeros(int(seen.sum())).double(), COVARIANCE[seen][:, seen])
        exact.append(-law.log_prob(values[seen]))
    assert bool(((rows.nats - torch.stack(exact)).abs() < 4 * rows.standard_error).all())
    assert rows.dimensions.tolist() == SEEN.sum(1).tolist() and continuous.data["sizes"]["smallest"] == 1


def test_independent_columns_and_their_scales():
    """Columns looked at by themselves: their bounds add up to that of the row, each with the log of its own scale."""
    of = sets.model(shape=(2,))
    law = nelbo.exact.GaussianData(torch.zeros(2), torch.diag(linear.PRIOR))
    u, mean, scale = law.sample(5, 1), torch.tensor([3.0, -1.0]).double(), torch.tensor([10.0, 0.1]).double()
    whole = scored(of, u).per_example.nats
    parts = []
    for column in range(2):
        x = u.clone()
        x[:, 1 - column] = math.nan
        parts.append(scored(of, x, missing="marginal").per_example.nats)
        standard = nelbo.from_callable(
            sets.points, schedule=linear.LAW, domain=nelbo.DataDomain((2,), mean=mean, scale=scale), predicts="x0",
            time="logsnr", decoder="continuous_gaussian", grid=nelbo.grids.even(5),
        )  # fmt: skip
        of_x = scored(standard, mean + scale * x, missing="marginal").per_example.nats
        assert torch.allclose(of_x, parts[-1] + scale[column].log(), rtol=1e-9)
    assert torch.allclose(sum(parts), whole, rtol=1e-9)


def test_a_table_without_gaps_is_as_without_the_choice():
    of = sets.model(shape=(2,))
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double()
    of_all = scored(of, x, missing="marginal").per_example
    assert torch.allclose(of_all.nats, scored(of, x).per_example.nats, rtol=1e-10)
    assert of_all.dimensions.tolist() == [2] * 5


def test_what_gives_no_marginal_is_refused():
    chain = LAW.model(nelbo.schedules.logsnr_linear(9.0, -9.0), nelbo.grids.even(5), exact_ends=False)
    for options, match in (
        ({"missing": "marginal"}, "depends on what the padding holds(.|\n)*gives no marginal"),
        ({}, "holds NaN or infinity, first in example 1"),
        ({"missing": "mean"}, "unknown way with missing values"),
    ):
        with pytest.raises(NelboError, match=match):
            scored(chain, TABLE, **options)
    with pytest.raises(NelboError, match="example 1 has nothing that is there"):
        scored(model(marginal, shape=(3,)), torch.full((2, 3), math.nan).index_fill(0, torch.tensor(0), 1.0),
               missing="marginal")  # fmt: skip


def test_empty_fields_of_a_table(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("a,b,class\n1.5,,0\nNA,2,1\n3,4,1\n")
    examples = read(f"{file}#empty=nan")
    assert examples.data.isnan().tolist() == [[False, True], [True, False], [False, False]]
    assert examples.labels.tolist() == [0, 1, 1] and examples.observed("marginal").sizes.tolist() == [1, 1, 2]
    with pytest.raises(NelboError, match="is not a number"):
        read(str(file))
    with pytest.raises(NelboError, match="unknown value of #empty"):
        read(f"{file}#empty=0")
