"""The families of reverse covariances, which of them suit a model, and a fitter for each."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.errors import UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.fitted.basis import MIN_SIDE, Basis, Cosine, Pixel, Reflections
from nelbo.model.reverse import LearnedLog, LearnedRange
from nelbo.tightening.diagonal import DiagonalFitter, Fitter
from nelbo.tightening.log_linear import CalibrationFitter, LocalFitter, MapFitter
from nelbo.typing import Choice, Shape


class Family(Choice, noun="family of covariances"):
    """What a fitted covariance may be."""

    SCALAR = "scalar"
    CHANNEL = "channel"
    PIXEL = "pixel"
    DCT = "dct"
    BLOCK = "block"
    PCA = "pca"
    LOCAL = "local"
    MAP = "map"
    HYBRID = "hybrid"
    LEARNED = "learned"


BLOCK = 4
"""Side of the blocks of the families 'block' and 'local', in pixels."""
RANK = 256
"""Most principal directions of the family 'pca'."""
BASIS_FOLDS = 2
"""Folds that the principal directions of 'pca' are computed from, and its moments are not: the directions fit just
these examples, whose errors would look too small across the weak directions."""
IMAGES = (Family.DCT, Family.BLOCK, Family.LOCAL, Family.MAP, Family.HYBRID)
"""Families that need images."""
PARTS = (Family.LOCAL, Family.MAP, Family.DCT)
"""Families that a hybrid is made of."""
_REGRESSIONS = (Family.LOCAL, Family.MAP, Family.LEARNED)


def suitable(model: DiffusionModel) -> list[Family]:
    """The families worth trying."""
    learned = [Family.LEARNED] if isinstance(model.reverse.variance, (LearnedRange, LearnedLog)) else []
    if _is_image(model.domain.shape):
        return [Family.SCALAR, *learned, Family.DCT, Family.LOCAL, Family.MAP, Family.HYBRID]
    return [Family.SCALAR, *learned, Family.PCA]


def expanded(families: list[Family]) -> list[Family]:
    """The families to fit for those asked for, each once: the scalar one first, a hybrid as its parts."""
    parts = [Family.SCALAR]
    for family in families:
        parts += PARTS if family is Family.HYBRID else [family]
    return list(dict.fromkeys(parts))


def make_fitters(
    families: list[Family], problem: GaussianChain, chosen: Tensor, fold: Tensor, logsnr: Tensor, seed: int
) -> dict[Family, Fitter]:
    """Fitters of `families` and of those they build on, for the examples `chosen` of a problem and log-SNRs (N,)."""
    model = problem.model
    shape, count = model.domain.shape, len(chosen)
    needing_images = [family for family in families if family in IMAGES]
    if needing_images and not _is_image(shape):
        raise UsageError(
            f"the covariance {needing_images[0].value!r} of examples of shape {shape}",
            f"it needs images, (H, W) or (C, H, W) of at least {MIN_SIDE}×{MIN_SIDE}; use 'pca', 'pixel' or 'scalar'",
        )
    fitters: dict[Family, Fitter] = {}
    colours = _colours(problem, chosen) if needing_images else None

    def diagonal(family: Family) -> DiagonalFitter:
        if family not in fitters:
            basis = _basis(family, problem, chosen, fold, colours)
            fitters[family] = diagonal_fitter(family, basis, shape, logsnr, count)
        fitter = fitters[family]
        assert isinstance(fitter, DiagonalFitter)
        return fitter

    for family in families:
        if family not in _REGRESSIONS:
            diagonal(family)
    if Family.LOCAL in families:
        fitters[Family.LOCAL] = LocalFitter(diagonal(Family.BLOCK), _energy_floor(problem, chosen), seed)
    if Family.MAP in families:
        base = diagonal(Family.CHANNEL if math.prod(shape[:-2]) > 1 else Family.SCALAR)
        fitters[Family.MAP] = MapFitter(base, _energy_floor(problem, chosen), *_range(problem, chosen), seed)
    if Family.LEARNED in families:
        policy = model.reverse.variance
        if not isinstance(policy, (LearnedRange, LearnedLog)):
            raise UsageError(
                f"the covariance 'learned' of a model whose variance is {policy.kind!r}",
                "it calibrates the variance that a network predicts (learned_range, learned_log); use another family",
            )
        logarithmic = isinstance(policy, LearnedLog)
        fitters[Family.LEARNED] = CalibrationFitter(diagonal(Family.SCALAR), logarithmic, seed)
    return fitters


def diagonal_fitter(family: Family, basis: Basis, shape: Shape, logsnr: Tensor, count: int) -> DiagonalFitter:
    """The fitter of a family that is diagonal in `basis`."""
    each = torch.arange(torch.Size(shape).numel()).reshape(shape)
    one = torch.zeros(shape, dtype=torch.int64)
    if family is Family.SCALAR:
        return DiagonalFitter(shape, logsnr, count, Pixel(), [one])
    bands = basis.bands(shape)
    ties = [bands, one] if family is Family.CHANNEL else [each, bands, one]
    return DiagonalFitter(shape, logsnr, count, basis, ties, BASIS_FOLDS if family is Family.PCA else 0)


def _is_image(shape: Shape) -> bool:
    return len(shape) in (2, 3) and min(shape[-2:]) >= MIN_SIDE


def _basis(family: Family, problem: GaussianChain, chosen: Tensor, fold: Tensor, colours: Tensor | None) -> Basis:
    if family is Family.DCT or family is Family.BLOCK:
        assert colours is not None
        return Cosine(colours, BLOCK if family is Family.BLOCK else 0)
    if family is Family.PCA:
        x = problem.values(chosen[fold < BASIS_FOLDS]).flatten(1).cpu()
        _, _, V = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        return Reflections.through(V[: min(RANK, len(x) - 1, x.shape[1])].mT)
    return Pixel()


def _colours(problem: GaussianChain, chosen: Tensor) -> Tensor:
    """Principal directions of the channels of a pixel, (C, C), the strongest first, each mostly positive."""
    shape = problem.model.domain.shape
    x = problem.values(chosen).reshape(len(chosen), -1, *shape[-2:]).transpose(0, 1).flatten(1).cpu()
    x = x - x.mean(1, keepdim=True)
    _, V = torch.linalg.eigh(x @ x.mT / x.shape[1])
    V = V.flip(1).mT
    return V * torch.where(V.sum(1, keepdim=True) < 0, -1.0, 1.0)


def _energy_floor(problem: GaussianChain, chosen: Tensor) -> float:
    """The square of 1/200 of the range of codes, or 1e-4 of the variance of real data; added to energies of x̂."""
    domain = problem.model.domain
    if domain.discrete:
        return ((domain.high - domain.low) / 200) ** 2
    x = problem.values(chosen)
    return 1e-4 * max(float((x - x.mean()).square().mean()), 1e-12)


def _range(problem: GaussianChain, chosen: Tensor) -> tuple[float, float]:
    """The range of the codes, or of the examples where the data are real numbers."""
    domain = problem.model.domain
    if domain.discrete:
        return domain.low, domain.high
    x = problem.values(chosen)
    low, high = float(x.min()), float(x.max())
    return low, max(high, low + 1e-6)
