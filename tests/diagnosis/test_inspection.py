"""Checks that need no other declaration: repeatability, first level, output, bins, terminal level, conditions."""

from __future__ import annotations

import pytest
import torch

import nelbo
from nelbo import testing
from nelbo.diagnosis import Diagnosis
from nelbo.model.exact import GaussianData
from tests.diagnosis.cases import DOMAIN, SCHEDULES, SHAPE, TRUE, diagnosed, network

pytestmark = pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")

GROUPS = [GaussianData(torch.full((12,), m), 0.05 * torch.ones(12)) for m in (-0.6, 0.0, 0.6)]
LABELS = torch.arange(150) % 3
GROUPED = torch.stack([GROUPS[y].sample(150)[i] for i, y in enumerate(LABELS.tolist())]).reshape(-1, *SHAPE)


def by_group(z, t, y):
    """The exact network given the group."""
    nets = [testing.as_network(testing.oracle(group), SCHEDULES["law"], "v", "logsnr") for group in GROUPS]
    every = torch.stack([net(z, t) for net in nets])
    return every[y, torch.arange(len(z))]


def of_condition(rows: torch.Tensor, net=by_group):
    one = nelbo.from_callable(net, schedule=SCHEDULES["law"], domain=DOMAIN, **TRUE["law"])
    diagnosis = nelbo.diagnose(one, DOMAIN.codes(GROUPED), condition={"y": rows}, max_nfe=900)
    return diagnosis, next(check for check in diagnosis.checks if check.name == "condition y")


def test_rows_of_other_examples():
    shuffled = LABELS[torch.randperm(150, generator=torch.Generator().manual_seed(0))]
    diagnosis, check = of_condition(shuffled)
    assert not diagnosis.verdict.ok and not check.ok and check.text in diagnosis.verdict.text


@pytest.mark.slow
def test_rows_of_the_right_examples():
    diagnosis, check = of_condition(LABELS)
    assert diagnosis.verdict.ok and check.ok and "cost +" in check.text
    assert next(row for row in diagnosis.rows if row.kind == "control").difference > 0


@pytest.mark.slow
def test_rows_that_count_from_another_number():
    diagnosis, _ = of_condition((LABELS + 2) % 3)  # y + 1, modulo 3
    assert diagnosis.best.name == "y + 1" or not diagnosis.verdict.ok


@pytest.mark.slow
def test_rows_that_are_not_read():
    _, check = of_condition(LABELS, lambda z, t, y: network("law")(z, t))
    assert check.ok and check.text == "the network does not read it"


def checked(wrap, where="law", **otherwise) -> tuple[Diagnosis, dict]:
    diagnosis = diagnosed(where, wrap, max_nfe=400, **otherwise)
    return diagnosis, {check.name: check for check in diagnosis.checks}


def depends_on_the_batch(net):
    return lambda z, t: net(z, t) - 0.1 * z.mean(0, keepdim=True)


def test_a_network_that_mixes_the_examples_of_a_batch():
    diagnosis, checks = checked(depends_on_the_batch)
    check = checks["repeatability"]
    assert not check.ok and "depends on the others of its batch" in check.text
    assert not diagnosis.verdict.ok and check.text in diagnosis.verdict.text


@pytest.mark.slow
def test_a_network_that_answers_by_chance():
    def chance(net):
        return lambda z, t: net(z, t) + 0.1 * torch.randn_like(z)

    diagnosis, checks = checked(chance)
    assert not checks["repeatability"].ok and not diagnosis.verdict.ok
    diagnosis, checks = checked(chance, stochastic=True)
    assert checks["repeatability"].ok and "declared stochastic" in checks["repeatability"].text


@pytest.mark.slow
def test_a_chain_that_does_not_end_at_its_prior():
    _, checks = checked(lambda net: net, schedule=nelbo.schedules.logsnr_linear(7.0, 0.0))
    assert not checks["terminal level"].ok


@pytest.mark.slow
def test_an_output_that_is_cut_off():
    diagnosis, checks = checked(lambda net: lambda z, t: net(z, t).clamp(-0.5, 0.5), "table")
    assert not checks["output"].ok and "[-0.5, 0.5]" in diagnosis.verdict.text
