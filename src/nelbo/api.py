"""The verbs of the library: strings for models and data are resolved here, then the floor below does the work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, overload

from torch import Tensor

from nelbo import data as readers
from nelbo import sampling as samplers
from nelbo.adapters import diffusers
from nelbo.adapters.options import Overrides
from nelbo.bound.compare import Comparison
from nelbo.bound.compare import compare as compare_models
from nelbo.bound.evaluate import evaluate as evaluate_bound
from nelbo.bound.result import Bound
from nelbo.bound.results import compare_results
from nelbo.errors import UsageError
from nelbo.files import write_atomic
from nelbo.likelihood.likelihood import ode_likelihood as evaluate_ode
from nelbo.likelihood.result import OdeLikelihood
from nelbo.model import folder, plugin
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.report import card
from nelbo.sampling import Trajectory
from nelbo.tightening import certificate as certificates
from nelbo.tightening.certificate import Certificate
from nelbo.tightening.tighten import tighten as tighten_model
from nelbo.training import TrainConfig, check_config
from nelbo.training import train as train_model
from nelbo.typing import Condition, Json
from nelbo.workers import Alone, Run

Model = DiffusionModel | str | Path
Data = Examples | Tensor | str | Path | Any


def load(
    model: Model,
    *,
    overrides: Overrides | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> DiffusionModel:
    """The model in a folder written by `nelbo train` or by diffusers' `save_pretrained`, or made by
    `package.module:function` (no arguments), or of the hub (`org/name`).

    overrides: choices in the place of the model's own. subfolder, revision, local_files_only: as of diffusers'
    `from_pretrained`. The current directory is importable. Errors: ModelFolderError, UsageError.
    """
    chosen = overrides or Overrides()
    if isinstance(model, DiffusionModel):
        return chosen.apply(model)
    text = str(model)
    path = Path(text) / subfolder if subfolder else Path(text)
    if diffusers.is_folder(path) or (not Path(text).exists() and diffusers.is_hub_id(text)):
        # the choices go in as the model is made: they settle what its configuration leaves open
        said: Json = {name: value for name, value in vars(chosen).items() if value is not None}
        hub: Json = {"subfolder": subfolder, "revision": revision, "local_files_only": local_files_only}
        return diffusers.from_diffusers(text, **said, **hub)
    if Path(text).exists() or ":" not in text:
        return chosen.apply(folder.load(path))
    return chosen.apply(plugin.call(text))


def save_pretrained(model: Model, out: str | Path, *, bound: Bound | None = None, license: str | None = None) -> Path:
    """Write `model`, whose network is diffusers' UNet2DModel, as a folder that `DDPMPipeline.from_pretrained` loads.

    With the folder goes a model card, README.md with YAML metadata; bound: what it is to say of the likelihood;
    license: an identifier such as "apache-2.0". The folder can be uploaded to the hub as it is. Errors: UsageError
    where diffusers cannot express the model, saying which part of it.
    """
    if bound is not None and bound.quantity != "vlb":
        raise UsageError(
            f"a result of quantity {bound.quantity!r} for a model card, which states the variational bound",
            "give what nelbo.evaluate returned",
        )
    model = load(model)
    written = diffusers.save_pretrained(model, out)
    write_atomic(written / "README.md", card.card(model, bound, name=Path(out).resolve().name, license=license))
    return written


def evaluate(
    model: Model,
    data: Data,
    *,
    limit: int | None = None,
    condition: Condition | str | None = None,
    overrides: Overrides | None = None,
    **options: Any,
) -> Bound:
    """The variational bound of `data` under `model`, term by term, with error bars.

    model: a DiffusionModel or MODEL string; data: an array of codes, a torch Dataset, `Examples` or a DATA string;
    limit: only the first so many examples. condition: keywords of the network with one row an example, or the name of
    the keyword that takes the labels of the data. overrides: choices in the place of the model's own, recorded in the
    result. All other options are those of `nelbo.bound.evaluate.evaluate`.

    >>> import nelbo, torch
    >>> data = nelbo.exact.CategoricalData(torch.full((4, 17), 1 / 17))
    >>> model = data.model(nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.continuous())
    >>> bound = nelbo.evaluate(model, data.sample(16), estimator="stratified", seed=0)
    >>> abs(bound.bits_per_dim - 4.087) < 4 * bound.standard_error.total        # log2(17), the entropy
    True
    """
    examples = readers.resolve(data, limit=limit)
    chosen = overrides or Overrides()
    given = conditions(condition, examples)
    bound = evaluate_bound(load(model, overrides=chosen), examples, condition=given, **options)
    return dataclasses.replace(bound, overrides=chosen.to_json())


def ode_likelihood(
    model: Model,
    data: Data,
    *,
    limit: int | None = None,
    condition: Condition | str | None = None,
    overrides: Overrides | None = None,
    **options: Any,
) -> OdeLikelihood:
    """−log p of `data` by the probability-flow ODE of `model`, in the form of a bound; `quantity` is "ode".

    model, data, limit, condition, overrides: as of `evaluate`. All other options, the formula and its source are those
    of `nelbo.likelihood.likelihood.ode_likelihood`.

    >>> import nelbo, torch
    >>> data = nelbo.exact.CategoricalData(torch.tensor([[0.7, 0.2, 0.1]] * 4))
    >>> model = data.model(nelbo.schedules.logsnr_linear(6.0, -8.0), nelbo.grids.continuous())
    >>> codes = data.sample(8)
    >>> found = nelbo.ode_likelihood(model, codes, precision="float64", per_example=True)
    >>> bool((found.per_example.nats + data.log_prob(codes)).abs().max() < 0.01)   # the exact model's −log P
    True
    """
    examples = readers.resolve(data, limit=limit)
    chosen = overrides or Overrides()
    given = conditions(condition, examples)
    found = evaluate_ode(load(model, overrides=chosen), examples, condition=given, **options)
    return dataclasses.replace(found, overrides=chosen.to_json())


def compare(
    model_a: Model | Bound,
    model_b: Model | Bound,
    data: Data | None = None,
    *,
    limit: int | None = None,
    condition: Condition | str | None = None,
    overrides: Overrides | None = None,
    **options: Any,
) -> Comparison:
    """The difference of two models' bounds on the same examples, A − B in bits/dim, with paired standard errors.

    Common random numbers: the same positions and noise for both models. condition and overrides are of both models, as
    of `evaluate`; other options and errors as of `nelbo.bound.compare.compare`. Two results in the place of models, of
    `evaluate` or of `ode_likelihood` with per_example=True, are compared as they are, and only with their like.

    >>> import nelbo, torch
    >>> data = nelbo.exact.CategoricalData(torch.tensor([[0.7, 0.2, 0.1]] * 4))
    >>> fine, coarse = (data.model(nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.even(K)) for K in (64, 8))
    >>> nelbo.compare(fine, coarse, data.sample(64), tolerance=0.05).difference < 0
    True
    """
    if isinstance(model_a, Bound) or isinstance(model_b, Bound):
        return compare_results(model_a, model_b)
    if data is None:
        raise UsageError("two models are to be compared on no data", "give data, such as 'digits:test' or an array")
    examples = readers.resolve(data).first(limit)
    chosen = overrides or Overrides()
    a, b = (load(model, overrides=chosen) for model in (model_a, model_b))
    found = compare_models(a, b, examples, condition=conditions(condition, examples), **options)
    return dataclasses.replace(found, overrides=chosen.to_json())


def tighten(
    model: Model,
    data: Data,
    steps: int | None = None,
    *,
    out: str | Path | None = None,
    held_out: Data | None = None,
    limit: int | None = None,
    condition: Condition | str | None = None,
    overrides: Overrides | None = None,
    **options: Any,
) -> tuple[DiffusionModel, Certificate]:
    """The same weights with a better bound in `steps` evaluations (25): (tightened model, certificate).

    Chooses the levels of the chain, the first of them with a decoder fitted there, and reverse covariances, on a half
    of `data`, and certifies the bound on the other half (on `held_out` where that is given). out: a folder to write the
    model and certificate.json to; a model of package.module:function is kept as that name and the fitted parts. limit:
    only the first so many examples of the data. condition, overrides: as of `evaluate`. Other options, errors and
    sources: `nelbo.tightening.tighten`.

    >>> import nelbo, torch, warnings
    >>> data = nelbo.exact.CategoricalData(torch.tensor([[0.7, 0.2, 0.1]] * 4))
    >>> model = data.model(nelbo.schedules.logsnr_linear(6.0, -6.0), nelbo.grids.even(32))
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")          # it does not say what it was trained on
    ...     tight, certificate = nelbo.tighten(model, data.sample(64), steps=4)
    >>> tight.steps, certificate.after.examples
    (4, 32)
    """
    source = model
    model = load(model, overrides=overrides)
    if out is not None:
        check_tightened_folder(source, model, out)
    examples = readers.resolve(data, limit=limit)
    other = None if held_out is None else readers.resolve(held_out)
    given = conditions(condition, examples)
    if other is not None and isinstance(condition, str):
        options["held_out_condition"] = conditions(condition, other)
    tight, found = tighten_model(model, examples, steps, held_out=other, condition=given, **options)
    if out is not None:
        document = json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n"
        write_atomic(Path(out) / certificates.FILE, document)
        folder.save(tight, out)
    return tight, found


def check_tightened_folder(source: Model, model: DiffusionModel, out: str | Path) -> None:
    """Errors: UsageError where `out` cannot hold the tightened model, or is the model's own folder; before the work."""
    folder.check_keepable(model)
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise UsageError(f"the folder {out} is a file", "give the name of a folder; it is made where it is missing")
    if not isinstance(source, DiffusionModel) and path.exists() and Path(source).resolve() == path.resolve():
        raise UsageError(
            f"the tightened model was to replace the model in {out}", "give another folder; the first is kept"
        )


def conditions(condition: Condition | str | None, examples: Examples) -> Condition | None:
    """Keywords of the network: as given, or the labels of the data under the name given.

    Errors: UsageError where labels are asked for that the data do not have.
    """
    if not isinstance(condition, str):
        return condition
    if not condition.isidentifier():
        raise UsageError(f"the condition {condition!r}", "give the name of the network's keyword, such as y")
    if examples.labels is None:
        raise UsageError(
            f"the condition {condition!r} takes the labels of the data, and {examples.name} has none",
            "labels come from an npz key (labels, y), an IDX companion file or sub-folder names; in Python give "
            "condition={name: rows}",
        )
    return {condition: examples.labels}


def train(
    data: Data,
    out: str | Path,
    config: Json | TrainConfig | None = None,
    *,
    validation: Data | None = None,
    **options: Any,
) -> DiffusionModel:
    """Train a model on `data` into the folder `out`; see `nelbo.training.loop.train` for options and errors.

    validation: data to bound along the way, where the configuration does not name any.
    """
    watched = check_config(config).validation.data if validation is None else validation
    run = Run(device=options.pop("device", None), workers=options.pop("workers", None) or Alone())
    return train_model(
        readers.resolve(data), out, config,
        validation=None if watched is None else readers.resolve(watched), run=run, **options,
    )  # fmt: skip


@overload
def sample(model: Model, n: int, *, trajectory: Literal[True], **options: Any) -> Trajectory: ...


@overload
def sample(model: Model, n: int, *, trajectory: Literal[False] = False, **options: Any) -> Tensor: ...


def sample(model: Model, n: int, *, overrides: Overrides | None = None, **options: Any) -> Tensor | Trajectory:
    """n draws of p_θ(x); see `nelbo.sampling.draw.sample` for options and errors, `evaluate` for overrides."""
    return samplers.sample(load(model, overrides=overrides), n, **options)
