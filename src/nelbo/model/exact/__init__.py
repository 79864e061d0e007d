"""Oracles: data whose denoiser, marginals, log p and entropy are known in closed form.

Of numbers: with the exact denoiser, the prior q(z_L) and the exact posterior decoder, the continuous bound equals
−log p(x) for every x. Of symbols: the chain over hidden places has that bound of every sequence. Every estimator and
term is tested against these.
"""

from nelbo.model.exact.categorical import CategoricalData
from nelbo.model.exact.gaussian import GaussianData
from nelbo.model.exact.mixture import MixtureData
from nelbo.model.exact.tokens import MarkovData, ProductTokens, TokenData

__all__ = ["CategoricalData", "GaussianData", "MarkovData", "MixtureData", "ProductTokens", "TokenData"]
