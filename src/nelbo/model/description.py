"""`model.json` of a `DiffusionModel`: its entries, and the model that they describe."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nelbo import fields
from nelbo.errors import ModelFolderError, UsageError
from nelbo.model import entries
from nelbo.model import fitted as _fitted  # noqa: F401  its kinds may stand in a folder
from nelbo.model.decoder import Decoder
from nelbo.model.denoiser import CategoricalDenoiser, Denoiser, NetworkDenoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.entries import PLUGIN, Form, Optional, check_entries, under
from nelbo.model.latent import likelihood as _likelihood  # noqa: F401  as are its
from nelbo.model.mixture import MixtureDenoiser
from nelbo.model.prior import Prior
from nelbo.model.reverse import Reverse
from nelbo.nets import build
from nelbo.process.every_grid import Grid
from nelbo.process.schedule import Schedule
from nelbo.typing import Json

PARTS = ("schedule", "reverse", "decoder", "prior")

_TIMED: dict[str, Any] = {"kind": str, "time": str, "net": dict}
DENOISERS: dict[str, dict[str, Any]] = {
    "categorical": _TIMED,
    "mixture": {**_TIMED, "components": int, "output": Optional(str)},
    "network": {
        **_TIMED,
        "output": str,
        "sigma_data": Optional(float),
        "learned_variance": Optional(bool),
        "stochastic": Optional(bool),
    },
    "plugin": PLUGIN,
}
"""The entries of a denoiser by its kind."""
RECIPE: dict[str, Any] = {"name": str, "settings": dict, "logsnr_max": float | None, "logsnr_min": float | None}


def denoiser_config(denoiser: Denoiser, recipe: Json) -> Json:
    """What `model.json` says of a denoiser whose network has a recipe. Errors: UsageError."""
    if isinstance(denoiser, CategoricalDenoiser):
        return {"kind": "categorical", "time": denoiser.time.value, "net": recipe}
    if isinstance(denoiser, MixtureDenoiser):
        return {"kind": "mixture", "time": denoiser.time.value, "net": recipe, **denoiser.settings()}
    if isinstance(denoiser, NetworkDenoiser):
        entries = {"kind": "network", "output": denoiser.output.value, "time": denoiser.time.value, "net": recipe}
        return {**entries, **denoiser.settings()}
    raise UsageError(f"a {type(denoiser).__name__} cannot be saved", "save a model with one of nelbo's own networks")


def make_denoiser(config: Json, domain: DataDomain) -> Denoiser:
    """A denoiser with fresh weights from its configuration, as `model.json` holds it. Errors: ModelFolderError for
    entries that do not fit, UnknownNameError, UsageError."""
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in DENOISERS or kind == "plugin":
        raise ModelFolderError(f"a denoiser of the kind {fields.shown(kind)}", f"it is one of {', '.join(DENOISERS)}")
    check_entries(config, DENOISERS[kind], f"the denoiser {kind!r}")
    net = make_net(config, domain)
    if kind == "categorical":
        return CategoricalDenoiser(net, domain, config["time"])
    if kind == "mixture":
        return MixtureDenoiser(net, domain, config["components"], config["time"], config.get("output"))
    settings = {k: config[k] for k in ("sigma_data", "learned_variance", "stochastic") if k in config}
    return NetworkDenoiser(net, config["output"], config["time"], **settings)


def make_net(config: Json, domain: DataDomain) -> nn.Module:
    """The network of a denoiser's configuration, with fresh weights."""
    recipe = config["net"]
    check_entries(recipe, RECIPE, "the network")
    return build(
        recipe["name"],
        recipe["settings"],
        shape=domain.shape,
        codes=domain.bins if config["kind"] == "categorical" else None,
        logsnr_max=recipe["logsnr_max"],
        logsnr_min=recipe["logsnr_min"],
    )


def assembled(description: Json, tensors: dict[str, Tensor], trust_code: bool) -> DiffusionModel:
    """The model of a description and its tensors, which all have a role. Errors: NelboError, those of
    `entries.MEANINGLESS`."""
    hashes = entries.trained_on(tensors, ("net.", "domain.", *(f"{part}." for part in PARTS)))
    domain = DataDomain.from_config(description["domain"], under(tensors, "domain."))
    weights = {k: v for k, v in tensors.items() if k.startswith("net.")}
    config = description["denoiser"]
    denoiser = entries.denoiser_of(config, lambda: make_denoiser(config, domain), Denoiser, weights, trust_code)
    families = {"schedule": Schedule, "reverse": Reverse, "decoder": Decoder, "prior": Prior}
    parts = {name: families[name].from_config(description[name], under(tensors, f"{name}.")) for name in PARTS}
    return DiffusionModel(
        domain=domain,
        grid=Grid.from_config(description["grid"], {}),
        denoiser=denoiser,
        provenance=description["provenance"],
        trained_on=hashes,
        **parts,  # type: ignore[arg-type]
    )


FORM = Form(
    schema="nelbo.model/1",
    kind=DiffusionModel,
    entries={**entries.COMMON, **dict.fromkeys(PARTS, dict)},
    parts=PARTS,
    denoiser=denoiser_config,
    assembled=assembled,
)
