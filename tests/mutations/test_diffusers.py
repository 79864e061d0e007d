"""The adapter of diffusers broken on purpose: each break is noticed by a comparison with diffusers' own numbers."""

from __future__ import annotations

import functools

import pytest
import torch

from tests.mutations.breaks import Break, each_is_noticed
from tests.mutations.places import call, choice, number, operation, subscript, text

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


marginals = {
    name: functools.partial(parity.test_diffusers_marginals, name) for name in ("scaled_linear", "sigmoid", "laplace")
}
tables = functools.partial(parity.test_diffusers_tables, "exp", 20)
terminal = functools.partial(parity.test_diffusers_zero_terminal_snr, "scaled_linear")
step_of_beta = functools.partial(parity.test_diffusers_step, "epsilon", "fixed_large", False)
clipped_step = functools.partial(parity.test_diffusers_step, "epsilon", "fixed_small", True)
forgotten = functools.partial(parity.test_diffusers_forgets_predict_epsilon, None)
flow = functools.partial(parity.test_diffusers_flow, 3.0)

BREAKS = [
    Break("scaled_linear: β for √β", "tables:_named", call("square").drop(), marginals["scaled_linear"]),
    Break("sigmoid over another range", "tables:_named", call("linspace")[1].times(0.2), marginals["sigmoid"]),
    Break("laplace without its root", "_laplace", call("sqrt").drop(), marginals["laplace"]),
    Break("exp with another rate", "_exp", number(12).to(11), tables),
    Break("zero terminal SNR: not stretched back", "_zero_terminal", operation("-")[1].keep_left(), terminal),
    Break("β̃ for β", "scheduler:_table", subscript()[-1].to("'fixed_small'"), step_of_beta),
    Break("x̂ is not clipped", "scheduler:_clipping", call("get")[-1].becomes(False), clipped_step),
    Break("predict_epsilon is forgotten", "scheduler:filled", text("sample").to("epsilon"), forgotten),
    Break("a flow whose network is told τ for T τ", "_flow", call("float").becomes(1.0), check_flow),
    Break("a flow that begins before its first level", "_flow", operation("/")[0].times(0.5), flow),
    Break("the sign of EDM's c_out", "scheduler:_edm", choice()[-1].swapped(), check_edm),
    Break("EDM's start is not the sampler's", "scheduler:_edm", operation("+").keep_left(), check_edm),
    Break("sigma_data of the continuous Euler", "_continuous", number(1.0)[-1].to(0.5), check_euler),
    Break("thresholding without its division", "Threshold.clipped", operation("/").keep_left(),
          parity.test_diffusers_thresholding),
    Break("thresholding at the mean's quantile", "Threshold.clipped", call("abs").drop(),
          parity.test_diffusers_thresholding),
]  # fmt: skip

test_break_is_noticed = each_is_noticed(BREAKS)
