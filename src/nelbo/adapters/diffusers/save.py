"""Export: a model as a folder that diffusers loads.

    model.save_pretrained(folder)                       # or nelbo.save_pretrained(model, folder, bound=bound)
    DDPMPipeline.from_pretrained(folder)().images       # in a program that knows nothing of nelbo

The folder holds a DDPMPipeline: model_index.json, scheduler/, unet/ with safetensors, and in addition nelbo.json.
nelbo's own networks are not classes of diffusers and are saved in nelbo's own folders only.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from nelbo.adapters.diffusers import tables, weights
from nelbo.adapters.diffusers.extras import TENSORS, write_extras
from nelbo.errors import UsageError
from nelbo.files import exchange, temporary_folder, write_atomic
from nelbo.model.denoiser import NetworkDenoiser, TimeInput
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.reverse import Clip, Clipping, Threshold
from nelbo.nets.diffusers import Adaptation, DiffusersNet, library
from nelbo.process.levels import Path as NoisePath
from nelbo.process.prediction import Output
from nelbo.process.schedule import Table
from nelbo.typing import Json

PREDICTIONS = {Output.EPS: "epsilon", Output.X0: "sample", Output.V: "v_prediction"}
VARIANCES = {"beta_tilde": "fixed_small", "beta": "fixed_large", "learned_range": "learned_range"}


def save_pretrained(model: DiffusionModel, folder: str | Path, card: str = "") -> Path:
    """Write `model` as a DDPMPipeline to `folder` (created if missing; files of the same name are replaced).

    card: the text of README.md, where there is one. Weights of an earlier save in other files (in shards, as .bin) are
    removed; other files are kept. Everything is written to a new folder, which then takes the name of the old one, so
    that a crash leaves one of them. Where names cannot be exchanged, or a process is in the folder, the files are moved
    one by one. Errors: UsageError naming the part of the model that diffusers cannot express, or what lies in the
    folder and would be read in place of this model.
    """
    folder = Path(folder)
    _check_target(folder)
    diffusers = library("saving a folder of diffusers")
    inner = _network(model)
    scheduler = diffusers.DDPMScheduler(**scheduler_config(model))
    place = folder.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    lock, new = temporary_folder(place.parent)
    try:
        diffusers.DDPMPipeline(unet=inner, scheduler=scheduler).save_pretrained(new, safe_serialization=True)
        write_extras(model, new)
        if card:
            write_atomic(new / "README.md", card)
        _put(new, place)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if lock is not None:
            os.close(lock)
    return folder


def _put(new: Path, place: Path) -> None:
    """Give the pipeline in `new` the name `place`, with what else an earlier folder of that name holds."""
    if not place.exists():
        new.rename(place)
        return
    written = {file.relative_to(new) for file in new.rglob("*") if file.is_file()}
    earlier = {path.relative_to(place) for path in (place / TENSORS, *(s.path for s in weights.files(place / "unet")))}
    if not Path.cwd().is_relative_to(place) and _with_others(place, new, written | earlier) and exchange(new, place):
        shutil.rmtree(new, ignore_errors=True)  # what was there before
        return
    for file in sorted(written):
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(new / file, place / file)  # which may be on another file system
    for file in earlier - written:
        (place / file).unlink(missing_ok=True)


def _with_others(place: Path, new: Path, own: set[Path]) -> bool:
    """Link whatever else is in `place` into `new`; False where that cannot be done."""

    def ignored(inside: str, names: list[str]) -> list[str]:
        below = Path(inside).relative_to(place)
        return [name for name in names if below / name in own]

    try:
        shutil.copytree(place, new, True, ignored, copy_function=os.link, dirs_exist_ok=True)
    except OSError:  # a file system without links
        return False
    return True


def _check_target(folder: Path) -> None:
    """Errors: UsageError where the folder is a file, or holds what would be read in place of what is written."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"the folder {folder} is a file", "give the name of a folder; it is made where it is missing")
    if (folder / "model.json").exists():
        raise UsageError(f"{folder} is a model folder of nelbo, which its model.json describes", "give another folder")
    variants = [source.path.name for source in weights.files(folder / "unet") if source.variant is not None]
    if variants:
        raise UsageError(
            f"{folder / 'unet'} holds variants of the weights of another model: {', '.join(variants[:3])}",
            "remove them, or give another folder",
        )


def _network(model: DiffusionModel) -> torch.nn.Module:
    net = getattr(model.denoiser, "net", None)
    if not isinstance(net, DiffusersNet) or net.recipe["name"] != "unet2d":
        recipe = getattr(net, "recipe", None)
        named = recipe["name"] if isinstance(recipe, dict) else type(net or model.denoiser).__name__
        raise UsageError(
            f"the network {named!r} is not diffusers' UNet2DModel, and a DDPMPipeline can hold no other",
            "train one with net=unet2d, net.head=plain and schedule=linear; any other model of nelbo stays in "
            "the folder that `nelbo train` wrote",
        )
    return net.inner


def scheduler_config(model: DiffusionModel) -> Json:
    """The configuration of a DDPMScheduler whose chain is the model's. Errors: UsageError where there is none."""
    denoiser, schedule, reverse = model.denoiser, model.schedule, model.reverse
    assert isinstance(denoiser, NetworkDenoiser)
    plain = denoiser.net.adaptation == Adaptation()  # type: ignore[union-attr]
    if not isinstance(schedule, Table) or schedule.path is not NoisePath.VP or denoiser.time is not TimeInput.INDEX:
        raise _refused(
            f"a {schedule.kind!r} schedule on the {schedule.path_name!r} path whose network gets the time as "
            f"{denoiser.time.value}",
            "a DDPMScheduler has a table of β, and its network gets the table's index",
        )
    if denoiser.output not in PREDICTIONS or not plain:
        raise _refused(f"a network that predicts {denoiser.output.value!r}", "a DDPMScheduler knows eps, x0 and v")
    if reverse.variance.kind not in VARIANCES:
        raise _refused(f"the variance {reverse.variance.kind!r}", f"a DDPMScheduler knows {', '.join(VARIANCES)}")
    return {
        **table_config(schedule),
        "prediction_type": PREDICTIONS[denoiser.output],
        "variance_type": VARIANCES[reverse.variance.kind],
        **_clip_config(reverse.clip),
    }


def _clip_config(clip: Clipping | None) -> Json:
    if isinstance(clip, Threshold):
        return {"thresholding": True, "dynamic_thresholding_ratio": clip.ratio, "sample_max_value": clip.maximum}
    if clip is None:
        return {"clip_sample": False}
    if not isinstance(clip, Clip) or clip.low != -clip.high:
        raise _refused(f"a model with {clip}", "a DDPMScheduler clips to [−r, r]")
    return {"clip_sample": True, "clip_sample_range": clip.high}


def table_config(schedule: Table) -> Json:
    """The keys of a configuration that reproduce the schedule to ten digits: its name if it has one, else its β."""
    log_alpha_bar = torch.nn.functional.logsigmoid(schedule.table)
    steps = torch.diff(log_alpha_bar, prepend=torch.zeros(1, dtype=torch.float64))
    betas = -torch.expm1(steps)
    T = len(betas)
    ends = {"beta_start": round(float(betas[0]), 12), "beta_end": round(float(betas[-1]), 12)}
    for name in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        config = {"num_train_timesteps": T, "beta_schedule": name, **ends}
        if torch.allclose(tables.table(config).table, schedule.table, rtol=1e-10, atol=1e-10):
            return config
    return {"num_train_timesteps": T, "trained_betas": betas.tolist()}


def _refused(what: str, why: str) -> UsageError:
    return UsageError(f"{what} cannot be written as a folder of diffusers", why)
