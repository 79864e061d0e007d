"""`tighten` of a latent model: the likelihood, the width τ of a deterministic encoder, and the chain over z."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nelbo._version import __version__
from nelbo.bound import checks
from nelbo.bound.checks import NelboWarning
from nelbo.bound.estimators import Stratified
from nelbo.bound.latent import evaluate as bounds
from nelbo.bound.prepare import examples_of
from nelbo.bound.result import Bound
from nelbo.maths.keys import Purpose
from nelbo.model.examples import Examples
from nelbo.model.fitted.context import ContextGaussian
from nelbo.model.latent.clipped import ClippedDecoder
from nelbo.model.latent.encoder import DeterministicEncoder
from nelbo.model.latent.fit import reconstructions, with_fitted
from nelbo.model.latent.likelihood import LIKELIHOODS, ScaledDecoder
from nelbo.model.latent.model import LatentModel
from nelbo.tightening import tighten as chains
from nelbo.tightening.certificate import Certificate, Stage
from nelbo.tightening.held_out import bound_of, described, rows_of
from nelbo.tightening.likelihoods import CONTEXT, LOCAL, NAMES, SCALE, Likelihood, chosen
from nelbo.tightening.split import split
from nelbo.typing import Condition, Json
from nelbo.workers import Run

WIDE, LOOKS = 2.0, 9
"""The width τ is looked for within e^±WIDE of the declared one, at LOOKS points of a golden section."""
SEEN = 64
"""Examples that a width is tried on."""
LOOK = Stratified(8, 4)


def tighten(
    model: LatentModel,
    data: Examples | Tensor | Any,
    steps: int | None = None,
    *,
    held_out: Examples | Tensor | Any | None = None,
    condition: Condition | None = None,
    held_out_condition: Condition | None = None,
    run: Run | None = None,
    message: Callable[[str], None] | None = None,
) -> tuple[LatentModel, Certificate]:
    """The same networks with a better bound, and its certificate, on images that nothing was fitted to.

    In order: the likelihood, whose scale is fitted, and of images of codes its form as well (`likelihoods.chosen`), and
    again at every τ of a deterministic encoder, where there is one, by the bound of the fit examples at common noise;
    then the chain over draws of z in `steps` evaluations, as of every model of real values. A likelihood that is none
    of these forms stays. All else is as of `tightening.tighten.tighten`.
    """
    started = time.perf_counter()
    run, say = run or Run(), message or (lambda text: None)
    examples = _examples(model, data)
    other = None if held_out is None else _examples(model, held_out)
    parts = split(model, examples, other, run.seed)
    fit, certify = parts.fit_examples, parts.held_out_examples
    rows = rows_of(condition, parts.fit, len(examples))
    held_rows = rows_of(held_out_condition if other else condition, parts.held_out, len(other or examples))
    models: list[tuple[str, LatentModel]] = [("the model as it was", model)]
    wanted, nfe = _own(model), 0
    if wanted is not None:
        say("fitting the likelihood")
        pairs = reconstructions(model, fit, run.seed)
        wanted = chosen(wanted, *pairs, model.domain)
        fitted = with_fitted(model, wanted.fitted(*pairs, model.domain))
        models.append((f"+ {NAMES[wanted.form]}", fitted))
        nfe += 2 * len(fit)
    if isinstance(model.encoder, DeterministicEncoder):
        say("fitting the width of the encoder")
        best, spent = _best_width(models[-1][1], fit.first(SEEN), rows, run, wanted)
        if wanted is not None and len(fit) > SEEN:
            best = with_fitted(best, wanted.fitted(*reconstructions(best, fit, run.seed), model.domain))
            nfe += 2 * len(fit)
        models.append(("+ width of the encoder", best))
        nfe += spent
    say("fitting the chain over latents")
    before = models[-1][1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NelboWarning)  # of the latents, and not of the images
        tight, inner = chains.tighten(
            dataclasses.replace(before.prior, trained_on=None),
            _draws(before, fit, run.seed, 0),
            steps,
            held_out=_draws(before, certify, run.seed, 1),
            condition=rows,
            held_out_condition=held_rows,
            run=dataclasses.replace(run, state=None),
            message=message,
        )
    entry: Json = {"from": model.fingerprint(), "seed": run.seed, "version": __version__}
    whole = dataclasses.replace(before, prior=tight, provenance={**before.provenance, "tightened": entry})
    models.append(("+ chain over latents", whole))
    stages = []
    for name, stage in models:
        say(f"certifying: {name}")
        stages.append(Stage(name, _bound(stage, certify, held_rows, run)))
    notes = [*parts.notes]
    if stages[-1].bound.bits_per_dim > stages[0].bound.bits_per_dim:
        notes.append("the tightened bound is above that of the model as it was; take more steps")
    checks.warn(notes)
    details: Json = {
        **{name: inner.details[name] for name in ("steps", "chain", "decoder", "covariance", "curve", "error")},
        "version": __version__,
        "seed": run.seed,
        "seconds": time.perf_counter() - started,
        "data": {"fit": described(fit), "held_out": described(certify)},
        "likelihood": whole.describe()["decoder"],
        "tau": whole.encoder.tau if isinstance(whole.encoder, DeterministicEncoder) else None,
        "nfe": {
            "fit": nfe + inner.details["nfe"]["fit"],
            "fit_per_example": (nfe + inner.details["nfe"]["fit"]) / len(fit),
            "certificate": sum(s.bound.nfe_total for s in stages) + inner.details["nfe"]["certificate"],
        },
    }
    return whole, Certificate.of(tuple(stages), details, tuple(notes))


def _examples(model: LatentModel, data: Any) -> Examples:
    examples = examples_of(data)
    examples.check_whole("tightening a latent model", "its encoder is one of whole images")
    return dataclasses.replace(examples, data=model.domain.checked(examples.data, release=examples.release))


def _draws(model: LatentModel, images: Examples, seed: int, part: int) -> Examples:
    """A draw of q(z′ | x) of every image, real values."""
    with torch.no_grad(), model.denoiser.inference():
        mean, std = bounds.encoded(model, images.data, 64, torch.device("cpu"), images.release)
    eta = Purpose.LATENT_FIT.normal(seed, torch.arange(len(images)), draw=1 + part, shape=model.latent_shape)
    return Examples(mean.double() + std.double() * eta, f"latents of {images.name}")


def _best_width(
    model: LatentModel, images: Examples, rows: Condition, run: Run, wanted: Likelihood | None
) -> tuple[LatentModel, int]:
    """The model with the τ, and its likelihood there, of the least bound of `images`; evaluations."""
    seen = {name: values[: len(images)] for name, values in rows.items()}
    spent = 0

    def at(log_tau: float) -> tuple[float, LatentModel]:
        nonlocal spent
        made = dataclasses.replace(model, encoder=_with_width(model.encoder, math.exp(log_tau)))
        if wanted is not None:
            made = with_fitted(made, wanted.fitted(*reconstructions(made, images, run.seed), made.domain))
            spent += 2 * len(images)
        bound = _bound(made, images, seen, run, LOOK)
        spent += bound.nfe_total
        return bound.bits_per_dim, made

    assert isinstance(model.encoder, DeterministicEncoder)
    middle, golden = math.log(model.encoder.tau), (math.sqrt(5) - 1) / 2
    low, high = middle - WIDE, middle + WIDE
    left, right = high - golden * (high - low), low + golden * (high - low)
    tried = {v: at(v) for v in (middle, left, right)}
    for _ in range(LOOKS - 3):
        if tried[left][0] < tried[right][0]:
            high, right = right, left
            left = high - golden * (high - low)
            tried[left] = at(left)
        else:
            low, left = left, right
            right = low + golden * (high - low)
            tried[right] = at(right)
    return min(tried.values(), key=lambda pair: pair[0])[1], spent


def _own(model: LatentModel) -> Likelihood | None:
    """The likelihood that the model has, as what is fitted; None where it is of another kind."""
    likelihood = model.likelihood
    if isinstance(likelihood, ClippedDecoder | ContextGaussian):
        return Likelihood(form=CONTEXT)
    name = next((name for name, kind in LIKELIHOODS.items() if isinstance(likelihood, kind)), None)
    if name is None or not isinstance(likelihood, ScaledDecoder):
        return None
    local = likelihood.local is not None
    return Likelihood(name, LOCAL if local else SCALE, not local and torch.as_tensor(likelihood.scale).ndim > 0)


def _with_width(encoder: Any, tau: float) -> DeterministicEncoder:
    made = DeterministicEncoder(encoder.net, tau=tau)
    return made.train(encoder.training)


def _bound(model: LatentModel, images: Examples, rows: Condition, run: Run, estimator: Any = None) -> Bound:
    chosen = estimator or chains.estimator_of(model.prior, len(images))
    return bound_of(bounds.evaluate, model, images, rows, run, chosen)
