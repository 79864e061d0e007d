"""From data and settings to an untrained model."""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.errors import UsageError
from nelbo.model.decoder import Categorical, ContinuousGaussian, Decoder, DiscretizedGaussian, NetworkCategorical
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.examples import Examples
from nelbo.model.folder import make_denoiser
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import BetaTilde, Reverse
from nelbo.nets.build import time_input
from nelbo.process import grid as grids
from nelbo.process import schedule as schedules
from nelbo.process.schedule import Schedule, Table
from nelbo.training.config import TrainConfig


def build_model(examples: Examples, settings: TrainConfig, rows: Tensor | None = None) -> DiffusionModel:
    """The model that `settings` describe for these examples, with fresh weights keyed by the seed.

    rows: those of them that are trained on, where it is not all.

    Bins: settings.bins, else what the data say (17 for digits, 256 for bytes); real data have none and get a
    continuous decoder. Errors: UsageError where the two cannot be reconciled.
    """
    domain = _domain(examples, settings)
    schedule = _schedule(settings)
    categorical = settings.net.head == "categorical"
    if categorical and not domain.discrete:
        raise UsageError("a categorical head was asked for on real-valued data", "use --set net.head=plain")
    if categorical and settings.objective == "simple":
        raise UsageError(
            "the objective 'simple' does not train a decoder, and a categorical head is its own decoder",
            "use --set net.head=plain, or objective=bound",
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
        "settings": settings.net.settings,
        "logsnr_max": float(levels[0]) if levels is not None else settings.schedule.logsnr_max,
        "logsnr_min": float(levels[-1]) if levels is not None else settings.schedule.logsnr_min,
    }
    config = {"kind": "categorical" if categorical else "network", "time": time, "net": recipe}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        denoiser = make_denoiser({**config, "output": settings.net.predicts}, domain)
    if categorical:
        codes = domain.checked(examples.data)
        codes = codes if rows is None or len(rows) == len(codes) else codes[rows]
        denoiser.net.head.start_at(log_frequencies(codes.long(), domain))  # type: ignore[operator]
    grid: grids.Grid
    if isinstance(schedule, Table):
        grid = grids.Full()
    else:
        grid = grids.Continuous() if settings.levels is None else grids.Even(settings.levels)
    return DiffusionModel(
        domain=domain,
        schedule=schedule,
        grid=grid,
        denoiser=denoiser,
        reverse=Reverse(BetaTilde()),
        decoder=_decoder(domain, schedule, categorical),
        prior=GaussianPrior(),
    )


def log_frequencies(codes: Tensor, domain: DataDomain, pseudo_count: float = 0.5) -> Tensor:
    """Log of the smoothed frequency of every code at every pixel, (*shape, K), from training codes (N, *shape)."""
    counts = torch.nn.functional.one_hot(codes, domain.lattice().numel()).sum(0) + pseudo_count
    return (counts / counts.sum(-1, keepdim=True)).log().float()


def _domain(examples: Examples, settings: TrainConfig) -> DataDomain:
    shape = tuple(examples.data.shape[1:])
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


def _schedule(settings: TrainConfig) -> Schedule:
    s = settings.schedule
    if s.name == "logsnr_linear":
        return schedules.logsnr_linear(s.logsnr_max, s.logsnr_min)
    return schedules.linear(s.T) if s.name == "linear" else schedules.cosine(s.T)


def _decoder(domain: DataDomain, schedule: Schedule, categorical: bool) -> Decoder:
    if categorical:
        return NetworkCategorical()
    if not isinstance(schedule, Table):
        return Categorical() if domain.discrete else ContinuousGaussian()
    ends = schedule.at_index(torch.tensor([0, 1]))
    variance = BetaTilde().of_decoder(ends[0], ends[1])
    return DiscretizedGaussian(variance) if domain.discrete else ContinuousGaussian(variance)
