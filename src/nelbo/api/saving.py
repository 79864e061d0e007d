"""The verbs that hand a model on: `save_pretrained` and `push_to_hub`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from nelbo.adapters import diffusers
from nelbo.adapters.load import Model, load_data_model
from nelbo.arguments import checked_path
from nelbo.bound.result import Bound
from nelbo.errors import UsageError
from nelbo.files import write_atomic
from nelbo.model import folder
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.tokens.model import TokenModel
from nelbo.nets.diffusers import DiffusersNet
from nelbo.report import card


def save_pretrained(
    model: Model,
    out: str | Path,
    *,
    bound: Bound | None = None,
    license: str | None = None,
    trust_code: bool = False,
) -> Path:
    """Write `model`, whose network is diffusers' UNet2DModel, as a folder that `DDPMPipeline.from_pretrained` loads.

    A model of symbols, for which diffusers has no pipeline, becomes a folder that `nelbo.load` opens.
    With the folder goes a model card, README.md with YAML metadata. model: as of `nelbo.load`. out: the folder. bound:
    the result of `evaluate` that it states; license: an identifier such as "apache-2.0"; trust_code: as of `load`. The
    folder can be uploaded to the hub as it is. Errors: UsageError where diffusers cannot express the model, with the
    part of it that it cannot.

    >>> import nelbo, tempfile
    >>> from diffusers import DDPMScheduler, UNet2DModel
    >>> net = UNet2DModel(8, 1, 1, block_out_channels=(32, 32), down_block_types=("DownBlock2D",) * 2,
    ...                   up_block_types=("UpBlock2D",) * 2)
    >>> folder = nelbo.save_pretrained(nelbo.from_diffusers((net, DDPMScheduler(100)), bins=17), tempfile.mkdtemp())
    >>> nelbo.load(folder).steps
    100
    """
    _check_bound(bound)
    model, out = load_data_model(model, trust_code=trust_code), checked_path("out", out)
    if isinstance(model, TokenModel):
        return _saved_here(model, Path(out), bound, license)
    text = card.card(model, bound, name=Path(out).resolve().name, license=license)
    return diffusers.save_pretrained(model, out, text)


def push_to_hub(
    model: Model,
    name: str,
    *,
    bound: Bound | None = None,
    license: str | None = None,
    private: bool | None = None,
    message: str = "Upload by nelbo",
    trust_code: bool = False,
) -> str:
    """Upload `model` to the hub as `name` (org/name) with a model card; the address of the commit.

    A model whose network is diffusers' goes as `save_pretrained` writes it, and any other, of images or of symbols, as
    a folder of nelbo, which `nelbo.load("org/name")` opens. model: as of `nelbo.load`. name: org/name. message: of the
    commit. bound, license and trust_code are as of `save_pretrained`. private: whether the model is, where it is new
    (the default of the organisation where None). Errors: UsageError for a model that no folder can hold, and where the
    hub refuses it.
    """
    _check_bound(bound)
    if not (isinstance(name, str) and diffusers.is_hub_id(name)):
        raise UsageError(f"the name {name!r} of a model on the hub", 'give "organisation/name"')
    model = load_data_model(model, trust_code=trust_code)
    with tempfile.TemporaryDirectory(prefix="nelbo-") as place:
        out = Path(place) / name.split("/")[1]
        if isinstance(getattr(model.denoiser, "net", None), DiffusersNet):
            save_pretrained(model, out, bound=bound, license=license)
        else:
            _saved_here(model, out, bound, license)
        return diffusers.uploaded(out, name, private=private, message=message)


def _saved_here(model: DiffusionModel | TokenModel, out: Path, bound: Bound | None, license: str | None) -> Path:
    """A folder of nelbo with its card. Errors: those of `folder.save`."""
    folder.save(model, out)
    write_atomic(out / "README.md", card.card(model, bound, name=out.resolve().name, license=license, library="nelbo"))
    return out


def _check_bound(bound: Bound | None) -> None:
    if bound is not None and bound.quantity != "vlb":
        raise UsageError(
            f"a result of quantity {bound.quantity!r} for a model card, which states the variational bound",
            "give what nelbo.evaluate returned",
        )
