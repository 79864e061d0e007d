"""The verbs of the library: strings for models and data are resolved here, then the floors below do the work."""

from nelbo.adapters.load import load
from nelbo.api.comparing import compare, diagnose, log_ratio
from nelbo.api.contrasts import contrast
from nelbo.api.models import tighten, train
from nelbo.api.parameters import likelihood_profile, score
from nelbo.api.sampling import sample
from nelbo.api.saving import push_to_hub, save_pretrained
from nelbo.api.scoring import evaluate, ode_likelihood
from nelbo.api.surprisals import surprisal

__all__ = [
    "compare",
    "contrast",
    "diagnose",
    "evaluate",
    "likelihood_profile",
    "load",
    "log_ratio",
    "ode_likelihood",
    "push_to_hub",
    "sample",
    "save_pretrained",
    "score",
    "surprisal",
    "tighten",
    "train",
]
