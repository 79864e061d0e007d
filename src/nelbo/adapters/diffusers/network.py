"""A network of diffusers by its configuration: shape of the data, learned variance, conditions."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

from torch import nn

from nelbo.adapters.diffusers.config import check_keys, defaults, typed
from nelbo.adapters.diffusers.scheduler import SchedulerChain
from nelbo.errors import ModelFolderError, UsageError
from nelbo.nets.diffusers import OTHERS, SIDES, UNET2D, Adaptation, DiffusersNet, library
from nelbo.process.schedule import Schedule, Table
from nelbo.typing import Json, Shape

NAMES = {maker.model: maker.name for maker in (UNET2D, *OTHERS.values())}
"""Class in diffusers → name of the network here."""
DEEPEST = 1000
"""Layers of a block, at most."""
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def shape_of(inner: Any, shape: Shape | None) -> Shape:
    """(C, H, W), or (C, N) of signals, of the data by the network's configuration, or `shape` if it is given.

    Errors: UsageError if the configuration does not determine it, or if input and output channels do not fit a chain.
    """
    config = inner.config
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
    sides = (size,) * _sides(inner) if isinstance(size, int) else tuple(size)
    return (C, *(int(side) for side in sides))


def _sides(inner: Any) -> int:
    """The number of dimensions of an example beside its channels."""
    return SIDES.get(NAMES.get(type(inner).__name__, ""), 2)


def is_latent(inner: Any) -> bool:
    """Whether the number of channels is that of no image: neither grey nor RGB."""
    return _sides(inner) == 2 and inner.config["in_channels"] not in (1, 3)


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


def check_times(inner: Any, schedule: Schedule) -> None:
    """Errors: UsageError where a network with a learned embedding of T' times goes with a table of T."""
    times = inner.config.get("num_train_timesteps")
    T = len(schedule.table) if isinstance(schedule, Table) else None
    if inner.config.get("time_embedding_type") == "learned" and None not in (times, T) and times != T:
        raise UsageError(
            f"the network embeds {times} times, and the scheduler has a table of {T} steps: they are not of one model",
            "give the scheduler that the network was trained with",
        )


def wrapped(inner: Any, adaptation: Adaptation) -> DiffusersNet:
    """The network as net(z, time, **condition). Errors: UsageError for a class that is not known here."""
    cls = type(inner).__name__
    if cls not in NAMES:
        raise unknown(cls, "")
    if NAMES[cls] == "unet2d_condition" and inner.config.get("addition_embed_type") is not None:
        raise UsageError(
            f"the network has addition_embed_type {inner.config['addition_embed_type']!r}: conditions in a dictionary",
            "wrap it: nelbo.from_callable(lambda z, t, a, b: net(z, t, a, added_cond_kwargs={'text_embeds': b}).sample"
            ", …)",
        )
    return DiffusersNet(inner, NAMES[cls], adaptation)


def bare(net: Any) -> Any:
    """The network inside `torch.compile`, DataParallel or DistributedDataParallel; any other as it is."""
    while (inner := getattr(net, "_orig_mod", None)) is not None or (
        isinstance(net, WRAPPERS) and (inner := net.module) is not None
    ):
        net = inner
    return net


def class_of(config: Json) -> str | None:
    """The class that a config.json is of. DiT was called Transformer2DModel before diffusers 0.29."""
    name = config.get("_class_name")
    former = name == "Transformer2DModel" and config.get("norm_type") == "ada_norm_zero"
    return "DiTTransformer2DModel" if former else name


def made(config: Json, folder: Path) -> nn.Module:
    """A network with random weights from its config.json. Errors: UsageError for a class that is not known here;
    ModelFolderError where the class does not take the configuration."""
    cls = class_of(config)
    if cls not in NAMES:
        raise unknown(cls, f" in {folder}")
    if config.get("quantization_config") is not None:
        raise UsageError(
            f"the network in {folder} is quantised (quantization_config): its weights are no plain numbers",
            "load it with diffusers and wrap it, nelbo.from_callable(lambda z, t: net(z, t).sample, …), or give the "
            "model that it was quantised from",
        )
    known = defaults(str(cls))
    check_keys(config, known, f"{folder / 'config.json'}")
    settings = typed({k: v for k, v in config.items() if k in known}, known, f"the network {cls}")
    for name, value in settings.items():
        if "layers" in name and isinstance(value, int) and value > DEEPEST:
            raise ModelFolderError(
                f"{folder / 'config.json'} asks for {name} = {value}", f"it was altered; {DEEPEST} is the most"
            )
    try:
        return getattr(library(f"the folder {folder}"), str(cls)).from_config(settings)
    except Exception as error:  # whatever the class raises
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelFolderError(
            f"{folder / 'config.json'} makes no {cls}: {reason.strip()[:250]}",
            "it is incomplete or altered; copy the whole folder again",
        ) from None


def unknown(cls: str | None, where: str) -> UsageError:
    """The error for a network of another class, with the arguments that its `forward` takes where diffusers has it."""
    kind = getattr(library(f"the network {cls}"), str(cls), None)
    message = f"the network {cls}{where} is none of {', '.join(NAMES)}"
    forward = getattr(kind, "forward", None)
    takes = [] if forward is None else list(inspect.signature(forward).parameters)[1:]
    time = next((name for name in takes if name.startswith("timestep")), None)
    if time is None:
        return UsageError(message, "wrap it yourself: nelbo.from_callable(lambda z, t: net(z, t).sample, …)")
    others = [name for name in takes if name not in (takes[0], time, "return_dict")]
    if "img_ids" in takes:
        return UsageError(
            message,
            f"write a function of z (B, C, H, W), t and the condition that packs z into rows of patches, calls the "
            f"network with {time}=t and {', '.join(others)}, and unpacks the result, and wrap it: nelbo.from_callable("
            "function, schedule=nelbo.schedules.flow(), domain=…, predicts='velocity', time='unit')",
        )
    return UsageError(
        message,
        f"load it with diffusers and wrap it, with its conditions ({', '.join(others)}): nelbo.from_callable(lambda z, "
        f"t, **condition: net({takes[0]}=z, {time}=t, **condition, return_dict=False)[0], schedule=…, domain=…, "
        "predicts=…); a network of flow matching has schedule=nelbo.schedules.flow(), predicts='velocity' and "
        f"time='unit', and is given {time}=1000 * t",
    )
