"""`encode` runs a sampler from data to noise, one batch after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nelbo.adapters.load import Model, load_images
from nelbo.ambient import neutral
from nelbo.arguments import numbers
from nelbo.data import readers
from nelbo.errors import UsageError
from nelbo.process.grid import Grid
from nelbo.process.levels import column
from nelbo.sampling.guidance import make_guidance
from nelbo.sampling.paths import Paths, batch_size_of
from nelbo.sampling.sampler import Sampler
from nelbo.workers import Run


@numbers
@neutral()
def encode(
    model: Model,
    data: Tensor,
    *,
    sampler: str | Sampler = "ddim",
    steps: int | None = None,
    grid: str | Grid | None = None,
    condition: Mapping[str, Tensor] | None = None,
    guidance: float | None = None,
    null_condition: Mapping[str, Tensor] | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    trust_code: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The noise z_L (n, *shape) from which a sampler makes `data`: the probability flow, run from z_1 = α_1 x upwards.

    `nelbo.sample(model, n, start=z, …)` with the same sampler, steps and grid returns to z_1, with an error of the
    sampler's order in the steps. data: codes or values, (n, *shape). model, condition, guidance, null_condition,
    batch_size, device, trust_code and progress are as of `nelbo.sample`.
    Errors: UsageError for a sampler that draws noise, DomainError, ShapeError, NumericalError.

    >>> import nelbo, torch
    >>> data = nelbo.exact.GaussianData([0.5, -1.0], [[0.6, 0.2], [0.2, 0.3]])
    >>> model = data.model(nelbo.schedules.logsnr_linear(9.0, -9.0), nelbo.grids.even(100), exact_ends=False)
    >>> x = data.sample(4)
    >>> back = nelbo.sample(model, 4, sampler="heun", start=encode(model, x, sampler="heun"))
    >>> bool((back - x).abs().max() < 0.01)
    True
    """
    model = load_images(model, trust_code=trust_code)
    examples = readers.whole(data, "encoding", "what a network does to padding is not followed from level to level")
    x = model.domain.values(model.domain.checked(examples.data, "data to encode"))
    run = Run(device=device, batch_size=batch_size, progress=progress)
    guided = make_guidance(guidance, null_condition, condition)
    paths = Paths.of(model, len(x), sampler, steps, grid, condition, guided, run)
    if paths.sampler.stochastic:
        raise UsageError(
            f"data were to be encoded by the sampler {paths.sampler.name!r}, which draws noise",
            "use one that draws none: ddim, heun, flow_midpoint, dpmpp_2m",
        )
    paths.planned = len(x) * paths.evaluations(False)
    batches = torch.arange(len(x)).split(batch_size_of(batch_size, len(x), model))
    with torch.no_grad(), paths.model.denoiser.inference():
        return torch.cat([_up(paths, rows, x[rows]) for rows in batches])


def _up(paths: Paths, rows: Tensor, x: Tensor) -> Tensor:
    """From data to noise."""
    predict = paths.predictor(rows)
    z = column(paths.levels[:1].alpha, x) * x.to(paths.device)
    previous = None
    for j in range(len(paths.levels) - 1):
        z, previous = paths.step(z, j, j + 1, rows, previous, predict)
    return z.cpu()
