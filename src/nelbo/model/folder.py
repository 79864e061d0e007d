"""A model as a folder: `model.json` (its parts) and `model.safetensors` (its tensors). Nothing is pickled.

`model.json` holds the SHA-256 of the weights and of its own entries, so that a folder that is incomplete, truncated or
altered is refused by name of the file that is wrong. Overwriting survives a crash at any moment: the new weights are
written beside the old ones, then model.json, then the new weights take their name; `load` finishes the last step where
it was cut off.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from nelbo._version import __version__
from nelbo.errors import ModelFolderError, NelboError, UsageError
from nelbo.fields import parse_json, shown
from nelbo.files import alone_in, write_atomic
from nelbo.model import description, plugin
from nelbo.model.description import make_denoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.entries import MEANINGLESS, Form, check_entries
from nelbo.model.latent import description as of_latents
from nelbo.model.latent.model import LatentModel
from nelbo.model.opened import plain
from nelbo.model.tokens import description as of_tokens
from nelbo.model.tokens.model import TokenModel
from nelbo.typing import Json

__all__ = ["check_keepable", "check_target", "load", "make_denoiser", "read_description", "save"]

WEIGHTS = "model.safetensors"
PENDING = "model.safetensors.new"
FORMS = {form.schema: form for form in (description.FORM, of_tokens.FORM, of_latents.FORM)}
"""The kinds of models that a folder can hold, by the schema of their model.json."""


def save(model: DiffusionModel | TokenModel | LatentModel, folder: str | Path) -> Path:
    """Write `model` to `folder` (made if missing).

    Of a model that came from package.module:function the folder holds that name and the parts, and not its weights.
    Errors: UsageError where the network is neither one of nelbo's own nor from such a function, and those of
    `check_target`.
    """
    folder = Path(folder)
    check_target(folder)
    denoiser = check_keepable(model)
    elsewhere = model.denoiser.state_dict() if model.denoiser.reference is not None else {}
    kept = {name: value for name, value in model.tensors().items() if name not in elsewhere}
    tensors = _apart({name: value.detach().cpu().contiguous() for name, value in kept.items()})
    form = _form(model)
    if model.trained_on is not None:
        tensors["trained_on"] = model.trained_on
    weights = save_tensors(tensors)
    parts = {name: getattr(model, name) for name in form.parts}
    entries = {
        "schema": form.schema,
        "version": __version__,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "domain": model.domain.to_config(),
        "grid": model.grid.to_config(),
        **{name: None if part is None else part.to_config() for name, part in parts.items()},
        "denoiser": denoiser,
        "provenance": model.provenance,
    }
    entries["digest"] = digest(entries)
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):  # two models that are saved at once would mix their files
        write_atomic(folder / PENDING, weights)
        write_atomic(folder / "model.json", json.dumps(entries, indent=1, allow_nan=False))
        (folder / PENDING).replace(folder / WEIGHTS)
    return folder


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with copies of those that share memory with one before, which safetensors does not write."""
    seen: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, value in tensors.items():
        place = value.untyped_storage().data_ptr()
        apart[name] = value.clone() if place in seen else value
        seen.add(place)
    return apart


def check_target(folder: Path) -> None:
    """Errors: UsageError where a model cannot be written: a file, or a folder with a pipeline of diffusers."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"the folder {folder} is a file", "give the name of a folder; it is made where it is missing")
    if (folder / "model_index.json").exists():
        raise UsageError(f"{folder} holds a pipeline of diffusers, of another model", "give another folder")


def check_keepable(model: DiffusionModel | TokenModel | LatentModel) -> Json:
    """What `model.json` says of the denoiser. Errors: UsageError where a folder cannot hold it."""
    denoiser = model.denoiser
    net = getattr(denoiser, "net", None)
    recipe = getattr(net, "recipe", None)
    if denoiser.reference is not None:
        model.known_fingerprint("a folder that refers to the function, whose weights must not change")
        return {
            "kind": "plugin",
            "reference": denoiser.reference,
            "sha256": plugin.weights(denoiser),
            "code": plugin.code(denoiser.reference),
        }
    if recipe is None:
        raise UsageError(
            f"the network {type(denoiser if net is None else plain(net)).__name__} is a callable that a folder cannot "
            "hold",
            "keep it as a function in a module and name it package.module:function wherever a MODEL is asked for",
        )
    return _form(model).denoiser(denoiser, recipe)


def _form(model: DiffusionModel | TokenModel | LatentModel) -> Form:
    return next(form for form in FORMS.values() if isinstance(model, form.kind))


def load(folder: str | Path, *, trust_code: bool = False) -> DiffusionModel | TokenModel | LatentModel:
    """The model that `save` wrote to `folder`. Nothing that the folder holds is run.

    trust_code: import and call the function that the folder refers to, where it is that of a tightened plug-in, if the
    files of its module are those that the folder was written with. Errors: ModelFolderError naming the file that is
    missing or wrong, or the function that would be called.
    """
    folder = Path(folder)
    entries = read_description(folder)
    weights = b""
    for name in (PENDING, WEIGHTS):
        if name == WEIGHTS or (folder / name).exists():
            weights = _read(folder / name)
            if hashlib.sha256(weights).hexdigest() == entries["sha256"]:
                break
    else:
        raise ModelFolderError(
            f"{folder / WEIGHTS} is not the file that model.json was written with "
            f"({len(weights)} bytes, other SHA-256)",
            "it is truncated, altered or from another model; copy the whole folder again",
        )
    try:
        tensors = load_tensors(weights)
    except (SafetensorError, ValueError, KeyError, OverflowError) as error:
        raise ModelFolderError(
            f"{folder / WEIGHTS} holds no tensors that can be read: {str(error)[:200]}",
            "it was altered; copy the whole folder again",
        ) from None
    try:
        return FORMS[entries["schema"]].assembled(entries, tensors, trust_code)
    except NelboError as error:
        raise ModelFolderError(f"{folder / 'model.json'}: {error.message}", error.hint) from None
    except MEANINGLESS as error:
        raise ModelFolderError(
            f"{folder / 'model.json'} does not describe a model: {type(error).__name__}: {str(error)[:300]}",
            "model.json was altered or written by another version; write the folder again with this version",
        ) from None


def read_description(folder: Path) -> Json:
    """The parsed `model.json`, with entries of the right types and as it was written.

    Errors: ModelFolderError where it is missing, not JSON, not of nelbo, or altered.
    """
    if not folder.is_dir():
        raise ModelFolderError(f"there is no model folder {folder}", "give a folder written by `nelbo train`")
    path = folder / "model.json"
    try:
        entries = parse_json(_read(path))
    except ValueError as error:
        raise ModelFolderError(f"{path} is not JSON that can be read: {error}", "copy the folder again") from None
    schema = entries.get("schema") if isinstance(entries, dict) else None
    if not isinstance(schema, str) or schema not in FORMS:
        raise ModelFolderError(
            f"{path} has the schema {shown(schema)}, not {' or '.join(map(repr, FORMS))}",
            "give a folder written by `nelbo train`; another program's model.json cannot be read",
        )
    try:
        check_entries(entries, FORMS[schema].entries, "it")
    except ModelFolderError as error:
        raise ModelFolderError(f"{path}: {error.message}", error.hint) from None
    if entries.get("digest", digest(entries)) != digest(entries):
        raise ModelFolderError(
            f"{path} is not as it was written: its digest is that of other entries",
            "it was altered; copy the folder again, or make the model anew with what is to be changed",
        )
    return entries


def digest(entries: Json) -> str:
    """SHA-256 of all entries but the digest itself, by which a change of any of them is noticed. The entry `sha256`
    says the same of the weights, the names of the tensors and the hashes of the training examples."""
    rest = {name: value for name, value in entries.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ModelFolderError(f"{path} is a device or a pipe", "a model folder holds files")
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelFolderError(f"{path} is missing", "a model folder holds model.json and model.safetensors") from None
    except OSError as error:
        raise ModelFolderError(
            f"{path} cannot be read: {error.strerror}", "check the path and its permissions"
        ) from None
