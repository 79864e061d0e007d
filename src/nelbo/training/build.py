"""From data and settings to an untrained model."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from nelbo.bound import checks, lattices
from nelbo.bound.ragged import chain as ragged
from nelbo.errors import UsageError
from nelbo.model.decoder import (
    Categorical,
    ContinuousGaussian,
    Decoder,
    DiscretizedGaussian,
    NetworkCategorical,
    Spread,
)
from nelbo.model.denoiser import Denoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.examples import Examples
from nelbo.model.folder import make_denoiser
from nelbo.model.mixture import NetworkMixture, outputs, start_weights
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Clip, Reverse, Variance, parse_variance
from nelbo.nets.build import NETS, TOKEN_NETS, time_input
from nelbo.process import grid as grids
from nelbo.process import schedule as schedules
from nelbo.process.schedule import Schedule, Table
from nelbo.training.config import TrainConfig
from nelbo.training.criterion import make_objective
from nelbo.training.data import AnyModel
from nelbo.training.domain import ROUNDING, classes_of, domain_of
from nelbo.training.latent.build import build_latent_model
from nelbo.training.tokens.build import build_token_model
from nelbo.typing import Json

HIDDEN = 0.1
"""SNR of a column at the last level from which a chain does not end at its prior: 0.07 bits of such a column."""
MOST_COUNTED = 10_000
"""Examples that histograms are counted on, of data that stay on disk: as many are read once before the first step."""


def build_model(examples: Examples, settings: TrainConfig, rows: Tensor | None = None) -> AnyModel:
    """The model of images, of latents or of symbols, as `settings` say; see `build_image_model`."""
    if settings.latent is not None:
        return build_latent_model(examples, settings, domain_of(examples, settings, rows))
    make = build_token_model if settings.net.name in TOKEN_NETS else build_image_model
    return make(examples, settings, rows)


def build_image_model(examples: Examples, settings: TrainConfig, rows: Tensor | None = None) -> DiffusionModel:
    """The model that `settings` describe for these examples, with fresh weights keyed by the seed.

    rows: the examples that are trained on, where these are not all. Bins: settings.bins, else those of the data (17 for
    digits, 256 for bytes); real data have none and get a continuous decoder. Errors: UsageError where settings and data
    do not fit.
    """
    domain, sized = domain_of(examples, settings, rows), examples.mask is not None
    examples = _counted(examples, domain, rows)
    schedule = schedules.named(settings.schedule.name, settings.schedule.model_dump())
    _check(settings, domain, schedule)
    if sized:
        _check_sets(settings)
    grid: grids.Grid
    if isinstance(schedule, Table):
        grid = grids.Full()
    else:
        grid = grids.Continuous() if settings.levels is None else grids.Even(settings.levels)
    variance = parse_variance(settings.variance)
    model = DiffusionModel(
        domain=domain,
        schedule=schedule,
        grid=grid,
        denoiser=_denoiser(examples, domain, schedule, settings),
        reverse=Reverse(variance, Clip(domain.low, domain.high) if settings.clip and domain.discrete else None),
        decoder=_decoder(examples, domain, schedule, settings, variance),
        prior=GaussianPrior(),
    )
    if sized:
        ragged.check(model)
        return model
    for note in lattices.notes(domain, torch.as_tensor(examples.data)):
        checks.warn([note])
    if not domain.discrete and domain.scale is None and len(domain.shape) == 1:
        first, *_, last = model.levels().logsnr.tolist()
        if (note := unlike_scales(examples, first, last)) is not None:
            checks.warn([note])
    return model


def _mixture_decoder(settings: TrainConfig) -> bool:
    """Whether a plain head has a mixture for the decoder as further outputs."""
    return settings.net.head == "plain" and settings.decoder == "mixture"


def _learned_variance(settings: TrainConfig) -> bool:
    return settings.variance in ("learned_range", "learned_log")


def _check(settings: TrainConfig, domain: DataDomain, schedule: Schedule) -> None:
    """Errors: UsageError where head, decoder, variance, schedule, objective and data do not fit each other."""
    head, mixture_decoder = settings.net.head, _mixture_decoder(settings)
    if head != "plain" and not domain.discrete:
        raise UsageError(f"a {head} head was asked for on real-valued data", "use net.head=plain")
    if mixture_decoder and not domain.discrete:
        raise UsageError("a mixture over codes was asked for on real-valued data", "use decoder=plain")
    if (head != "plain" or mixture_decoder) and not make_objective(settings.objective, 1.0).trains_decoder:
        decoder = "a decoder of mixtures" if mixture_decoder else f"the decoder of a {head} head"
        other = "decoder=histogram" if mixture_decoder else "net.head=plain"
        raise UsageError(
            f"the objective {settings.objective.name!r} does not train a decoder, and {decoder} is part of the network",
            f"use {other}, or objective=bound",
        )
    table = isinstance(schedule, Table)
    if _learned_variance(settings) and (head != "plain" or mixture_decoder or not table):
        raise UsageError(
            f"variance = {settings.variance!r} with a {head} head on the schedule {settings.schedule.name!r} and the "
            f"decoder {settings.decoder!r}",
            "a network predicts the variance of DDPM's steps: use net.head=plain and schedule=linear (or "
            "cosine), and not decoder=mixture",
        )
    if time_input(settings.net.name) == "index" and not table:
        raise UsageError(
            f"the time of the network {settings.net.name!r} is the index of a table, and the schedule "
            f"{settings.schedule.name!r} has none",
            "use schedule=linear or schedule=cosine",
        )


def _check_sets(settings: TrainConfig) -> None:
    """Errors: UsageError where settings do not fit examples of different size."""
    if "mask" not in getattr(NETS.get(settings.net.name), "keywords", ()):
        raise UsageError(
            f"the network {settings.net.name!r} for examples of different size, which takes no mask",
            "use net=set, or train a network of your own with nelbo.bound_loss(…, mask=mask)",
        )
    if settings.standardise or settings.decoder != "plain":
        raise UsageError(
            f"standardise={settings.standardise}, decoder={settings.decoder!r} for examples of different size, whose "
            "positions have no numbers of their own",
            "leave standardise out, and use decoder=plain",
        )


def _denoiser(examples: Examples, domain: DataDomain, schedule: Schedule, settings: TrainConfig) -> Denoiser:
    """The network of the settings, with the weights of its head started from the frequencies of the codes."""
    head, mixture_decoder, learned = settings.net.head, _mixture_decoder(settings), _learned_variance(settings)
    levels = schedule.table if isinstance(schedule, Table) else None
    recipe = {
        "name": settings.net.name,
        "settings": _net_settings(examples, settings, domain),
        "logsnr_max": float(levels[0]) if levels is not None else settings.schedule.logsnr_max,
        "logsnr_min": float(levels[-1]) if levels is not None else settings.schedule.logsnr_min,
    }
    kind = "mixture" if mixture_decoder else "network" if head == "plain" else head
    config: Json = {"kind": kind, "time": time_input(settings.net.name), "net": recipe}
    if head == "plain":
        config |= {"output": settings.net.predicts, **({"learned_variance": True} if learned else {})}
    if head == "mixture" or mixture_decoder:
        config["components"] = settings.net.components
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        denoiser = make_denoiser(config, domain)
    if head != "plain" or mixture_decoder:
        codes = examples.data.long()
        if head == "categorical":
            start = log_frequencies(codes, domain)
        else:
            start = start_weights(codes, domain, settings.net.components, mixture_decoder)
        denoiser.net.head.start_at(start)  # type: ignore[operator]
    return denoiser


def log_frequencies(codes: Tensor, domain: DataDomain, pseudo_count: float = 0.5) -> Tensor:
    """Log of the smoothed frequency of every code at every pixel, (*shape, K), from training codes (N, *shape)."""
    D, K = domain.dimensions, domain.lattice().numel()
    pairs = (codes.reshape(-1, D) + K * torch.arange(D)).flatten()  # one number for every pair of pixel and code
    counts = torch.bincount(pairs, minlength=D * K).reshape(*domain.shape, K) + pseudo_count
    return (counts / counts.sum(-1, keepdim=True)).log().float()


def _counted(examples: Examples, domain: DataDomain, rows: Tensor | None) -> Examples:
    """The examples that frequencies are counted on: those trained on, in memory.

    Of data that stay on disk these are about MOST_COUNTED, evenly spaced. Errors: those of the domain's checks.
    """
    data, examples = domain.checked(examples.data), replace(examples, mask=None)
    if isinstance(data, Tensor):
        return replace(examples, data=data if rows is None or len(rows) == len(data) else data[rows])
    rows = torch.arange(len(data)) if rows is None else rows
    return replace(examples, data=data[rows[:: -(-len(rows) // MOST_COUNTED)]])


def unlike_scales(examples: Examples, first: float, last: float) -> str | None:
    """A note on a table of real numbers, some of whose columns do not fit the noise between two log-SNRs, else None.

    A column of standard deviation s is lost in the noise of the first level where s² SNR_1 < 1, and one of root mean
    square r is not hidden by that of the last where r² SNR_L > HIDDEN. Both cost bits that standardised data do not.
    """
    data = torch.as_tensor(examples.data[:: -(-len(examples.data) // MOST_COUNTED)]).double().flatten(1)
    spread, size = data.std(0, unbiased=False), data.square().mean(0).sqrt()
    varies = spread > ROUNDING * (1 + data.mean(0).abs())
    if not bool(varies.any()):
        return None
    least, widest, largest = (float(v) for v in (spread[varies].min(), spread.max(), size.max()))
    if least**2 * math.exp(first) >= 1 and largest**2 * math.exp(last) <= HIDDEN:
        return None
    return (
        f"the columns of {examples.name} have standard deviations from {least:.3g} to {widest:.3g}, a ratio of "
        f"{widest / least:.3g}, and root mean squares up to {largest:.3g}; the noise of the chain is for numbers of a "
        "size of about 1, and standardise=True would help"
    )


def _net_settings(examples: Examples, settings: TrainConfig, domain: DataDomain) -> Json:
    """The network's own settings, with those that follow from head, variance and domain."""
    chosen = {**settings.net.settings, **classes_of(examples, settings)}
    mixture_decoder, learned = _mixture_decoder(settings), _learned_variance(settings)
    if settings.net.head == "mixture" or mixture_decoder:
        chosen["outputs"] = outputs(settings.net.components) + mixture_decoder
    if learned and settings.net.name == "unet2d":
        chosen |= {"out_channels": 2 * (1 if len(domain.shape) == 2 else domain.shape[0])}
    elif learned:
        chosen["outputs"] = 2
    if chosen.get("end_gate") and (settings.net.head != "plain" or settings.net.predicts != "eps"):
        raise UsageError(
            f"net.end_gate for a {settings.net.head} head that predicts {settings.net.predicts!r}",
            "the gate gives ε̂: use net.predicts=eps, or net.end_gate=false",
        )
    if (chosen.get("noise_units") or chosen.get("end_gate")) and domain.discrete:
        chosen.setdefault("ends", [domain.low, domain.high])
    if chosen.get("fourier") and domain.discrete:
        chosen.setdefault("step", (domain.high - domain.low) / (domain.lattice().numel() - 1))
    return chosen


def _decoder(
    examples: Examples, domain: DataDomain, schedule: Schedule, settings: TrainConfig, variance: Variance
) -> Decoder:
    if settings.net.head == "categorical":
        return NetworkCategorical()
    if settings.net.head == "mixture" or settings.decoder == "mixture":
        return NetworkMixture()
    if domain.discrete and settings.decoder == "histogram":
        return Categorical.from_histogram(domain.checked(examples.data), domain)
    if not isinstance(schedule, Table):
        return Categorical() if domain.discrete else ContinuousGaussian()
    ends = schedule.at_index(torch.tensor([0, 1]))
    spread = variance.of_decoder(ends[0], ends[1])
    if isinstance(spread, Spread):
        return DiscretizedGaussian(None, spread) if domain.discrete else ContinuousGaussian(spread=spread)
    return DiscretizedGaussian(spread) if domain.discrete else ContinuousGaussian(spread)
