"""`model.json` of a `LatentModel`: its entries, and the model that they describe."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nelbo import fields
from nelbo.errors import ModelFolderError, UsageError
from nelbo.model import description as of_images
from nelbo.model import entries
from nelbo.model.decoder import Decoder
from nelbo.model.domain import DataDomain
from nelbo.model.entries import Form, Optional, check_entries, under
from nelbo.model.latent.encoder import DeterministicEncoder, Encoder, GaussianEncoder, ImageDecoder
from nelbo.model.latent.model import LatentModel, LatentNetworks
from nelbo.model.latent.units import LatentUnits
from nelbo.nets.autoencoder import build_half
from nelbo.typing import Json

PARTS = ("likelihood", "units")
PRIOR: dict[str, Any] = dict.fromkeys((*of_images.PARTS, "domain", "denoiser", "provenance"), dict)
NETWORKS: dict[str, Any] = {"kind": str, "encoder": dict, "decoder": dict, "prior": dict}
ENCODERS: dict[str, dict[str, Any]] = {
    "gaussian": {"kind": str, "net": dict, "range": Optional(list[float])},
    "deterministic": {"kind": str, "net": dict, "tau": float},
}
RECIPE: dict[str, Any] = {"name": str, "settings": dict}


def networks_config(networks: LatentNetworks, recipe: Json) -> Json:
    """What `model.json` says of the networks and of the chain over z. Errors: UsageError where a folder cannot hold
    them."""
    encoder, prior = networks.encoder, networks.chain
    if isinstance(encoder, GaussianEncoder):
        of_encoder: Json = {"kind": "gaussian", "net": recipe["encoder"]}
        of_encoder |= {} if encoder.range is None else {"range": [float(v) for v in encoder.range]}
    elif isinstance(encoder, DeterministicEncoder):
        of_encoder = {"kind": "deterministic", "net": recipe["encoder"], "tau": encoder.tau}
    else:
        raise UsageError(f"a {type(encoder).__name__} cannot be saved", "save a Gaussian or a deterministic encoder")
    return {
        "kind": "latent",
        "encoder": of_encoder,
        "decoder": {"net": recipe["decoder"]},
        "prior": {
            "domain": prior.domain.to_config(),
            **{name: getattr(prior, name).to_config() for name in of_images.PARTS},
            "denoiser": of_images.denoiser_config(prior.denoiser, recipe["prior"]),
            "provenance": prior.provenance,
        },
    }


def assembled(description: Json, tensors: dict[str, Tensor], trust_code: bool) -> LatentModel:
    """The model of a description and its tensors, which all have a role. Errors: NelboError, those of
    `entries.MEANINGLESS`."""
    roles = ("encoder.", "decoder.", "prior.", "domain.", *(f"{part}." for part in PARTS))
    hashes = entries.trained_on(tensors, roles)
    config = description["denoiser"]
    check_entries(config, NETWORKS, "the networks")
    check_entries(config["prior"], PRIOR, "the prior")
    whole = {**config["prior"], "grid": description["grid"]}
    prior = of_images.assembled(whole, under(tensors, "prior."), trust_code)
    return LatentModel(
        encoder=_loaded(lambda: _encoder(config["encoder"]), under(tensors, "encoder.")),
        decoder=_loaded(lambda: _decoder(config["decoder"]), under(tensors, "decoder.")),
        prior=prior,
        likelihood=Decoder.from_config(description["likelihood"], under(tensors, "likelihood.")),
        domain=DataDomain.from_config(description["domain"], under(tensors, "domain.")),
        units=LatentUnits.from_config(description["units"], under(tensors, "units.")),
        provenance=description["provenance"],
        trained_on=hashes,
    )


def _loaded(make: Any, weights: dict[str, Tensor]) -> Any:
    entries.check_size(make, weights)
    made = make()
    made.load_state_dict(weights)
    return made.eval()


def _encoder(config: Json) -> Encoder:
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in ENCODERS:
        raise ModelFolderError(f"an encoder of the kind {fields.shown(kind)}", f"it is one of {', '.join(ENCODERS)}")
    check_entries(config, ENCODERS[kind], f"the encoder {kind!r}")
    check_entries(config["net"], RECIPE, "the encoder's network")
    net = build_half(**config["net"])
    if kind == "deterministic":
        return DeterministicEncoder(net, tau=config["tau"])
    cut = config.get("range")
    return GaussianEncoder(net, range=None if cut is None else tuple(cut))


def _decoder(config: Json) -> ImageDecoder:
    check_entries(config, {"net": dict}, "the decoder")
    check_entries(config["net"], RECIPE, "the decoder's network")
    return ImageDecoder(build_half(**config["net"]))


FORM = Form(
    schema="nelbo.latent_model/1",
    kind=LatentModel,
    entries={**entries.COMMON, **dict.fromkeys(PARTS, dict)},
    parts=PARTS,
    denoiser=networks_config,
    assembled=assembled,
)
