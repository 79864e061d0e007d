"""Sampling from a model."""

from nelbo.sampling.draw import Trajectory, encode, sample
from nelbo.sampling.names import NAMED as SAMPLERS
from nelbo.sampling.sampler import Sampler

__all__ = ["SAMPLERS", "Sampler", "Trajectory", "encode", "sample"]
