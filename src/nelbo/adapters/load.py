"""`load`: the model that a folder, a function in a module or a name on the hub stands for."""

from __future__ import annotations

from pathlib import Path

from nelbo.adapters import diffusers
from nelbo.adapters.choices import Overrides
from nelbo.model import folder, plugin
from nelbo.model.diffusion import DiffusionModel
from nelbo.typing import Json

Model = DiffusionModel | str | Path


def load(
    model: Model,
    *,
    overrides: Overrides | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> DiffusionModel:
    """The model in a folder written by `nelbo train` or by diffusers' `save_pretrained`, or made by
    `package.module:function` (no arguments), or of the hub (`org/name`); a model itself is returned as it is.

    overrides: choices that replace the model's own. subfolder, revision, local_files_only: as of diffusers'
    `from_pretrained`. The current directory is importable. Errors: ModelFolderError, UsageError.

    >>> import nelbo, tempfile
    >>> data = nelbo.exact.CategoricalData([[0.7, 0.2, 0.1]])
    >>> model = data.model(nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.even(16))
    >>> nelbo.load(model, overrides=nelbo.Overrides(clip=True)).reverse.clip.high
    1.0
    """
    chosen = overrides or Overrides()
    if isinstance(model, DiffusionModel):
        return chosen.apply(model)
    text = str(model)
    path = Path(text) / subfolder if subfolder else Path(text)
    if diffusers.is_folder(path) or (not Path(text).exists() and diffusers.is_hub_id(text)):
        # the choices go in as the model is made: they settle what its configuration leaves open
        given: Json = {name: value for name, value in vars(chosen).items() if value is not None}
        hub: Json = {"subfolder": subfolder, "revision": revision, "local_files_only": local_files_only}
        return diffusers.from_diffusers(text, **given, **hub)
    if Path(text).exists() or ":" not in text:
        return chosen.apply(folder.load(path))
    return chosen.apply(plugin.call(text))
