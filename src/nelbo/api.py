"""The verbs of the library: strings for models and data are resolved here, then the floor below does the work."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, overload

from torch import Tensor

from nelbo import data as readers
from nelbo import sampling as samplers
from nelbo.bound.compare import Comparison
from nelbo.bound.compare import compare as compare_models
from nelbo.bound.evaluate import evaluate as evaluate_bound
from nelbo.bound.result import Bound
from nelbo.errors import ModelFolderError, UsageError
from nelbo.model import folder
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.sampling import Trajectory
from nelbo.training import train as train_model
from nelbo.typing import Json

Model = DiffusionModel | str | Path
Data = Examples | Tensor | str | Path | Any


def load(model: Model) -> DiffusionModel:
    """The model in a folder written by `nelbo train`, or made by `package.module:function` (no arguments).

    The current directory is importable. Errors: ModelFolderError, UsageError.
    """
    if isinstance(model, DiffusionModel):
        return model
    text = str(model)
    if Path(text).exists() or ":" not in text:
        return folder.load(text)
    return _plugin(text)


def evaluate(model: Model, data: Data, *, limit: int | None = None, **options: Any) -> Bound:
    """The variational bound of `data` under `model`, term by term, with error bars.

    model: a DiffusionModel or MODEL string; data: an array of codes, a torch Dataset, `Examples` or a DATA string;
    limit: only the first so many examples. All other options are those of `nelbo.bound.evaluate.evaluate`.

    >>> import nelbo, torch
    >>> data = nelbo.exact.CategoricalData(torch.full((4, 17), 1 / 17))
    >>> model = data.model(nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.continuous())
    >>> bound = nelbo.evaluate(model, data.sample(16), estimator="stratified", seed=0)
    >>> abs(bound.bits_per_dim - 4.087) < 4 * bound.standard_error.total        # log2(17), the entropy
    True
    """
    return evaluate_bound(load(model), readers.resolve(data, limit=limit), **options)


def compare(model_a: Model, model_b: Model, data: Data, *, limit: int | None = None, **options: Any) -> Comparison:
    """The difference of two models' bounds on the same examples, A − B in bits/dim, with paired standard errors.

    Common random numbers: the same positions and noise for both models. Options and errors as of
    `nelbo.bound.compare.compare`.

    >>> import nelbo, torch
    >>> data = nelbo.exact.CategoricalData(torch.tensor([[0.7, 0.2, 0.1]] * 4))
    >>> fine, coarse = (data.model(nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.even(K)) for K in (64, 8))
    >>> nelbo.compare(fine, coarse, data.sample(64), tolerance=0.05).difference < 0
    True
    """
    return compare_models(load(model_a), load(model_b), readers.resolve(data).first(limit), **options)


def train(
    data: Data,
    out: str | Path,
    config: Json | None = None,
    *,
    resume: bool = False,
    device: str | None = None,
    progress: Callable[[Json], None] | None = None,
    message: Callable[[str], None] | None = None,
) -> DiffusionModel:
    """Train a model on `data` into the folder `out`; see `nelbo.training.loop.train` for options and errors."""
    return train_model(
        readers.resolve(data), out, config, resume=resume, device=device, progress=progress, message=message
    )


@overload
def sample(model: Model, n: int, *, trajectory: Literal[True], **options: Any) -> Trajectory: ...


@overload
def sample(model: Model, n: int, *, trajectory: Literal[False] = False, **options: Any) -> Tensor: ...


def sample(model: Model, n: int, **options: Any) -> Tensor | Trajectory:
    """n draws of p_θ(x); see `nelbo.sampling.ancestral.sample` for options and errors."""
    return samplers.sample(load(model), n, **options)


def _plugin(text: str) -> DiffusionModel:
    module_name, _, function_name = text.partition(":")
    hint = "name it package.module:function, importable from here, a function without arguments that returns a model"
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise ModelFolderError(f"{text!r} is neither a folder nor the name of a function in a module", hint)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelFolderError(f"{text!r} is neither a folder nor importable: {error}", hint) from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"the module {module_name!r} has no function {function_name!r}", hint)
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise UsageError(f"{text!r} cannot be called without arguments: {error}", hint) from None
    except ValueError:
        pass  # a function that does not tell its arguments
    model = function()
    if not isinstance(model, DiffusionModel):
        raise UsageError(f"{text!r} returned a {type(model).__name__}, not a nelbo.DiffusionModel", hint)
    return model
