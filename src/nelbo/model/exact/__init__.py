"""Oracles: data whose denoiser, marginals, log p and entropy are known in closed form.

With the exact denoiser, the prior q(z_L) and the exact posterior decoder, the continuous bound equals −log p(x) for
every x; every estimator and term is tested against that.
"""

from nelbo.model.exact.categorical import CategoricalData
from nelbo.model.exact.gaussian import GaussianData
from nelbo.model.exact.mixture import MixtureData

__all__ = ["CategoricalData", "GaussianData", "MixtureData"]
