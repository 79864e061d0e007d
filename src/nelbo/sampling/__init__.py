"""Sampling from a model: the samplers, `sample`, and `encode`, which runs one backwards; public as `nelbo.samplers`."""

from nelbo.sampling.ancestral import Ancestral
from nelbo.sampling.ddim import DDIM
from nelbo.sampling.dpm import DPMSolver2M, SDEDPMSolver2M
from nelbo.sampling.draw import Trajectory, sample
from nelbo.sampling.edm import Euler, Heun
from nelbo.sampling.encoding import encode
from nelbo.sampling.flow import FlowEuler, FlowMidpoint
from nelbo.sampling.paths import NAMED, parse
from nelbo.sampling.sampler import Sampler, SamplerStep, StepResult

__all__ = [
    "DDIM",
    "NAMED",
    "Ancestral",
    "DPMSolver2M",
    "Euler",
    "FlowEuler",
    "FlowMidpoint",
    "Heun",
    "SDEDPMSolver2M",
    "Sampler",
    "SamplerStep",
    "StepResult",
    "Trajectory",
    "encode",
    "parse",
    "sample",
]
