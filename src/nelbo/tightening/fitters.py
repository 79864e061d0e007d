"""Which families of covariances suit a model, and the fitters of those that are wanted, with their bases."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo.bound.problem import Problem
from nelbo.errors import UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.fitted.basis import MIN_SIDE, Basis, Cosine, Pixel, Reflections
from nelbo.model.reverse import LearnedLog, LearnedRange
from nelbo.tightening.families import BASIS_FOLDS, Diagonal, Family, Fitter, fitter
from nelbo.tightening.regressions import Learned, Local, Map

BLOCK = 4
RANK = 256
"""Most principal directions of the family 'pca'."""
IMAGES = (Family.DCT, Family.BLOCK, Family.LOCAL, Family.MAP, Family.HYBRID)
"""Families that need images."""
PARTS = (Family.LOCAL, Family.MAP, Family.DCT)
"""What a hybrid may be made of."""
_BASED = (Family.LOCAL, Family.MAP, Family.LEARNED)


def suitable(model: DiffusionModel) -> list[Family]:
    """The families worth trying."""
    learned = [Family.LEARNED] if isinstance(model.reverse.variance, (LearnedRange, LearnedLog)) else []
    if _image(model):
        return [Family.SCALAR, *learned, Family.DCT, Family.LOCAL, Family.MAP, Family.HYBRID]
    return [Family.SCALAR, *learned, Family.PCA]


def expanded(wanted: list[Family]) -> list[Family]:
    """The families to be fitted for those that are wanted, each once, the scalar one first."""
    parts = [Family.SCALAR]
    for family in wanted:
        parts += PARTS if family is Family.HYBRID else [family]
    return list(dict.fromkeys(parts))


def fitters(
    wanted: list[Family], problem: Problem, chosen: Tensor, fold: Tensor, logsnr: Tensor, seed: int
) -> dict[Family, Fitter]:
    """The fitter of every family `wanted`, for the examples `chosen` of a problem and errors at log-SNRs (N,)."""
    model = problem.model
    shape, count = model.domain.shape, len(chosen)
    if not _image(model) and (named := [f.value for f in wanted if f in IMAGES]):
        raise UsageError(
            f"the covariance {named[0]!r} of examples of shape {shape}",
            f"it needs images, (H, W) or (C, H, W) of at least {MIN_SIDE}×{MIN_SIDE}; use 'pca', 'pixel' or 'scalar'",
        )
    found: dict[Family, Fitter] = {}
    colours = _colours(problem, chosen) if any(f in IMAGES for f in wanted) else None
    for family in wanted:
        if family not in _BASED:
            found[family] = fitter(family, _basis(family, problem, chosen, fold, colours), shape, logsnr, count)

    def base(family: Family) -> Diagonal:
        if family not in found:
            found[family] = fitter(family, _basis(family, problem, chosen, fold, colours), shape, logsnr, count)
        one = found[family]
        assert isinstance(one, Diagonal)
        return one

    if Family.LOCAL in wanted:
        found[Family.LOCAL] = Local(base(Family.BLOCK), _floor(problem, chosen), seed)
    if Family.MAP in wanted:
        channels = base(Family.CHANNEL if math.prod(shape[:-2]) > 1 else Family.SCALAR)
        found[Family.MAP] = Map(channels, _floor(problem, chosen), *_range(problem, chosen), seed)
    if Family.LEARNED in wanted:
        policy = model.reverse.variance
        if not isinstance(policy, (LearnedRange, LearnedLog)):
            raise UsageError(
                f"the covariance 'learned' of a model whose variance is {policy.kind!r}",
                "it corrects what a network says of its own variance (learned_range, learned_log); use another family",
            )
        found[Family.LEARNED] = Learned(base(Family.SCALAR), isinstance(policy, LearnedLog), seed)
    return found


def _image(model: DiffusionModel) -> bool:
    shape = model.domain.shape
    return len(shape) in (2, 3) and min(shape[-2:]) >= MIN_SIDE


def _basis(family: Family, problem: Problem, chosen: Tensor, fold: Tensor, colours: Tensor | None) -> Basis:
    if family is Family.DCT:
        assert colours is not None
        return Cosine(colours)
    if family is Family.BLOCK:
        assert colours is not None
        return Cosine(colours, BLOCK)
    if family is Family.PCA:
        x = problem.values(chosen[fold < BASIS_FOLDS]).flatten(1).cpu()
        _, _, V = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        return Reflections.through(V[: min(RANK, len(x) - 1, x.shape[1])].mT)
    return Pixel()


def _colours(problem: Problem, chosen: Tensor) -> Tensor:
    """Principal directions of the channels of a pixel, (C, C), the strongest first, each mostly positive."""
    shape = problem.model.domain.shape
    x = problem.values(chosen).reshape(len(chosen), -1, *shape[-2:]).transpose(0, 1).flatten(1).cpu()
    x = x - x.mean(1, keepdim=True)
    _, V = torch.linalg.eigh(x @ x.mT / x.shape[1])
    V = V.flip(1).mT
    return V * torch.where(V.sum(1, keepdim=True) < 0, -1.0, 1.0)


def _floor(problem: Problem, chosen: Tensor) -> float:
    """An energy of x̂ that counts as none: 1/100 of the range an element, or of the spread where there is no range."""
    domain = problem.model.domain
    if domain.discrete:
        return ((domain.high - domain.low) / 200) ** 2
    x = problem.values(chosen)
    return 1e-4 * max(float((x - x.mean()).square().mean()), 1e-12)


def _range(problem: Problem, chosen: Tensor) -> tuple[float, float]:
    """Where x lies: the range of codes, or that of the examples."""
    domain = problem.model.domain
    if domain.discrete:
        return domain.low, domain.high
    x = problem.values(chosen)
    low, high = float(x.min()), float(x.max())
    return low, max(high, low + 1e-6)
