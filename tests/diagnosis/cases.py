"""Exact networks of a mixture in twelve dimensions, as images of 3 × 2 × 2, and what is true of each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

import nelbo
from nelbo import testing
from nelbo.diagnosis import Diagnosis
from nelbo.process.schedule import Table

SHAPE = (3, 2, 2)
MEANS = torch.tensor(
    [
        [0.7, 0.6, 0.5, 0.6, -0.1, 0.2, -0.3, 0.3, -0.7, -0.5, -0.6, -0.2],
        [0.5, -0.2, 0.6, 0.1, 0.6, 0.4, 0.3, -0.6, -0.5, 0.2, -0.2, -0.6],
        [-0.2, 0.6, 0.1, 0.5, -0.5, -0.2, 0.6, 0.2, 0.3, -0.7, 0.1, -0.4],
    ]
)
LAW = nelbo.exact.MixtureData([0.4, 0.3, 0.3], MEANS, [0.02, 0.03, 0.02])
DOMAIN = nelbo.DataDomain(SHAPE, 256)
VALUES = LAW.sample(200).reshape(-1, *SHAPE)
CODES = DOMAIN.codes(VALUES)
SCHEDULES = {
    "table": nelbo.schedules.linear(100, 1e-3, 0.2),
    "law": nelbo.schedules.logsnr_linear(7.0, -7.0),
    "flow": nelbo.schedules.flow(0.02, 0.999),
    "edm": nelbo.schedules.edm(0.02, 80.0),
}
ALARMS = (
    "seems to predict|seems to hold|not calibrated|cut off|are declared, but|declared real|does not end at its prior|"
    "worse than none"
)
"""What the warnings say that call a declaration false."""
TRUE = {
    "table": {"predicts": "eps", "time": "index"},
    "law": {"predicts": "v", "time": "logsnr"},
    "flow": {"predicts": "velocity", "time": "unit"},
    "edm": {"predicts": "edm_F", "time": "c_noise", "sigma_data": 0.5},
}


def network(where: str) -> Callable[..., torch.Tensor]:
    """The exact network of a schedule in its convention. Its times may be off the table: they are clamped to it."""
    true = TRUE[where]
    schedule = SCHEDULES[where]
    net = testing.as_network(
        testing.oracle(LAW), schedule, true["predicts"], true["time"], sigma_data=true.get("sigma_data")
    )
    if not isinstance(schedule, Table):
        return net
    last = len(schedule.table) - 1
    return lambda z, t: net(z, t.double().round().clamp(0, last))


def model(where: str, wrap: Callable = lambda net: net, **otherwise: Any) -> nelbo.DiffusionModel:
    """The model of the network, with other arguments than are true."""
    declared = {"schedule": SCHEDULES[where], "domain": DOMAIN, **TRUE[where], **otherwise}
    return nelbo.from_callable(wrap(network(where)), **declared)


def diagnosed(*args: Any, data: torch.Tensor = CODES, max_nfe: int = 900, **otherwise: Any) -> Diagnosis:
    """The diagnosis of `model`."""
    return nelbo.diagnose(model(*args, **otherwise), data, max_nfe=max_nfe)


class Counted:
    """A network that counts the rows that it is given, also those of its copies."""

    def __init__(self, net):
        self.net, self.sizes = net, []

    def __call__(self, z, t):
        self.sizes.append(len(z))
        return self.net(z, t)

    def __deepcopy__(self, memo):
        return self

    @property
    def rows(self) -> int:
        return sum(self.sizes)


@functools.cache
def mistaken() -> Diagnosis:
    """The diagnosis of a network of v of which ε is declared."""
    return diagnosed("law", predicts="eps")


def right(diagnosis: Diagnosis) -> bool:
    """Whether it says that nothing is wrong."""
    verdict = diagnosis.verdict
    return verdict.ok and verdict.change is None and verdict.text.startswith("as declared is ")
