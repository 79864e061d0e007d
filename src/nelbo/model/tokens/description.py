"""`model.json` of a `TokenModel`: its entries, and the model that they describe."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nelbo import fields
from nelbo.errors import ModelFolderError, UsageError
from nelbo.model import entries
from nelbo.model.entries import PLUGIN, Form, check_entries, under
from nelbo.model.tokens.calibration import Calibration
from nelbo.model.tokens.denoiser import NetworkTokenDenoiser, TokenDenoiser, TokenTime
from nelbo.model.tokens.domain import TokenDomain
from nelbo.model.tokens.model import TokenModel
from nelbo.model.tokens.reverse import TokenPrior, TokenReverse
from nelbo.nets import build_for_tokens
from nelbo.process.every_grid import Grid
from nelbo.process.tokens.kernel import Kernel
from nelbo.process.tokens.survival import Survival
from nelbo.typing import Json

PARTS = ("kernel", "schedule", "reverse", "prior", "calibration")
DENOISERS: dict[str, dict[str, Any]] = {
    "network": {"kind": str, "time": str, "law": str, "predicts": str, "shift": bool, "stochastic": bool, "net": dict},
    "plugin": PLUGIN,
}
"""The entries of a denoiser by its kind."""
RECIPE: dict[str, Any] = {"name": str, "settings": dict}


def denoiser_config(denoiser: TokenDenoiser, recipe: Json) -> Json:
    """What `model.json` says of a denoiser whose network has a recipe. Errors: UsageError."""
    if not isinstance(denoiser, NetworkTokenDenoiser) or set(recipe) != set(RECIPE):
        raise UsageError(
            f"a {type(denoiser).__name__} cannot be saved", "save a model with one of nelbo's networks over symbols"
        )
    return {"kind": "network", **denoiser.settings(), "net": recipe}


def make_denoiser(config: Json, domain: TokenDomain) -> NetworkTokenDenoiser:
    """A denoiser with fresh weights from its configuration, as `model.json` holds it. Errors: ModelFolderError for
    entries that do not fit, UnknownNameError, UsageError."""
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in DENOISERS or kind == "plugin":
        raise ModelFolderError(f"a denoiser of the kind {fields.shown(kind)}", f"it is one of {', '.join(DENOISERS)}")
    check_entries(config, DENOISERS[kind], f"the denoiser {kind!r}")
    check_entries(config["net"], RECIPE, "the network")
    settings = {name: config[name] for name in ("time", "law", "predicts", "shift", "stochastic")}
    net = build_for_tokens(**config["net"], vocabulary=domain.vocabulary, time=TokenTime.parse(config["time"]).value)
    return NetworkTokenDenoiser(net, domain.vocabulary, **settings)


def assembled(description: Json, tensors: dict[str, Tensor], trust_code: bool) -> TokenModel:
    """The model of a description and its tensors, which all have a role. Errors: NelboError, those of
    `entries.MEANINGLESS`."""
    hashes = entries.trained_on(tensors, ("net.", *(f"{part}." for part in PARTS)))
    domain = TokenDomain.from_config(description["domain"], {})
    weights = {k: v for k, v in tensors.items() if k.startswith("net.")}
    config = description["denoiser"]
    denoiser = entries.denoiser_of(config, lambda: make_denoiser(config, domain), TokenDenoiser, weights, trust_code)
    families = {"kernel": Kernel, "schedule": Survival, "reverse": TokenReverse, "prior": TokenPrior}
    families |= {"calibration": Calibration}
    parts: dict[str, Any] = {}
    for name, family in families.items():
        inner = under(tensors, f"{name}.")
        if description.get(name) is None and inner:
            raise ModelFolderError(f"there are tensors of its {name}, and it has none", entries.REMEDY)
        parts[name] = None if description.get(name) is None else family.from_config(description[name], inner)
    return TokenModel(
        domain=domain,
        grid=Grid.from_config(description["grid"], {}),
        denoiser=denoiser,
        provenance=description["provenance"],
        trained_on=hashes,
        **parts,
    )


FORM = Form(
    schema="nelbo.token_model/1",
    kind=TokenModel,
    entries={
        **entries.COMMON,
        **dict.fromkeys(PARTS, dict),
        "schedule": dict | None,
        "calibration": entries.Optional(dict | None),
    },
    parts=PARTS,
    denoiser=denoiser_config,
    assembled=assembled,
)
