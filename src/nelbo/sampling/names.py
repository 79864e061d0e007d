"""Samplers by the names of `nelbo.sample(…, sampler=name)` and `nelbo sample --sampler NAME`."""

from __future__ import annotations

from nelbo.errors import UnknownNameError
from nelbo.sampling.ancestral import Ancestral
from nelbo.sampling.ddim import DDIM
from nelbo.sampling.dpm import DPMSolver2M, SDEDPMSolver2M
from nelbo.sampling.edm import Euler, Heun
from nelbo.sampling.flow import FlowEuler, FlowMidpoint
from nelbo.sampling.sampler import Sampler

NAMED: dict[str, type[Sampler]] = {
    kind.name: kind for kind in (Ancestral, DDIM, Euler, Heun, DPMSolver2M, SDEDPMSolver2M, FlowEuler, FlowMidpoint)
}


def parse(sampler: str | Sampler) -> Sampler:
    """A sampler as it is, or the one called `sampler` in its default settings. Errors: UnknownNameError.

    >>> parse("ddim").describe()
    {'name': 'ddim', 'eta': 0.0}
    """
    if isinstance(sampler, Sampler):
        return sampler
    if sampler not in NAMED:
        raise UnknownNameError.of("sampler", sampler, NAMED)
    return NAMED[sampler]()
