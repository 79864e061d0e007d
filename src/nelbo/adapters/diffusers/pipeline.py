"""The parts of a pipeline, listed in model_index.json or held by an object: its one network, its autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nelbo.adapters.diffusers.network import NAMES
from nelbo.errors import UsageError
from nelbo.typing import Json

Parts = dict[str, str]
"""Name of each part → its class."""
NETWORKS = ("unet", "transformer")
LATENT = ("vae", "vqvae", "movq", "vqgan", "vae_encoder", "vae_decoder")
AUTOENCODERS = ("Autoencoder", "AsymmetricAutoencoder", "ConsistencyDecoder", "VQModel")
BESIDE = ("ControlNet", "MultiControlNet", "T2IAdapter", "MotionAdapter")
"""Beginnings of the classes of autoencoders, and of networks whose output is an input of the one that denoises."""

LATENT_HINT = (
    "to evaluate the latents themselves, as a density, give scaled latents as data and choose "
    "from_diffusers(…, bins=None), or decoder=continuous_gaussian"
)


def listed(index: Json) -> Parts:
    """The parts that a model_index.json lists, without those that are null."""
    return {k: str(v[1]) for k, v in index.items() if isinstance(v, list) and len(v) == 2 and v[0] is not None}


def held(pipeline: Any) -> Parts:
    """The parts of a pipeline, or of any object that has them under the usual names."""
    config = getattr(pipeline, "config", None)
    # a network answers for the numbers of its configuration, too, with a word that this is deprecated
    parts = (
        {k: v for k, v in getattr(pipeline, "__dict__", {}).items() if k in config}
        if isinstance(config, Mapping)
        else {}
    )
    parts |= {name: getattr(pipeline, name, None) for name in (*NETWORKS, *LATENT, "scheduler")}
    return {name: type(part).__name__ for name, part in parts.items() if part is not None}


def network(parts: Parts, where: str) -> str | None:
    """The name of the one network: unet, transformer, or of a class that is known here; None where there is none.

    Errors: UsageError where there are several.
    """
    names = [name for name, cls in parts.items() if name in NETWORKS or cls in NAMES or cls.startswith(BESIDE)]
    if len(names) > 1:
        raise UsageError(
            f"{where} has several networks, {' and '.join(names)}: how they make one prediction is not written there",
            "load them and wrap a function of (z, t) that does it: nelbo.from_callable(function, schedule=…, domain=…)",
        )
    return names[0] if names else None


def autoencoder(parts: Parts) -> tuple[str, str] | None:
    """Name and class of the part that makes latents of images, known by its name or its class; None without one."""
    found = [(part, cls) for part, cls in parts.items() if part in LATENT or cls.startswith(AUTOENCODERS)]
    return found[0] if found else None


REASONS = {
    "VQ": "its latents are entries of a codebook: q(z | x) is one point of a lattice, of which a chain over real z has "
    "no finite bound",
    "ConsistencyDecoder": "its decoder is itself a sampler, which has no likelihood p(x | z) in closed form",
    "AutoencoderTiny": "its encoder is deterministic, so that q(z | x) must be declared: nelbo.LatentModel with "
    "nelbo.latent.DeterministicEncoder(net, tau=…)",
    "Asymmetric": "its decoder is shown a part of the image besides z",
}
"""Why an autoencoder whose class begins so makes no whole latent model here."""


def check_latent(name: str | None, parts: Parts) -> None:
    """Errors: UsageError with the reason for a pipeline with an autoencoder that makes no whole latent model here."""
    found = autoencoder(parts)
    if found is not None:
        part, cls = found
        reason = next((text for start, text in REASONS.items() if cls.startswith(start)), None)
        what = f"the {cls} of its {part!r}" + (
            f" is none that has a bound: {reason}" if reason else " is not known here"
        )
        raise UsageError(f"{name or 'the pipeline'} is a latent model, and {what}", LATENT_HINT)
