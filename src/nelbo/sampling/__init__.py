"""Sampling from a model."""

from nelbo.sampling.ancestral import SAMPLERS, Trajectory, sample

__all__ = ["SAMPLERS", "Trajectory", "sample"]
