"""Parts that are fitted to a trained network after training: reverse covariances with their bases, and a decoder.

Importing this package makes their kinds known to `nelbo.model.folder`.
"""

from nelbo.model.fitted.basis import Basis, Cosine, Pixel, Reflections
from nelbo.model.fitted.context import ContextGaussian
from nelbo.model.fitted.local import LocalVariance
from nelbo.model.fitted.pixel_map import MapVariance
from nelbo.model.fitted.variance import CalibratedVariance, Fitted, FittedVariance, HybridVariance

__all__ = [
    "Basis",
    "CalibratedVariance",
    "ContextGaussian",
    "Cosine",
    "Fitted",
    "FittedVariance",
    "HybridVariance",
    "LocalVariance",
    "MapVariance",
    "Pixel",
    "Reflections",
]
