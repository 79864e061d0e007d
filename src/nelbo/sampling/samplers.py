"""The samplers by name, and `encode`, which runs one backwards: `nelbo.samplers`."""

from __future__ import annotations

from nelbo.sampling.ancestral import Ancestral
from nelbo.sampling.ddim import DDIM
from nelbo.sampling.dpm import DPMSolver2M, SDEDPMSolver2M
from nelbo.sampling.draw import encode
from nelbo.sampling.edm import Euler, Heun
from nelbo.sampling.flow import FlowEuler, FlowMidpoint
from nelbo.sampling.names import NAMED, parse
from nelbo.sampling.sampler import Moved, Sampler, Step

__all__ = [
    "DDIM",
    "NAMED",
    "Ancestral",
    "DPMSolver2M",
    "Euler",
    "FlowEuler",
    "FlowMidpoint",
    "Heun",
    "Moved",
    "SDEDPMSolver2M",
    "Sampler",
    "Step",
    "encode",
    "parse",
]
