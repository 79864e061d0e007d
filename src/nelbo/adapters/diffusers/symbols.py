"""VQ-Diffusion of diffusers: a transformer over the codes of an image, with masks and uniform noise, as a `TokenModel`.

The chain is over the codes alone: what the codes are worth in pixels is its autoencoder's, and not part of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nelbo.errors import UsageError
from nelbo.model.tokens.denoiser import NetworkTokenDenoiser
from nelbo.model.tokens.domain import TokenDomain
from nelbo.model.tokens.model import TokenModel
from nelbo.model.tokens.reverse import SymbolPrior, TokenReverse
from nelbo.process.grid import Full
from nelbo.process.tokens.masks_and_uniform import MasksAndUniform
from nelbo.process.tokens.survival import AlphaTable
from nelbo.typing import Json

SCHEDULER = "VQDiffusionScheduler"


def parts_of(source: Any) -> tuple[Any, Any] | None:
    """(transformer, scheduler) of a pair or pipeline of VQ-Diffusion; None for anything else."""
    pair = source if isinstance(source, (tuple, list)) and len(source) == 2 else None
    if pair is None and not isinstance(source, str):
        pair = getattr(source, "transformer", None), getattr(source, "scheduler", None)
    return tuple(pair) if pair is not None and type(pair[1]).__name__ == SCHEDULER else None  # type: ignore[return-value]


class CodesNetwork(nn.Module):
    """z (B, L), unit time (B,) → logits (B, L, K + 1) of a transformer that gives log p of K codes, (B, K, L), at the
    index of a level; the mask's is −∞."""

    def __init__(self, inner: nn.Module, config: Json, T: int):
        super().__init__()
        self.inner, self.config, self.T = inner, config, T

    def identity(self) -> Json:
        """What its weights do not say."""
        return {"net": type(self.inner).__name__, "config": self.config, "T": self.T}

    def forward(self, z: Tensor, time: Tensor, **condition: Tensor) -> Tensor:
        index = (time.double() * self.T).round().long() - 1
        parts: list[Tensor] = []
        order: list[Tensor] = []
        for level in index.unique():  # the network embeds one time a call
            rows = (index == level).nonzero()[:, 0]
            some = {name: v[rows] for name, v in condition.items()}
            parts.append(self.inner(z[rows], timestep=level, **some).sample.transpose(1, 2))
            order.append(rows)
        logits = torch.cat(parts)[torch.cat(order).argsort()]
        return torch.cat([logits, torch.full_like(logits[..., :1], -torch.inf)], -1)


def token_model(inner: Any, scheduler: Any) -> TokenModel:
    """The model of codes that a `Transformer2DModel` over codes and a `VQDiffusionScheduler` define: every level of its
    table, the step by the network's law of the codes, and the prior that the chain ends at.

    Conditions are the network's keywords (`encoder_hidden_states`). Errors: UsageError for another network.
    """
    codes = getattr(inner.config, "num_vector_embeds", None)
    if codes is None:
        raise UsageError(
            f"a {type(inner).__name__} with {SCHEDULER}, which is no network over codes",
            "give its Transformer2DModel with num_vector_embeds",
        )
    config = dict(scheduler.config)
    if config["num_vec_classes"] != codes:
        raise UsageError(
            f"a scheduler of {config['num_vec_classes']} classes for a network of {codes}, the mask among them",
            "give the two of one pipeline",
        )
    T, size = config["num_train_timesteps"], inner.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    alphas, masked = (_line(T, config[f"{name}_start"], config[f"{name}_end"]) for name in ("alpha_cum", "gamma_cum"))
    kernel, schedule = MasksAndUniform(masked), AlphaTable(alphas)
    law = torch.full((codes,), float(1 - masked[-1]) / (codes - 1), dtype=torch.float64)
    law[-1] = masked[-1]  # q(z_T | x) on average over codes
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in dict(inner.config).items() if not k.startswith("_")}
    return TokenModel(
        domain=TokenDomain(codes, height * width),
        kernel=kernel,
        denoiser=NetworkTokenDenoiser(CodesNetwork(inner, plain, T), codes, "unit").eval(),
        schedule=schedule,
        grid=Full(),
        reverse=TokenReverse(absent=(codes - 1,)),
        prior=SymbolPrior(law),
        provenance={"diffusers": {"network": type(inner).__name__, "scheduler": SCHEDULER}},
    )


def _line(T: int, start: float, end: float) -> Tensor:
    """The scheduler's table of cumulative probabilities, (T,)."""
    return torch.linspace(start, end, T, dtype=torch.float64)
