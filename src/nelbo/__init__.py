"""nelbo: the likelihood instrument for diffusion models.

Names are loaded on first use, so that `import nelbo` costs nothing until something is asked of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nelbo._version import __version__

if TYPE_CHECKING:
    from nelbo import codec, data, equations, likelihood, monitoring, testing
    from nelbo import sampling as samplers
    from nelbo.adapters import latent, tokens
    from nelbo.adapters.callable import from_callable
    from nelbo.adapters.choices import Overrides
    from nelbo.adapters.diffusers import from_diffusers
    from nelbo.adapters.transformers import from_transformers
    from nelbo.api import (
        compare,
        contrast,
        diagnose,
        evaluate,
        likelihood_profile,
        load,
        log_ratio,
        ode_likelihood,
        push_to_hub,
        sample,
        save_pretrained,
        score,
        surprisal,
        tighten,
        train,
    )
    from nelbo.api import load as from_pretrained
    from nelbo.bound.contrast.profile_result import Profile
    from nelbo.bound.contrast.result import Contrast
    from nelbo.bound.result import Bound
    from nelbo.bound.tolerance import Relative
    from nelbo.errors import NelboError
    from nelbo.likelihood.likelihood import OdeLikelihood
    from nelbo.model import decoder as decoders
    from nelbo.model import exact
    from nelbo.model.diffusion import DiffusionModel
    from nelbo.model.domain import DataDomain
    from nelbo.model.examples import Examples
    from nelbo.model.latent.model import LatentModel
    from nelbo.model.tokens.model import TokenModel
    from nelbo.monitoring import Monitor, RatioEstimator, bound_loss
    from nelbo.process import every_grid as grids
    from nelbo.process import schedule as schedules

_NAMES = {
    "Bound": "nelbo.bound.result:Bound",
    "Contrast": "nelbo.bound.contrast.result:Contrast",
    "DataDomain": "nelbo.model.domain:DataDomain",
    "DiffusionModel": "nelbo.model.diffusion:DiffusionModel",
    "Examples": "nelbo.model.examples:Examples",
    "LatentModel": "nelbo.model.latent.model:LatentModel",
    "Monitor": "nelbo.monitoring:Monitor",
    "NelboError": "nelbo.errors:NelboError",
    "OdeLikelihood": "nelbo.likelihood.likelihood:OdeLikelihood",
    "Overrides": "nelbo.adapters.choices:Overrides",
    "Profile": "nelbo.bound.contrast.profile_result:Profile",
    "RatioEstimator": "nelbo.monitoring:RatioEstimator",
    "Relative": "nelbo.bound.tolerance:Relative",
    "TokenModel": "nelbo.model.tokens.model:TokenModel",
    "bound_loss": "nelbo.monitoring:bound_loss",
    "codec": "nelbo.codec",
    "compare": "nelbo.api:compare",
    "contrast": "nelbo.api:contrast",
    "data": "nelbo.data",
    "decoders": "nelbo.model.decoder",
    "diagnose": "nelbo.api:diagnose",
    "equations": "nelbo.equations",
    "evaluate": "nelbo.api:evaluate",
    "exact": "nelbo.model.exact",
    "from_callable": "nelbo.adapters.callable:from_callable",
    "from_diffusers": "nelbo.adapters.diffusers:from_diffusers",
    "from_pretrained": "nelbo.api:load",
    "from_transformers": "nelbo.adapters.transformers:from_transformers",
    "grids": "nelbo.process.every_grid",
    "latent": "nelbo.adapters.latent",
    "likelihood_profile": "nelbo.api:likelihood_profile",
    "likelihood": "nelbo.likelihood",
    "load": "nelbo.api:load",
    "monitoring": "nelbo.monitoring",
    "log_ratio": "nelbo.api:log_ratio",
    "ode_likelihood": "nelbo.api:ode_likelihood",
    "sample": "nelbo.api:sample",
    "samplers": "nelbo.sampling",
    "push_to_hub": "nelbo.api:push_to_hub",
    "save_pretrained": "nelbo.api:save_pretrained",
    "score": "nelbo.api:score",
    "surprisal": "nelbo.api:surprisal",
    "schedules": "nelbo.process.schedule",
    "testing": "nelbo.testing",
    "tighten": "nelbo.api:tighten",
    "tokens": "nelbo.adapters.tokens",
    "train": "nelbo.api:train",
}

__all__ = [
    "Bound",
    "Contrast",
    "DataDomain",
    "DiffusionModel",
    "Examples",
    "LatentModel",
    "Monitor",
    "NelboError",
    "OdeLikelihood",
    "Overrides",
    "Profile",
    "RatioEstimator",
    "Relative",
    "TokenModel",
    "__version__",
    "bound_loss",
    "codec",
    "compare",
    "contrast",
    "data",
    "decoders",
    "diagnose",
    "equations",
    "evaluate",
    "exact",
    "from_callable",
    "from_diffusers",
    "from_pretrained",
    "from_transformers",
    "grids",
    "latent",
    "likelihood",
    "likelihood_profile",
    "load",
    "log_ratio",
    "monitoring",
    "ode_likelihood",
    "push_to_hub",
    "sample",
    "samplers",
    "save_pretrained",
    "schedules",
    "score",
    "surprisal",
    "testing",
    "tighten",
    "tokens",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'nelbo' has no attribute {name!r}")
    module, _, attribute = _NAMES[name].partition(":")
    value = importlib.import_module(module)
    if attribute:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
