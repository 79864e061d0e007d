"""What is given where a model is expected and is none: objects of other libraries, networks, weights, other values.

Each gets one error that names its class and the line of code that makes a model of it. No other library is imported:
its objects are known by the names of their classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nelbo.errors import ModelFolderError, NelboError, UsageError

FORMS = (
    "give a model of nelbo, a folder that `nelbo train` or save_pretrained wrote, package.module:function, "
    "org/name of the hub, or a pipeline of diffusers"
)
WRAP = "wrap it with nelbo.from_callable({net}, schedule=…, domain=…, predicts=…, time=…)"
WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pkl", ".npz", ".h5", ".msgpack", ".onnx")
"""Endings of files of weights, whatever is in them."""
PREDICTS = {
    "pred_noise": "eps", "pred_x0": "x0", "pred_v": "v",  # denoising-diffusion-pytorch
    "EPSILON": "eps", "START_X": "x0", "VELOCITY": "v",  # guided-diffusion and its descendants
}  # fmt: skip
VARIANCES = {"LEARNED_RANGE": "learned_range", "LEARNED": "learned_log", "FIXED_LARGE": "beta"}


def is_pipeline(value: Any) -> bool:
    """Whether `value` is a pipeline of diffusers."""
    return _is_of(value, "DiffusionPipeline", "diffusers")


def no_model(value: Any) -> NelboError:
    """The error of a `value` that is no model, with its class and the remedy."""
    if value is None:
        return UsageError("the model is None", FORMS)
    if isinstance(value, type):
        made = f"{value.__name__}(…)"
        return UsageError(
            f"the model is the class {value.__name__}, not an object of it",
            f"make one, net = {made}, and {_remedy_of_class(value)}",
        )
    if isinstance(value, (tuple, list)):
        inside = ", ".join(type(part).__name__ for part in value[:4]) + (", …" if len(value) > 4 else "")
        return UsageError(
            f"the model is a {type(value).__name__} ({inside})",
            "make a model of a network and a scheduler of diffusers with nelbo.from_diffusers((network, scheduler)), "
            "and of any other network with nelbo.from_callable(network, schedule=…, domain=…), one at a time",
        )
    if isinstance(value, torch.Tensor) or type(value).__module__.split(".")[0] == "numpy":
        return UsageError(
            f"the model is an object of the class {type(value).__name__}",
            "the model comes first, then the data: (model, data)",
        )
    if isinstance(value, Mapping):
        return UsageError(
            f"the model is a {type(value).__name__} of {len(value)} entries",
            "weights alone are no model: make their network, net.load_state_dict(weights), and "
            + WRAP.format(net="net"),
        )
    if inspect.isroutine(value):
        return UsageError(f"the model is the function {_name(value)}", _remedy_of_function(value))
    return UsageError(
        f"the model is an object of the class {type(value).__name__}, which is no p(x) by itself", _remedy(value)
    )


def _remedy(value: Any) -> str:
    """What to do with an object, by what it is."""
    if _is_of(value, "SchedulerMixin", "diffusers"):
        return "give it together with its network: nelbo.from_diffusers((network, scheduler))"
    if hasattr(value, "betas"):
        return _of_betas(value)
    if hasattr(value, "preconditioned_network_forward"):
        return (
            "with it as diffusion: nelbo.from_callable(diffusion.net, predicts='edm_F', time='c_noise', "
            f"sigma_data={value.sigma_data}, schedule=nelbo.schedules.edm({value.sigma_min}, {value.sigma_max}), "
            f"domain=nelbo.DataDomain({_shape(value)}, bins=256))"
        )
    if _is_of(value, None, "k_diffusion"):
        return _of_k_diffusion(value)
    for name in ("ema_model", "_orig_mod", "module"):
        if isinstance(getattr(value, name, None), nn.Module):
            return f"{WRAP.format(net=f'net.{name}')}, with it as net"
    if _is_of(value, "PreTrainedModel", "transformers"):
        return "of a network that fills in hidden symbols: nelbo.from_transformers(net, tokenizer=tokenizer)"
    if callable(value):
        return _remedy_of_class(type(value))
    return FORMS


def _remedy_of_class(cls: type) -> str:
    """What to do with a network, or any callable, of this class."""
    if any(c.__name__.startswith("Autoencoder") or c.__name__ == "VQModel" for c in cls.__mro__):
        return (
            "an autoencoder has no chain: evaluate the network over its latents, as a density: "
            "nelbo.from_diffusers((unet, scheduler), bins=None)"
        )
    if _descends(cls, "ModelMixin", "diffusers"):
        return (
            "make a model of it with its scheduler, nelbo.from_diffusers((net, scheduler)), or with a schedule of your "
            "own: nelbo.from_callable(lambda z, t: net(z, t).sample, schedule=…, domain=…)"
        )
    return WRAP.format(net="net")


def _remedy_of_function(function: Any) -> str:
    try:
        needed = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    except (TypeError, ValueError):
        needed = [None]
    if not needed:
        return (
            f"a function that makes a model is called: give {_name(function)}(), or its name, package.module:function"
        )
    return WRAP.format(net=_name(function) if _name(function).isidentifier() else "function")


def _of_betas(value: Any) -> str:
    """The line for an object that holds a table of β: denoising-diffusion-pytorch, guided-diffusion."""
    net = "diffusion.model" if callable(getattr(value, "model", None)) else "net"
    stated = [getattr(value, "objective", None), getattr(getattr(value, "model_mean_type", None), "name", None)]
    predicts = next((PREDICTS[name] for name in stated if name in PREDICTS), None)
    variance = VARIANCES.get(getattr(getattr(value, "model_var_type", None), "name", ""))
    if variance is None and "Learned" in type(value).__name__:
        variance = "learned_range"
    options = f"predicts={predicts!r}" if predicts else "predicts=…"
    options += f", variance={variance!r}" if variance else ""
    return (
        f"with it as diffusion: nelbo.from_callable({net}, {options}, "
        f"schedule=nelbo.schedules.from_betas(diffusion.betas), domain=nelbo.DataDomain({_shape(value)}, bins=256))"
    )


def _shape(value: Any) -> str:
    """(C, H, W) of an object that holds the number of channels and the size of its images, else a place for it."""
    channels, size = getattr(value, "channels", None), getattr(value, "image_size", None)
    if not isinstance(channels, int) or size is None:
        return "(channels, height, width)"
    return str((channels, *((size, size) if isinstance(size, int) else size)))


def _of_k_diffusion(value: Any) -> str:
    """A preconditioned denoiser is D(x; σ); a wrapper of a table holds a network that predicts ε or v."""
    if hasattr(value, "sigmas"):
        predicts = "v" if any("VDDPM" in c.__name__ for c in type(value).__mro__) else "eps"
        return (
            "take the network inside it, with the betas that it was trained with: nelbo.from_callable("
            f"wrapper.inner_model, predicts={predicts!r}, schedule=nelbo.schedules.from_betas(betas), domain=…)"
        )
    return (
        "with it as denoiser: nelbo.from_callable(denoiser, predicts='edm_D', time='sigma', "
        "schedule=nelbo.schedules.edm(sigma_min, sigma_max), domain=…)"
    )


def _is_of(value: Any, base: str | None, library: str) -> bool:
    return _descends(type(value), base, library)


def _descends(cls: type, base: str | None, library: str) -> bool:
    """Whether a class, or one that it derives from, is `base` (any, where None) of `library`."""
    return any((base or c.__name__) == c.__name__ and c.__module__.split(".")[0] == library for c in cls.__mro__)


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def check_name(text: str) -> None:
    """Errors: UsageError for a text that names no place: an address, a text too long for a path or of several lines."""
    if "://" in text:
        raise UsageError(f"the model {text!r} is an address", "of the hub give org/name; else the path of a folder")
    try:
        Path(text).exists()
    except (OSError, ValueError):
        pass
    else:
        if "\0" not in text and "\n" not in text:
            return
    start = " ".join(text.split())[:40].replace("\0", "")
    raise UsageError(f"the model is a text of {len(text)} characters, {start!r} …, which names no place", FORMS)


def check_file(path: Path) -> None:
    """Errors: ModelFolderError for a file, with what to give in its place; a folder and a missing path pass."""
    if not path.is_file():
        return
    if any((folder / "model_index.json").exists() for folder in (path.parent, path.parent.parent)):
        index = path.parent if (path.parent / "model_index.json").exists() else path.parent.parent
        hint = f"give the folder: {index}"
    elif (path.parent / "model.json").exists():
        hint = f"give the folder: {path.parent}"
    elif path.suffix == ".py":
        hint = f"name the function in it that returns a model: {path.stem}:function"
    elif path.suffix in WEIGHTS:
        read = "safetensors.torch.load_file(path)" if path.suffix == ".safetensors" else "torch.load(path)"
        hint = (
            f"weights alone are no model: write a function that makes their network, net.load_state_dict({read}), and "
            f"returns nelbo.from_callable(net, schedule=…, domain=…), and name it package.module:function"
        )
    else:
        hint = FORMS
    raise ModelFolderError(f"{path} is a file, and a model is a folder or a function", hint)


def check_folder(path: Path) -> None:
    """Errors: ModelFolderError for a folder that holds no model, or one of nelbo and one of diffusers.

    A folder of diffusers alone is read before, and a missing path passes.
    """
    if not path.is_dir():
        return
    inside = sorted(path.iterdir())
    if (path / "model.json").exists():
        if (path / "model_index.json").exists():
            raise ModelFolderError(
                f"{path} holds two models: model.json is nelbo's, and model_index.json is of a pipeline of diffusers",
                "keep each in a folder of its own",
            )
        return
    message, weights = f"{path / 'model.json'} is missing", [p.name for p in inside if p.suffix in WEIGHTS]
    models = [p.name for p in inside if (p / "model.json").exists() or (p / "model_index.json").exists()]
    if models:
        raise ModelFolderError(f"{message}: there are models in {', '.join(models[:4])} below it", "give one of them")
    if (path / "checkpoints").is_dir() and not (path / "model.safetensors").exists():
        raise ModelFolderError(
            f"{message}: it holds checkpoints of a training run that did not end",
            "finish it: nelbo.train(…, resume=True)",
        )
    if weights and "model.safetensors" not in weights:
        raise ModelFolderError(
            f"{message}: it holds weights ({', '.join(weights[:3])}), and these alone are no model",
            "load them into their network and wrap it in a function of a module: nelbo.from_callable(net, schedule=…, "
            "domain=…), and name it package.module:function",
        )
