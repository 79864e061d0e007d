"""Variances that the network says, and tables of variances: against the formulas of their papers in β and ᾱ."""

from __future__ import annotations

import torch

from nelbo.errors import ShapeError, UnknownNameError
from nelbo.model.decoder import ContinuousGaussian, DiscretizedGaussian, LogSpread, RangeSpread
from nelbo.model.denoiser import NetworkDenoiser
from nelbo.model.domain import DataDomain
from nelbo.model.reverse import LearnedLog, LearnedRange, Reverse, VarianceTable, parse_variance
from nelbo.process import grid
from nelbo.process import schedule as schedules
from nelbo.process.prediction import Prediction
from tests.model import checks
from tests.model.cases import level, network_model
from tests.tables import refusals


def test_nothing_is_clamped():
    """Outside [−1, 1] the line in log variance goes on."""
    s, t = level(2.0), level(0.0)
    u = torch.tensor([[-1.0, 1.0, 3.0]], dtype=torch.float64)
    low, high, beyond = LearnedRange().of_step(s, t, Prediction(u, variance=u))[0].log()
    checks.close(beyond - high, high - low, 1e-12)


def test_a_table_of_variances():
    """The step from index i takes v_i, the decoder that of the chain's first level; as a name it needs its numbers."""
    table = schedules.linear(6, 0.01, 0.5)
    policy = parse_variance([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert isinstance(policy, VarianceTable)
    s, t = table.at_index(torch.tensor([0, 2, 4])), table.at_index(torch.tensor([1, 3, 5]))
    prediction = Prediction(torch.zeros(3, 2, dtype=torch.float64))
    checks.close(policy.of_step(s, t, prediction), [[0.2], [0.4], [0.6]])
    assert policy.of_decoder(*(table.at_index(torch.tensor(i)) for i in (2, 3))) == 0.3


DOMAIN = DataDomain((3,), 16)
TWO = NetworkDenoiser(lambda z, t: torch.cat([z, z], 1), "eps", "logsnr", learned_variance=True)
TABLE = schedules.linear(6, 0.01, 0.5)
SIX = VarianceTable(torch.full((6,), 0.1))


def learning(policy, **changes):
    return network_model(**{"denoiser": TWO, "reverse": Reverse(policy), **changes})


test_nonsense_is_refused = refusals(
    (lambda: parse_variance("table"), r"without the numbers\nhint: .*variance=\[v_1"),
    (lambda: parse_variance("learned"), UnknownNameError, r"learned_log, learned_range, table"),
    (lambda: parse_variance(object()), r"a variance of type object"),
    (lambda: parse_variance([0.1, 0.0]), r"from 0\.0 to 0\.1\nhint: give T finite numbers > 0"),
    (lambda: parse_variance([]), r"a table of variances of shape \(0,\)"),
    (lambda: RangeSpread(0.0, 1.0), r"between 0\.0 and 1\.0"),
    (lambda: DiscretizedGaussian(None), r"give one of the two"),
    (lambda: DiscretizedGaussian(0.1, LogSpread()), r"give one of the two"),
    (lambda: ContinuousGaussian(0.1, LogSpread()), r"at most one"),
    (lambda: network_model(reverse=Reverse(LearnedRange())), r"'learned_range'.*\nhint: .*twice the chan"),
    (lambda: network_model(decoder=DiscretizedGaussian(None, LogSpread())), r"twice the channels"),
    (lambda: learning(LearnedLog(), grid=grid.continuous()), r"variance 'learned_log'\nhint: .*learned_r"),
    (lambda: learning(SIX, grid=grid.continuous()), r"variance 'table'"),
    (lambda: learning(SIX), r"a table of 6 variances on a schedule with no table"),
    (lambda: learning(SIX, schedule=schedules.linear(7), grid=grid.full()), r"with 7 levels"),
    (lambda: learning(SIX, schedule=TABLE, grid=grid.even(3)), r"leaves levels out\nhint: .*full grid"),
    (lambda: LearnedLog().of_step(level(1), level(0), Prediction(torch.zeros(1, 1))), r"predicts none"),
    (
        lambda: NetworkDenoiser(lambda z, t: z, "eps", "logsnr", learned_variance=True)(torch.zeros(2, 3), level(0, 2)),
        ShapeError,
        r"shape \(2, 3\) for an input of shape \(2, 3\)\nhint: a learned variance doubles the channels",
    ),
    (
        lambda: NetworkDenoiser(lambda z, t: torch.cat([z, z], 1), "eps", "logsnr")(torch.zeros(2, 3), level(0, 2)),
        ShapeError,
        r"shape \(2, 6\).*\nhint: twice the channels are a learned variance",
    ),
    (lambda: NetworkDenoiser(len, "edm_F", "sigma"), r"'edm_F' without sigma_data\nhint: .*0\.5"),
    (lambda: NetworkDenoiser(len, "eps", "sigma", sigma_data=0.5), r"'eps' with sigma_data = 0\.5"),
    (lambda: NetworkDenoiser(len, "edm_F", "sigma", sigma_data=-1.0), r"sigma_data = -1\.0"),
)


def test_learned_range_may_be_continuous_and_respaced():
    assert learning(LearnedRange(), grid=grid.continuous()).steps is None
    assert learning(SIX, schedule=TABLE, grid=grid.full(2)).steps == 3  # its decoder does not call the network
