"""A network of diffusers by its configuration: shape of the data, learned variance, conditions."""

from __future__ import annotations

import dataclasses
from typing import Any

from nelbo.adapters.diffusers.scheduler import SchedulerChain
from nelbo.errors import UsageError
from nelbo.nets.diffusers import OTHERS, UNET2D, Adaptation, DiffusersNet
from nelbo.typing import Json, Shape

NAMES = {maker.model: maker.name for maker in (UNET2D, *OTHERS.values())}
"""Class in diffusers → name of the network here."""


def shape_of(config: Json, shape: Shape | None) -> Shape:
    """(C, H, W) of the data by the network's configuration, or `shape` if it is given.

    Errors: UsageError if the configuration does not determine it, or if input and output channels do not fit a chain.
    """
    C, out = config["in_channels"], config.get("out_channels") or config["in_channels"]
    if out not in (C, 2 * C):
        raise UsageError(
            f"the network takes {C} channels and returns {out}: part of its input is not noisy data (a mask, a "
            "low-resolution image)",
            "wrap it so that the rest is a condition: nelbo.from_callable(lambda z, t, extra: "
            "net(torch.cat([z, extra], 1), t).sample, …)",
        )
    if shape is not None:
        return tuple(shape)
    size = config.get("sample_size")
    if size is None:
        raise UsageError(
            "the network's configuration has no sample_size, so the shape of the data is unknown",
            f"give it: shape=({C}, height, width)",
        )
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return (C, int(height), int(width))


def is_latent(config: Json) -> bool:
    """Whether the number of channels is that of no image: neither grey nor RGB."""
    return config["in_channels"] not in (1, 3)


def variance_of(config: Json, trained: SchedulerChain, chosen: Any) -> tuple[Any, Adaptation]:
    """The variance policy, and how the network's output is read, from scheduler, network and the user's choice.

    If neither scheduler nor user determines it: learned range for a network that returns 2C channels (Nichol & Dhariwal
    2021, as DiT was trained), otherwise β̃. Errors: UsageError where scheduler and network contradict each other.
    """
    C, out = config["in_channels"], config.get("out_channels") or config["in_channels"]
    twice, adaptation = out == 2 * C, trained.adaptation
    policy = chosen or trained.variance or ("learned_range" if twice else "beta_tilde")
    learned = policy in ("learned_range", "learned_log") or getattr(policy, "learned", False)
    if learned and not twice:
        raise UsageError(
            f"the variance is {policy!r}, but the network returns {out} channels for {C}: it predicts no variance",
            "choose a fixed variance: variance='beta_tilde' or 'beta'",
        )
    if twice and not learned:
        if chosen is None:
            raise UsageError(
                f"the network returns {out} channels for {C}, a mean and a variance, and the scheduler's variance_type "
                "is fixed",
                "choose one: variance='learned_range' as Nichol & Dhariwal trained it, or a fixed one such as "
                "variance='beta', which ignores the second half",
            )
        adaptation = dataclasses.replace(adaptation, outputs="mean")
    elif chosen is not None and adaptation.outputs == "raw_variance":
        adaptation = dataclasses.replace(adaptation, outputs="all")
    return policy, adaptation


def wrapped(inner: Any, adaptation: Adaptation) -> DiffusersNet:
    """The network as net(z, time, **condition). Errors: UsageError for a class that is not known here."""
    cls = type(inner).__name__
    if cls not in NAMES:
        raise UsageError(
            f"the network {cls} is none of {', '.join(NAMES)}",
            "wrap it yourself: nelbo.from_callable(lambda z, t: net(z, t).sample, …)",
        )
    if NAMES[cls] == "unet2d_condition" and inner.config.get("addition_embed_type") is not None:
        raise UsageError(
            f"the network has addition_embed_type {inner.config['addition_embed_type']!r}: conditions in a dictionary",
            "wrap it: nelbo.from_callable(lambda z, t, a, b: net(z, t, a, added_cond_kwargs={'text_embeds': b}).sample"
            ", …)",
        )
    return DiffusersNet(inner, NAMES[cls], adaptation)
