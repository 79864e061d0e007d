"""The verb that hands a model on: `save_pretrained`."""

from __future__ import annotations

from pathlib import Path

from nelbo.adapters import diffusers
from nelbo.adapters.load import Model, load_images
from nelbo.arguments import checked_path
from nelbo.bound.result import Bound
from nelbo.errors import UsageError
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

    With the folder `out` goes a model card, README.md with YAML metadata; bound: the result of `evaluate` that it
    states; license: an identifier such as "apache-2.0"; trust_code: as of `load`. The folder can be uploaded to the hub
    as it is. Errors: UsageError where diffusers cannot express the model, with the part of it that it cannot.

    >>> import nelbo, tempfile
    >>> from diffusers import DDPMScheduler, UNet2DModel
    >>> net = UNet2DModel(8, 1, 1, block_out_channels=(32, 32), down_block_types=("DownBlock2D",) * 2,
    ...                   up_block_types=("UpBlock2D",) * 2)
    >>> folder = nelbo.save_pretrained(nelbo.from_diffusers((net, DDPMScheduler(100)), bins=17), tempfile.mkdtemp())
    >>> nelbo.load(folder).steps
    100
    """
    if bound is not None and bound.quantity != "vlb":
        raise UsageError(
            f"a result of quantity {bound.quantity!r} for a model card, which states the variational bound",
            "give what nelbo.evaluate returned",
        )
    model, out = load_images(model, trust_code=trust_code), checked_path("out", out)
    text = card.card(model, bound, name=Path(out).resolve().name, license=license)
    return diffusers.save_pretrained(model, out, text)
