"""The verb `sample`."""

from __future__ import annotations

from typing import Literal, TypedDict, Unpack, overload

from torch import Tensor

from nelbo import sampling
from nelbo.adapters.choices import Overrides
from nelbo.adapters.load import Model, load
from nelbo.ambient import neutral
from nelbo.api.inputs import Device, Progress
from nelbo.arguments import numbers
from nelbo.errors import UsageError
from nelbo.model.latent.model import LatentModel
from nelbo.model.tokens.model import TokenModel
from nelbo.process.grid import Grid
from nelbo.progress import callback, shows_progress
from nelbo.sampling import Sampler, Trajectory
from nelbo.sampling import latent as latent_draws
from nelbo.sampling.tokens import draw as token_draws
from nelbo.typing import Condition, Json
from nelbo.workers import Alone, Run, Workers


class Options(TypedDict, total=False):
    """The options of `sample`, but for `trajectory`, by which its result differs."""

    sampler: str | Sampler
    steps: int | None
    grid: str | Grid | None
    codes: bool
    condition: Condition | None
    guidance: float | None
    null_condition: Condition | None
    start: Tensor | None
    prompt: Tensor | None
    mask: Tensor | None
    overrides: Overrides | None
    trust_code: bool
    seed: int
    batch_size: int | None
    device: Device | None
    progress: Progress | None
    workers: Workers | None


@overload
def sample(model: Model, n: int, *, trajectory: Literal[True], **options: Unpack[Options]) -> Trajectory: ...


@overload
def sample(model: Model, n: int, *, trajectory: Literal[False] = ..., **options: Unpack[Options]) -> Tensor: ...


@shows_progress("sampling")
@numbers
@neutral()
def sample(
    model: Model,
    n: int,
    *,
    sampler: str | Sampler = "ancestral",
    steps: int | None = None,
    grid: str | Grid | None = None,
    codes: bool = True,
    condition: Condition | None = None,
    guidance: float | None = None,
    null_condition: Condition | None = None,
    start: Tensor | None = None,
    prompt: Tensor | None = None,
    mask: Tensor | None = None,
    trajectory: bool = False,
    overrides: Overrides | None = None,
    trust_code: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
    device: Device | None = None,
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> Tensor | Trajectory:
    """n draws of p_θ(x), (n, *shape): integer codes where the domain has bins and `codes`, else real values, unclipped.

    The last step is the model's decoder: codes are drawn from p(x | z_1), real values are E[x | z_1]. Sample i depends
    on (seed, i) alone, whatever the batches and processes.

    n: samples to draw. codes: False gives real values also where the domain has bins. sampler: a name of
    `nelbo.samplers.NAMED` or an instance, such as `nelbo.samplers.DDIM(eta=0.5)`; "ancestral" draws from the model
    itself. steps: network evaluations of a pass with one evaluation a step (Heun and midpoint make two), spaced as
    `grid` says; None: the model's own. grid: "even", "quadratic", "karras", "logsnr", or a `Grid` in the place of both.
    condition: keywords of the network, one row a sample. guidance, null_condition: the scale w of classifier-free
    guidance, x̂ = x̂_null + w (x̂_condition − x̂_null), and the one row that the network takes for no condition. start:
    z_L (n, *shape) in the place of draws of the prior, as `nelbo.sampling.encode` gives it. mask: what is to be there
    of samples of different size, bools (n, positions) or (n, *shape); they are zero elsewhere. trajectory: return a
    `Trajectory` with every level. workers: the processes that share the samples (`nelbo.runtime.workers()`); every one
    gets all of them.

    Of a model of symbols the samples are sequences (n, L): "ancestral" draws from its law, steps=K is a chain that
    reveals places at once, and "confidence" reveals the places of which the network is surest, which is not the model's
    law. start: sequences with the mask where a symbol is to be drawn; the others are given and stay. prompt: bools of
    the same shape, True where `start` is given, for what has no mask. model, overrides, trust_code, seed, batch_size,
    device and progress are as of `evaluate`.

    Errors: UsageError, UnknownNameError, ShapeError, NumericalError. Source: Ho et al. 2020, algorithm 2.

    >>> import nelbo, torch
    >>> data = nelbo.exact.GaussianData(torch.zeros(4), torch.eye(4))
    >>> model = data.model(nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.even(16))
    >>> nelbo.sample(model, 2, sampler="ddim", steps=8).shape
    torch.Size([2, 4])
    """
    loaded = load(model, overrides=overrides, trust_code=trust_code)
    run = Run(device=device, batch_size=batch_size, seed=seed, progress=callback(progress), workers=workers or Alone())
    how: Json = {
        "sampler": sampler,
        "steps": steps,
        "grid": grid,
        "condition": condition,
        "guidance": guidance,
        "null_condition": null_condition,
        "start": start,
    }
    if mask is not None and isinstance(loaded, (TokenModel, LatentModel)):
        raise UsageError(
            "a mask of samples of a latent model or of symbols",
            "a latent model has images of one size; of symbols prompt= and start= say what is given",
        )
    if isinstance(loaded, TokenModel):
        if not codes or trajectory or not isinstance(sampler, str) or isinstance(grid, str):
            raise UsageError(
                f"codes={codes}, trajectory={trajectory}, sampler={sampler!r}, grid={grid!r} for a model of symbols",
                f"its samplers are {', '.join(token_draws.SAMPLERS)}; choose its chain by steps=K, or by a Grid",
            )
        return token_draws.sample(loaded, n, run, prompt=prompt, **how)
    if prompt is not None:
        raise UsageError("prompt is of models of symbols, and this is one of images", "leave it out")
    if isinstance(loaded, LatentModel):
        if trajectory:
            raise UsageError("a trajectory of a latent model", "sample its chain over latents, model.prior")
        return latent_draws.sample(loaded, n, run, codes=codes, **how)
    return sampling.sample(loaded, n, run, codes=codes, trajectory=trajectory, mask=mask, **how)
