"""A model made by a function that its user named: `package.module:function`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import inspect
import sys
from pathlib import Path

from nelbo.errors import ModelFolderError, NelboError, UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.latent.model import LatentModel
from nelbo.model.predictor import Predictor
from nelbo.model.tokens.model import TokenModel
from nelbo.parts import hash_tensors

HINT = "name it package.module:function, importable from here, a function without arguments that returns a model"


def call(text: str) -> DiffusionModel | TokenModel | LatentModel:
    """The model that `package.module:function` returns; its denoiser knows where it came from.

    The current directory is importable. Errors: ModelFolderError, UsageError.
    """
    module_name, function_name = check_reference(text)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelFolderError(f"{text!r} is neither a folder nor importable: {error}", HINT) from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"the module {module_name!r} has no function {function_name!r}", HINT)
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise UsageError(f"{text!r} cannot be called without arguments: {error}", HINT) from None
    except ValueError:
        pass  # a function that does not tell its arguments
    try:
        model = function()
    except NelboError:
        raise
    except Exception as error:
        raise UsageError(
            f"{text!r} raised {type(error).__name__}: {error}",
            "that happened in the function itself; set NELBO_TRACEBACK=1 to see where",
        ) from error
    if not isinstance(model, (DiffusionModel, TokenModel, LatentModel)):
        raise UsageError(f"{text!r} returned a {type(model).__name__}, not a nelbo.DiffusionModel", HINT)
    model.denoiser.reference = text
    return model


def check_reference(text: str) -> tuple[str, str]:
    """Module and function of `package.module:function`. Errors: ModelFolderError for anything else."""
    module_name, _, function_name = text.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise ModelFolderError(f"{text!r} is neither a folder nor the name of a function in a module", HINT)
    return module_name, function_name


def files(reference: str) -> list[Path]:
    """The files that an import of the reference's module runs first: those of its packages and its own; none is run.

    Errors: ModelFolderError where the module has no file.
    """
    places: list[str] | None = [str(Path.cwd()), *sys.path]
    seen: list[Path] = []
    parts = check_reference(reference)[0].split(".")
    for i in range(len(parts)):
        name = ".".join(parts[: i + 1])
        loaded = sys.modules.get(name)
        spec = loaded.__spec__ if loaded is not None else importlib.machinery.PathFinder.find_spec(name, places)
        file = getattr(loaded, "__file__", None) or (spec.origin if spec is not None and spec.has_location else None)
        if spec is None or (file is None and not spec.submodule_search_locations):
            raise ModelFolderError(f"the module {name!r} of {reference!r} has no file here", HINT)
        seen += [] if file is None else [Path(file)]
        places = list(spec.submodule_search_locations or ())
    return seen


def code(reference: str) -> str:
    """SHA-256 of `files`, by which a folder knows the module that it refers to again. What the module imports itself is
    not part of it. Errors: ModelFolderError."""
    digest = hashlib.sha256()
    for path in files(reference):
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise ModelFolderError(f"{path} cannot be read: {error.strerror}", HINT) from None
    return digest.hexdigest()


def weights(denoiser: Predictor) -> str:
    """SHA-256 of the weights of a denoiser, by which a folder that only refers to them knows them again."""
    digest = hashlib.sha256()
    hash_tensors(digest, denoiser.state_dict())
    return digest.hexdigest()
