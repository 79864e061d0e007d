"""From sequences and settings to an untrained model of symbols."""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.errors import UsageError
from nelbo.model.examples import Examples
from nelbo.model.tokens.denoiser import TokenTime
from nelbo.model.tokens.description import make_denoiser
from nelbo.model.tokens.domain import TokenDomain
from nelbo.model.tokens.model import TokenModel, grid_for, prior_for
from nelbo.process.tokens.kernel import Absorbing, Kernel, Uniform
from nelbo.process.tokens.survival import Cosine, Linear, Survival
from nelbo.training.config import TrainConfig
from nelbo.training.domain import classes_of
from nelbo.typing import Json

SURVIVALS: dict[str, type[Survival]] = {"linear": Linear, "cosine": Cosine}


def build_token_model(examples: Examples, settings: TrainConfig, rows: Tensor | None = None) -> TokenModel:
    """The model that `settings` describe for these sequences (N, L), with fresh weights keyed by the seed.

    rows: the sequences that are trained on, where these are not all; the frequencies of their symbols are the network's
    law before the first step. Errors: UsageError where settings and data do not fit.
    """
    domain = _domain(examples, settings)
    V, chosen = domain.vocabulary, settings.tokens
    kernel: Kernel = Absorbing(V) if chosen.kernel == "masked" else Uniform()
    timed = TokenTime.parse(chosen.time).timed
    if kernel.absorbing and settings.objective.name == "hybrid":
        raise UsageError(
            "the hybrid objective of masked places, whose bound is a cross-entropy already",
            "use objective=bound, or tokens.kernel=uniform",
        )
    if not kernel.absorbing and not timed:
        raise UsageError(
            f"uniform noise, and a network with tokens.time = {chosen.time!r} that is not told how much there is of it",
            "use tokens.time=unit or tokens.time=sigma",
        )
    if settings.objective.name not in ("bound", "hybrid"):
        raise UsageError(
            f"the objective {settings.objective.name!r} of sequences of symbols", "use objective=bound or hybrid"
        )
    schedule = SURVIVALS[chosen.schedule]() if timed else None
    net: Json = {**settings.net.settings, **classes_of(examples, settings)}
    config: Json = {
        "kind": "network",
        "time": chosen.time,
        "law": "posterior",
        "predicts": "logits",
        "shift": False,
        "stochastic": False,
        "net": {"name": settings.net.name, "settings": net},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        denoiser = make_denoiser(config, domain)
    data = examples.data if rows is None else examples.data[rows]
    with torch.no_grad():
        denoiser.net.out.bias.copy_(log_frequencies(data, V))  # type: ignore[union-attr]
    grid = grid_for(kernel, schedule)
    return TokenModel(
        domain=domain,
        kernel=kernel,
        denoiser=denoiser,
        schedule=schedule,
        grid=grid,
        prior=prior_for(kernel, schedule, grid, V),
    )


def log_frequencies(data: Tensor, vocabulary: int, pseudo_count: float = 0.5) -> Tensor:
    """Log of the smoothed frequency of every symbol, (V,), in sequences (N, L)."""
    counts = torch.bincount(torch.as_tensor(data).long().flatten(), minlength=vocabulary) + pseudo_count
    return (counts / counts.sum()).log().float()


def _domain(examples: Examples, settings: TrainConfig) -> TokenDomain:
    data, facts = examples.data, examples.facts
    if data.ndim != 2 or data.is_floating_point() or not isinstance(data, Tensor):
        raise UsageError(
            f"the network {settings.net.name!r} is for sequences of symbols, and {examples.name} has examples of shape "
            f"{tuple(data.shape[1:])}, {str(data.dtype).removeprefix('torch.')}",
            "give text:FILE or integers (N, L); images take net=unet or net=mlp",
        )
    of_text = facts.get("vocabulary") or (len(facts["alphabet"]) if "alphabet" in facts else None)
    vocabulary = settings.bins or of_text or examples.bins
    if vocabulary is None and facts.get("tokenizer") == "bytes":
        vocabulary = 256
    if vocabulary is None:
        raise UsageError(
            f"the number of symbols of {examples.name} is not known: they run to {int(data.max())}",
            f"give it: bins={max(1, int(data.max())) + 1} if no symbol is larger in any data",
        )
    domain = TokenDomain(vocabulary, data.shape[1])
    domain.checked(data)
    return domain
