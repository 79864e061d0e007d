"""From data and settings to an untrained model."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nelbo.errors import UsageError
from nelbo.model.decoder import (
    Categorical,
    ContinuousGaussian,
    Decoder,
    DiscretizedGaussian,
    NetworkCategorical,
    Spread,
)
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.examples import Examples
from nelbo.model.folder import make_denoiser
from nelbo.model.mixture import NetworkMixture, outputs, start_weights
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Clip, Reverse, Variance, parse_variance
from nelbo.nets.build import time_input
from nelbo.process import grid as grids
from nelbo.process import schedule as schedules
from nelbo.process.schedule import Schedule, Table
from nelbo.training.config import TrainConfig
from nelbo.training.criterion import make_objective
from nelbo.typing import Json, Shape

_KINDS = {"categorical": "categorical", "mixture": "mixture", "plain": "network"}
"""Kinds of denoisers by the head that the settings name."""
MOST_COUNTED = 10_000
"""Examples that histograms are counted on, of data that stay on disk."""


def build_model(examples: Examples, settings: TrainConfig, rows: Tensor | None = None) -> DiffusionModel:
    """The model that `settings` describe for these examples, with fresh weights keyed by the seed.

    rows: those of them that are trained on, where it is not all.

    Bins: settings.bins, else what the data say (17 for digits, 256 for bytes); real data have none and get a
    continuous decoder. Errors: UsageError where the two cannot be reconciled.
    """
    domain = _domain(examples, settings, rows)
    examples = _looked_at(examples, domain, rows)
    schedule = schedules.named(settings.schedule.name, settings.schedule.model_dump())
    head = settings.net.head
    beside = head == "plain" and settings.decoder == "mixture"
    if head != "plain" and not domain.discrete:
        raise UsageError(f"a {head} head was asked for on real-valued data", "use --set net.head=plain")
    if beside and not domain.discrete:
        raise UsageError("a mixture over codes was asked for on real-valued data", "use --set decoder=plain")
    if (head != "plain" or beside) and not make_objective(settings.objective, 1.0).trains_decoder:
        own = "a decoder of mixtures is the network's own" if beside else f"a {head} head is its own decoder"
        other = "decoder=histogram" if beside else "net.head=plain"
        raise UsageError(
            f"the objective {settings.objective.name!r} does not train a decoder, and {own}",
            f"use --set {other}, or objective=bound",
        )
    learned = settings.variance in ("learned_range", "learned_log")
    if learned and (head != "plain" or beside or not isinstance(schedule, Table)):
        raise UsageError(
            f"variance = {settings.variance!r} with a {head} head on the schedule {settings.schedule.name!r} and the "
            f"decoder {settings.decoder!r}",
            "a network says the variance of DDPM's steps: use --set net.head=plain --set schedule=linear (or cosine), "
            "and not decoder=mixture",
        )
    levels = schedule.table if isinstance(schedule, Table) else None
    time = time_input(settings.net.name)
    if time == "index" and levels is None:
        raise UsageError(
            f"the network {settings.net.name!r} is told DDPM's step, and the schedule {settings.schedule.name!r} has "
            "none",
            "use --set schedule=linear or --set schedule=cosine",
        )
    recipe = {
        "name": settings.net.name,
        "settings": _net_settings(examples, settings, domain, learned),
        "logsnr_max": float(levels[0]) if levels is not None else settings.schedule.logsnr_max,
        "logsnr_min": float(levels[-1]) if levels is not None else settings.schedule.logsnr_min,
    }
    config: Json = {"kind": "mixture" if beside else _KINDS[head], "time": time, "net": recipe}
    if head == "plain":
        config |= {"output": settings.net.predicts, **({"learned_variance": True} if learned else {})}
    if head == "mixture" or beside:
        config["components"] = settings.net.components
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        denoiser = make_denoiser(config, domain)
    if head != "plain" or beside:
        codes = examples.data.long()
        start = log_frequencies(codes, domain) if head == "categorical" else None
        if start is None:
            start = start_weights(codes, domain, settings.net.components, beside)
        denoiser.net.head.start_at(start)  # type: ignore[operator]
    grid: grids.Grid
    if isinstance(schedule, Table):
        grid = grids.Full()
    else:
        grid = grids.Continuous() if settings.levels is None else grids.Even(settings.levels)
    variance = parse_variance(settings.variance)
    return DiffusionModel(
        domain=domain,
        schedule=schedule,
        grid=grid,
        denoiser=denoiser,
        reverse=Reverse(variance, Clip(domain.low, domain.high) if settings.clip and domain.discrete else None),
        decoder=_decoder(examples, domain, schedule, settings, variance),
        prior=GaussianPrior(),
    )


def log_frequencies(codes: Tensor, domain: DataDomain, pseudo_count: float = 0.5) -> Tensor:
    """Log of the smoothed frequency of every code at every pixel, (*shape, K), from training codes (N, *shape)."""
    D, K = domain.dimensions, domain.lattice().numel()
    each = (codes.reshape(-1, D) + K * torch.arange(D)).flatten()  # one number for a pixel and a code
    counts = torch.bincount(each, minlength=D * K).reshape(*domain.shape, K) + pseudo_count
    return (counts / counts.sum(-1, keepdim=True)).log().float()


def _looked_at(examples: Examples, domain: DataDomain, rows: Tensor | None) -> Examples:
    """The examples that starting values and histograms are counted on: those trained on, in memory.

    Of data that stay on disk a part, MOST_COUNTED spread over all of them. Errors: those of the domain's checks.
    """
    data = domain.checked(examples.data)
    if isinstance(data, Tensor):
        return replace(examples, data=data if rows is None or len(rows) == len(data) else data[rows])
    rows = torch.arange(len(data)) if rows is None else rows
    return replace(examples, data=data[rows[:: -(-len(rows) // MOST_COUNTED)]])


def _standardised(shape: Shape, examples: Examples, rows: Tensor | None) -> DataDomain:
    """The domain of real data with the mean and the standard deviation of every number, of what is trained on."""
    data = DataDomain(shape).checked(examples.data).double()
    data = data if rows is None else data[rows]
    mean, scale = data.mean(0), data.std(0, unbiased=False)
    still = (scale <= 1e-12 * (1 + mean.abs())).flatten().nonzero()
    if len(still):
        raise UsageError(
            f"standardise: number {int(still[0])} of the examples of {examples.name} does not vary, so that they have "
            "no density",
            "remove that column, or leave standardise out",
        )
    return DataDomain(shape, mean=mean, scale=scale)


def _domain(examples: Examples, settings: TrainConfig, rows: Tensor | None) -> DataDomain:
    shape = tuple(examples.data.shape[1:])
    if settings.standardise and not examples.data.is_floating_point():
        raise UsageError(
            f"standardise = true was set, but {examples.name} holds integer codes",
            "leave it out: codes have their values from their range; or give the numbers as floats",
        )
    if settings.standardise:
        return _standardised(shape, examples, rows)
    if examples.data.is_floating_point():
        if settings.bins is not None:
            raise UsageError(
                f"bins = {settings.bins} was set, but {examples.name} holds real numbers",
                "give integer codes 0..K−1, or leave bins out to train a density",
            )
        return DataDomain(shape)
    bins = settings.bins or examples.bins
    if bins is None:
        raise UsageError(
            f"the number of bins of {examples.name} is not known: its codes run to {int(examples.data.max())}",
            "say it: --set bins=256",
        )
    return DataDomain(shape, bins)


def _net_settings(examples: Examples, settings: TrainConfig, domain: DataDomain, learned: bool) -> Json:
    """The network's own settings, with what follows from head, variance and domain."""
    chosen = dict(settings.net.settings)
    if settings.condition is not None and examples.labels is not None:
        chosen |= {"classes": int(examples.labels.max()) + 1, "keyword": settings.condition}
    beside = settings.net.head == "plain" and settings.decoder == "mixture"
    if settings.net.head == "mixture" or beside:
        chosen["outputs"] = outputs(settings.net.components) + beside
    if learned and settings.net.name == "unet2d":
        chosen |= {"out_channels": 2 * (1 if len(domain.shape) == 2 else domain.shape[0])}
    elif learned:
        chosen["outputs"] = 2
    if chosen.get("end_gate") and (settings.net.head != "plain" or settings.net.predicts != "eps"):
        raise UsageError(
            f"net.end_gate for a {settings.net.head} head that predicts {settings.net.predicts!r}",
            "the gate makes ε̂: use --set net.predicts=eps, or --set net.end_gate=false",
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
