"""Kernels and steps over symbols against dense matrices; laws of survival against their formulas."""

from __future__ import annotations

import pytest
import torch

from nelbo.errors import DomainError, UsageError
from nelbo.process.tokens import survival
from nelbo.process.tokens.kernel import Absorbing, Rates, Steps, Uniform, gaussian_steps
from tests.process.tokens import checks

NAMES = ["uniform", "rates", "steps", "gaussian"]


@pytest.mark.parametrize("name", NAMES)
def test_kernels(name):
    checks.check_marginals(name)
    checks.check_steps(name)
    checks.check_leave_one_out(name)
    checks.check_noised(name)


@pytest.mark.parametrize("plugged", [False, True])
@pytest.mark.parametrize("name", ["uniform", "rates"])
def test_the_continuous_limit(name, plugged):
    checks.check_rate(name, plugged)


def test_relations():
    checks.check_uniform_is_a_generator()
    checks.check_gaussian()
    checks.check_respaced()
    checks.check_divergence()
    checks.check_prior()
    checks.check_absorbing()


@pytest.mark.parametrize("name", checks.LAWS)
def test_survival(name):
    checks.check_survival(name)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: survival.Linear(1.0), UsageError),
        (lambda: survival.Geometric(2.0, 1.0), UsageError),
        (lambda: survival.AlphaTable(torch.tensor([0.5, 0.6])), UsageError),
        (lambda: survival.AlphaTable(torch.tensor([0.5, 0.2])).alpha(torch.tensor([0.3]).double()), UsageError),
        (lambda: Rates(torch.eye(3)), DomainError),
        (lambda: Steps(torch.ones(2, 3, 3)), DomainError),
        (lambda: gaussian_steps(4, torch.tensor([0.0])), UsageError),
        (lambda: Absorbing(9).check(4), UsageError),
        (lambda: Steps(torch.eye(3)[None]).check(4), UsageError),
        (lambda: Steps(torch.eye(3)[None]).rates(torch.zeros(1, 1).long(), 3), UsageError),
        (lambda: Absorbing(4).marginal(torch.ones(1, 1, 4), checks.at(1, 1)), UsageError),
    ],
)
def test_nonsense_is_refused(make, error):
    with pytest.raises(error):
        make()


def test_parts_come_back():
    from nelbo.process.tokens.kernel import Kernel

    for part in [*checks.kernels().values(), Absorbing(7), Uniform()]:
        again = Kernel.from_config(part.to_config(), part.to_tensors())
        assert again.to_config() == part.to_config()
    for law in checks.LAWS.values():
        again = survival.Survival.from_config(law.to_config(), law.to_tensors())
        t = torch.linspace(0, 1, 5, dtype=torch.float64)
        assert torch.equal(again.alpha(t), law.alpha(t))
