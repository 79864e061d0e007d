"""`load`: the model that a folder, a function in a module or a name on the hub stands for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nelbo.adapters import diffusers, foreign, transformers
from nelbo.adapters.choices import Overrides
from nelbo.errors import UsageError
from nelbo.model import folder, plugin
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.latent.model import LatentModel
from nelbo.model.tokens.model import TokenModel
from nelbo.typing import Json

NAMED = "model.json"
"""The file that a folder of nelbo is known by."""
Model = DiffusionModel | TokenModel | LatentModel | str | Path | Any
"""A model, the name of one as of `load`, or a pipeline of diffusers."""


def load_images(model: Model, *, overrides: Overrides | None = None, trust_code: bool = False) -> DiffusionModel:
    """The model as of `load`, for a verb that is of images. Errors: those of `load`; UsageError for one of symbols."""
    loaded = load_data_model(model, overrides=overrides, trust_code=trust_code)
    if isinstance(loaded, TokenModel):
        raise UsageError(
            "a model of symbols where one of images is needed",
            "models of symbols are evaluated and sampled, and compress their data",
        )
    return loaded


def load_data_model(
    model: Model, *, overrides: Overrides | None = None, trust_code: bool = False
) -> DiffusionModel | TokenModel:
    """The model as of `load`, for a verb that is of chains over the data themselves. Errors: those of `load`;
    UsageError for a latent model."""
    loaded = load(model, overrides=overrides, trust_code=trust_code)
    if isinstance(loaded, LatentModel):
        raise UsageError(
            "a latent model where one of images themselves is needed",
            "evaluate, sample, contrast and tighten take latent models; its chain over latents is its part `prior`",
        )
    return loaded


def load(
    model: Model,
    *,
    overrides: Overrides | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    trust_code: bool = False,
) -> DiffusionModel | TokenModel | LatentModel:
    """The model in a folder written by `nelbo train` or by `save_pretrained` of diffusers or transformers, or made by
    `package.module:function` (no arguments), or of the hub (`org/name`), or of a pipeline of diffusers; a model itself
    is returned as it is.

    model: one of these. overrides: choices that replace the model's own. subfolder, revision, local_files_only: as of
    diffusers' `from_pretrained`. trust_code: import and call the function that a folder refers to, as that of a
    tightened plug-in does; without it such a folder is refused, and what it would run is named. A function that is
    named here itself needs no such consent. The current directory is importable. Errors: ModelFolderError; UsageError
    for anything else, such as a network alone, with the line that makes a model of it.

    >>> import nelbo, tempfile
    >>> data = nelbo.exact.CategoricalData([[0.7, 0.2, 0.1]])
    >>> model = data.model(nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.even(16))
    >>> nelbo.load(model, overrides=nelbo.Overrides(clip=True)).reverse.clip.high
    1.0
    """
    if not isinstance(overrides, (Overrides, type(None))):
        raise UsageError(f"overrides={overrides!r}", "give nelbo.Overrides(clip=True), say")
    chosen = overrides or Overrides()
    pipeline = foreign.is_pipeline(model)
    if (isinstance(model, (DiffusionModel, TokenModel, LatentModel)) or pipeline) and (
        subfolder is not None or revision is not None
    ):
        raise UsageError(
            f"subfolder={subfolder!r} and revision={revision!r} with a {type(model).__name__}",
            "they say where in a folder or on the hub a model is; an object is the model itself",
        )
    if isinstance(model, (DiffusionModel, TokenModel, LatentModel)):
        return _with(chosen, model)
    # the choices go into a model of diffusers as it is made: they settle what its configuration leaves open
    given: Json = {name: value for name, value in vars(chosen).items() if value is not None}
    if pipeline:
        return diffusers.from_diffusers(model, **given)
    if not isinstance(model, (str, os.PathLike)):
        raise foreign.no_model(model)
    text = os.fspath(model)
    text = str(Path(text).expanduser()) if text.startswith("~") else text
    foreign.check_name(text)
    path = Path(text) / subfolder if subfolder else Path(text)
    foreign.check_file(path)
    on_hub = not Path(text).exists() and diffusers.is_hub_id(text)
    hub: Json = {"subfolder": subfolder, "revision": revision, "local_files_only": local_files_only}
    if on_hub and (diffusers.fetched(text, (NAMED,), **hub) / NAMED).exists():
        path = diffusers.fetched(text, (NAMED, folder.WEIGHTS), **hub)
        return _with(chosen, folder.load(path, trust_code=trust_code))
    if on_hub or diffusers.is_folder(path):
        return diffusers.from_diffusers(text, **given, **hub)
    if transformers.is_folder(path):
        return _with(chosen, transformers.from_transformers(path, trust_code=trust_code))
    foreign.check_folder(path)
    if Path(text).exists() or ":" not in text:
        return _with(chosen, folder.load(path, trust_code=trust_code))
    return _with(chosen, plugin.call(text))


def _with(
    chosen: Overrides, model: DiffusionModel | TokenModel | LatentModel
) -> DiffusionModel | TokenModel | LatentModel:
    """The model with the choices in the place of its own. Errors: UsageError for choices of another kind of model."""
    if isinstance(model, DiffusionModel):
        return chosen.apply(model)
    if chosen:
        what = "a latent model" if isinstance(model, LatentModel) else "a model of symbols"
        where = "LatentModel" if isinstance(model, LatentModel) else "tokens.from_callable"
        raise UsageError(f"{', '.join(chosen.to_json())} chosen for {what}", f"its choices are made in {where}")
    return model
