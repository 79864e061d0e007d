"""The adapter of diffusers, broken on purpose: each break is caught by a comparison with diffusers' own numbers."""

from __future__ import annotations

import functools

import pytest
import torch

from tests.mutations.mutate import apply

diffusers = pytest.importorskip("diffusers")

from tests.adapters import test_diffusers as families  # noqa: E402
from tests.adapters.pipelines import unet  # noqa: E402
from tests.parity import test_parity as parity  # noqa: E402


def net():
    torch.manual_seed(0)
    return unet().eval()


def check_euler() -> None:
    families.test_euler_told_log_sigma(net())


def check_flow() -> None:
    families.test_flow(net(), "FlowMatchEulerDiscreteScheduler")


def check_edm() -> None:
    families.test_edm(net(), "EDMEulerScheduler", "v_prediction")


def marginals(name: str):
    return functools.partial(parity.test_diffusers_marginals, name)


TABLES, SCHEDULERS = "nelbo.adapters.diffusers.tables:", "nelbo.adapters.diffusers.scheduler:"
BREAKS = [
    ("scaled_linear: β for √β", TABLES + "_named", "dtype=torch.float64).square(), label)",
     "dtype=torch.float64), label)", marginals("scaled_linear")),
    ("sigmoid over [−1, 1]", TABLES + "_named", "torch.linspace(-6, 6, T", "torch.linspace(-1, 1, T",
     marginals("sigmoid")),
    ("laplace without its root", TABLES + "_laplace", "math.sqrt(1 / (1 + math.exp(-log_snr)))",
     "1 / (1 + math.exp(-log_snr))", marginals("laplace")),
    ("exp with another rate", TABLES + "_exp", "-12 * u", "-11 * u",
     functools.partial(parity.test_diffusers_tables, "exp", 20)),
    ("zero terminal SNR: not stretched back", TABLES + "_zero_terminal", " - log1mexp(first - last)", "",
     functools.partial(parity.test_diffusers_zero_terminal_snr, "scaled_linear")),
    ("β̃ for β", SCHEDULERS + "_table", "VARIANCES[variance]", "VARIANCES['fixed_small']",
     functools.partial(parity.test_diffusers_step, "epsilon", "fixed_large", False)),
    ("x̂ is not clipped", SCHEDULERS + "_clipping", 'if config.get("clip_sample") else None', "if False else None",
     functools.partial(parity.test_diffusers_step, "epsilon", "fixed_small", True)),
    ("predict_epsilon is forgotten", SCHEDULERS + "filled", '"predict_epsilon") is False', '"predict_epsilon") is 0',
     functools.partial(parity.test_diffusers_forgets_predict_epsilon, None)),
    ("a flow whose network is told τ for T τ", SCHEDULERS + "_flow", "Adaptation(float(T))", "PLAIN", check_flow),
    ("a flow that begins before its first level", SCHEDULERS + "_flow", "first = shift / T", "first = 0.5 * shift / T",
     functools.partial(parity.test_diffusers_flow, 3.0)),
    ("the sign of EDM's c_out", SCHEDULERS + "_edm", '-1.0 if predicts == "v" else 1.0', "1.0", check_edm),
    ("EDM's start is not the sampler's", SCHEDULERS + "_edm", "high**2 + 1", "high", check_edm),
    ("sigma_data of the continuous Euler", SCHEDULERS + "_continuous", '"sigma_data": 1.0', '"sigma_data": 0.5',
     check_euler),
    ("thresholding without its division", "nelbo.model.clip:Threshold.clipped", "-s) / s)", "-s))",
     parity.test_diffusers_thresholding),
    ("thresholding at the mean's quantile", "nelbo.model.clip:Threshold.clipped", "x.abs().flatten()", "x.flatten()",
     parity.test_diffusers_thresholding),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", [b[0] for b in BREAKS])
def test_breaks_are_caught(what, monkeypatch):
    _, target, old, new, check = next(b for b in BREAKS if b[0] == what)
    check()
    apply(monkeypatch, target, old, new)
    with pytest.raises(AssertionError):
        check()
