"""The verbs that make a model: `train` and `tighten`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from nelbo import data as readers
from nelbo import runtime
from nelbo.adapters.choices import Overrides
from nelbo.adapters.load import Model, load, load_images
from nelbo.ambient import neutral
from nelbo.api.inputs import Data, Device, Progress, TokenInputs, conditioned
from nelbo.arguments import checked_path, numbers
from nelbo.data import arrays
from nelbo.errors import UsageError
from nelbo.files import write_atomic
from nelbo.model import folder
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.model.latent.model import LatentModel
from nelbo.model.tokens.model import TokenModel
from nelbo.progress import callback, shows_progress
from nelbo.tightening import certificate as certificates
from nelbo.tightening import latent as latent_tightenings
from nelbo.tightening import tighten as tightenings
from nelbo.tightening.certificate import Certificate
from nelbo.tightening.decoders import DecoderKind
from nelbo.tightening.tokens import tighten as token_tightenings
from nelbo.training import TrainConfig, check_config
from nelbo.training import train as train_model
from nelbo.typing import Condition, Json
from nelbo.workers import Alone, Run, Workers


@shows_progress("training", records=True)
@numbers
@neutral()
def train(
    data: Data,
    out: str | Path,
    config: Json | TrainConfig | None = None,
    *,
    validation: Data | None = None,
    resume: bool = False,
    device: Device | None = None,
    progress: Callable[[Json], None] | bool | None = None,
    message: Callable[[str], None] | None = None,
    workers: Workers | None = None,
) -> DiffusionModel | TokenModel | LatentModel:
    """Train a model on `data`, write it to the folder `out`, and return it (with the averaged weights).

    data: as of `evaluate`. out: the folder. config: settings as of `nelbo.training.TrainConfig`; a dict may name some
    of them. validation: data to bound along the way, in the place of a part of `data`, where the configuration does not
    name any. resume: continue from the newest checkpoint in out/checkpoints, to the same result, bit for bit on the
    same machine, as a run that was never stopped. device: where to train, the CPU where None. progress: None for a bar
    in terminals and notebooks, False for none, or a function that is called with a record a step (step, steps, unit,
    and every `log_every` steps loss, diffusion, reconstruction, prior in that unit, such as bits/dim or bits/char, lr,
    seconds; or bound, standard_error, nfe, best). message: called with lines for a person, which are printed beside a
    bar where None: what was read and what is trained, first of all. workers: the processes that share the run
    (`nelbo.runtime.workers()`), each of which calls this with the same arguments.

    Ctrl-C or SIGTERM finishes the step, saves a checkpoint and raises Interrupted; a second Ctrl-C does not wait.
    Errors: UsageError, DomainError, NumericalError (a loss that is not finite), DataError, WorkerError, OSError (no
    space left); the last checkpoint stays.

    >>> import nelbo, tempfile, torch
    >>> codes = torch.randint(0, 4, (64, 3), generator=torch.Generator().manual_seed(0))
    >>> settings = {"steps": 2, "batch_size": 8, "bins": 4, "net": {"name": "mlp", "width": 8}}
    >>> nelbo.train(codes, tempfile.mkdtemp() + "/run", settings).domain.shape
    (3,)
    """
    examples = check_config(config).validation.data if validation is None else validation
    given = readers.resolve(data)
    if not isinstance(data, Examples) and not (isinstance(data, (str, Path)) and "#layout=" in str(data)):
        arrays.check_channels_first(given)
    return train_model(
        given,
        out,
        config,
        validation=None if examples is None else readers.resolve(examples),
        resume=resume,
        progress=callback(progress),
        message=message,
        run=Run(device=device, workers=workers or Alone()),
    )


@shows_progress("tightening")
@numbers
@neutral()
def tighten(
    model: Model,
    data: Data,
    steps: int | None = None,
    *,
    target: float | None = None,
    held_out: Data | None = None,
    corpus: Data | None = None,
    first_level: str | DecoderKind = "auto",
    out: str | Path | None = None,
    limit: int | None = None,
    condition: Condition | str | None = None,
    held_out_condition: Condition | None = None,
    overrides: Overrides | None = None,
    trust_code: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
    device: Device | None = None,
    progress: Progress | None = None,
    message: Callable[[str], None] | None = None,
) -> tuple[DiffusionModel | LatentModel | TokenModel, Certificate]:
    """The same weights with a better bound in `steps` evaluations (25): (tightened model, certificate).

    Chooses the levels of the chain, the first of them with a decoder fitted there, and reverse covariances, on a half
    of `data`, which the model must not have been trained on, and certifies the bound on the other half. Of a latent
    model the scale of its likelihood is fitted before, and the width τ of a deterministic encoder. Of a TokenModel a
    temperature along the chain, a bias of symbols and a mixture with n-grams are fitted to the network's law, each kept
    where other sequences show that it helps; a plug-in step of a denoiser becomes the mixture, which is the plug-in of
    its leave-one-out law; its chain stays as it is, or has `steps` of masked places at chosen counts.

    model, data: as of `evaluate`. steps: evaluations of a pass of the result. target: in place of steps, a bound in
    bits/dim: the fewest steps for which the fit predicts it. held_out: data to certify on, so that all of `data` are
    fitted to; held_out_condition: their rows of the condition. first_level: "auto", or the decoder there: "own",
    "gaussian", "histogram", "pixel", "context". corpus: of a TokenModel the sequences in which n-grams are counted,
    such as those that it was trained on; where None, those of `data` that are neither fitted to nor held out. out: a
    folder to write the model and certificate.json to; a model of package.module:function is kept as that name and the
    fitted parts. limit: only the first so many examples of `data`.
    message: called with a line at every stage. condition, overrides, trust_code, seed, batch_size, device and progress
    are as of `evaluate`.

    Errors: UsageError (too few examples, too many steps, a target out of reach; a call in several processes, which do
    not share the work), and those of `evaluate`. Source: Watson et al. 2021 (grids); Bao et al. 2022 (variances).

    >>> import nelbo, torch, warnings
    >>> data = nelbo.exact.CategoricalData(torch.tensor([[0.7, 0.2, 0.1]] * 4))
    >>> model = data.model(nelbo.schedules.logsnr_linear(6.0, -6.0), nelbo.grids.even(32))
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")          # it is not known what it was trained on
    ...     tight, certificate = nelbo.tighten(model, data.sample(64), steps=4)
    >>> tight.steps, certificate.after.examples
    (4, 32)
    """
    runtime.check_first("tighten")
    out = None if out is None else checked_path("out", out)
    source, loaded = model, load(model, overrides=overrides, trust_code=trust_code)
    if not isinstance(loaded, (LatentModel, TokenModel)):
        loaded = load_images(loaded)
    if out is not None:
        _check_tightened_folder(source, loaded, out)
    run = Run(device=device, batch_size=batch_size, seed=seed, progress=callback(progress))
    latent = isinstance(loaded, LatentModel)
    if isinstance(loaded, (LatentModel, TokenModel)) and (target is not None or first_level != "auto"):
        raise UsageError(
            f"target={target}, first_level={first_level!r} of a {'latent model' if latent else 'model of symbols'}",
            "leave them out: they are of images alone"
            + ("; its chain over latents gets `steps`, and its first level is chosen" if latent else ""),
        )
    if corpus is not None and not isinstance(loaded, TokenModel):
        raise UsageError("a corpus with a model of images", "leave it out: n-grams are of sequences of symbols")
    given = readers.resolve(data, limit=limit)
    other = None if held_out is None else readers.resolve(held_out)
    if isinstance(loaded, TokenModel):
        rows = TokenInputs.of(given, condition=condition).condition
        if other is not None and isinstance(condition, str):
            held_out_condition = TokenInputs.of(other, condition=condition).condition
        counted = None if corpus is None else readers.resolve(corpus)
        rows_of: Json = {"condition": rows, "held_out_condition": held_out_condition, "corpus": counted}
        tight, certificate = token_tightenings.tighten(
            loaded, given, steps, held_out=other, run=run, message=message, **rows_of
        )
    else:
        chain = loaded.prior if isinstance(loaded, LatentModel) else loaded
        examples, rows = conditioned(condition, given, chain)
        if other is not None and isinstance(condition, str):
            other, held_out_condition = conditioned(condition, other, chain)
        rest: Json = {"held_out": other, "condition": rows, "held_out_condition": held_out_condition}
        rest |= {"run": run, "message": message}
        if isinstance(loaded, LatentModel):
            tight, certificate = latent_tightenings.tighten(loaded, examples, steps, **rest)
        else:
            how: Json = {"target": target, "first_level": first_level}
            tight, certificate = tightenings.tighten(loaded, examples, steps, **how, **rest)
    if out is not None:
        document = json.dumps(certificate.to_dict(), indent=1, allow_nan=False) + "\n"
        place = Path(out) / certificates.FILE
        place.unlink(missing_ok=True)  # at no moment does the folder hold a certificate of another model
        folder.save(tight, out)
        write_atomic(place, document)
    return tight, certificate


def _check_tightened_folder(source: Model, model: DiffusionModel | LatentModel | TokenModel, out: str | Path) -> None:
    """Errors: UsageError where `out` cannot hold the tightened model, or is the model's own folder; before the work."""
    folder.check_keepable(model)
    path = Path(out)
    named = isinstance(source, (str, os.PathLike))
    if named and path.exists() and Path(source).expanduser().resolve() == path.resolve():
        raise UsageError(f"the tightened model would replace the model in {out}", "give out=FOLDER another name")
    folder.check_target(path)
