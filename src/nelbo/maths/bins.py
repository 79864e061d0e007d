r"""Mass of a Gaussian in bins: the discretised decoder with exact tails, in log space and never clamped.

Codes k = 0..K-1 stand for x_k = low + (high - low) k / (K - 1). Code k owns the bin x_k -+ half, where
half = (high - low) / (2 (K - 1)) (1/255 for [-1, 1] and 256 codes); the outer edges of the first and last bin are
infinite (Ho et al. 2020, "Denoising diffusion probabilistic models", equation 13).

In standard units a bin has centre m and half width h. By symmetry m <= 0, and with edges a = m - h, b = m + h

    narrow    h <= 1/2, |m| h <= 1    log phi(m) + log 2h + log of the mean of exp(-m u - u^2/2) over |u| <= h
    wide      b > 0, h > 2            log1p(-(Phi(a) + Phi(-b)))
    middle    b > -35                 log(Phi(b) - Phi(a))
    far       else                    log Phi(b) + log1mexp(log Phi(b) - log Phi(a))

The mean in the first is a Gauss-Legendre sum of positive terms; Phi(b) is at least twice Phi(a) in the third and
exp(1) times it in the last, so nothing cancels anywhere. (m, h) rather than the edges is the natural argument: the
difference of two edges 1e-9 apart at 60 sigma has lost six digits.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nelbo.equation import equation
from nelbo.errors import DomainError, UsageError
from nelbo.maths import tiles
from nelbo.maths.stable import log1mexp

_NODES, _WEIGHTS = (v[5:].tolist() for v in np.polynomial.legendre.leggauss(10))
"""Positive nodes of ten on [-1, 1] and their weights, which sum to 1: the integrand is symmetrised."""


def interval_log_mass(lower: Tensor, upper: Tensor) -> Tensor:
    """log(Phi(upper) - Phi(lower)), the log mass of [lower, upper] under N(0, 1), elementwise, in nats.

    -inf and +inf are allowed as lower and upper: open tails. -inf where the two are equal, NaN where lower > upper.
    In float64 the relative error is below 1e-10, of the value and of its exponential, out to 60 sigma and for any
    width; derivatives are finite for every interval of positive width. Abramowitz and Stegun 1964, 26.2.
    """
    lower, upper = torch.broadcast_tensors(lower, upper)
    empty, below, above = lower == upper, torch.isneginf(lower), torch.isposinf(upper)
    everything, is_open = below & above, below | above
    closed = ~(is_open | empty)
    a, b = torch.where(closed, lower, -1.0), torch.where(closed, upper, 1.0)
    end = torch.where(above, -lower, upper)
    mass = _log_mass(0.5 * (a + b), 0.5 * (b - a), is_open, torch.where(is_open & ~everything & ~empty, end, 0.0))
    return torch.where(empty, -torch.inf, torch.where(everything, 0.0, mass))


def _log_mass(m: Tensor, h: Tensor, is_open: Tensor, end: Tensor) -> Tensor:
    """log mass of [m - h, m + h] under N(0, 1), or of (-inf, end] where `is_open`. All arguments finite."""
    m = -m.abs()
    b = m + h
    closed = ~is_open
    narrow = closed & (h <= 0.5) & (m * h >= -1.0)
    wide = closed & (h > 2.0) & (b > 0.0)
    far = closed & (b <= _FAR) & ~narrow
    middle = closed & ~(narrow | wide | far)
    whole = (m, h)
    cases = ((narrow, _narrow, whole), (wide, _wide, whole), (middle, _middle, whole), (far, _far, whole))
    cases = (*cases, (is_open, _open, (end,)))
    if torch.is_grad_enabled() and any(v.requires_grad for v in (m, h, end)):
        # every form for every element, at a harmless argument where it does not apply: a gradient of zero, not NaN
        out = torch.zeros_like(b)
        for where, form, arguments in cases:
            safe = (torch.where(where, v, s) for v, s in zip(arguments, _SAFE[form], strict=True))
            out = torch.where(where, form(*safe), out)
        return out
    counts = [int(where.count_nonzero()) for where, *_ in cases]
    out = None
    for n, (where, form, arguments) in zip(counts, cases, strict=True):
        if n > b.numel() // 8:  # computing a form for all elements is cheaper than selecting many of them
            value = form(*arguments)
            out = value if out is None else torch.where(where, value, out)
    out = torch.empty_like(b) if out is None else out.contiguous()
    for n, (where, form, arguments) in zip(counts, cases, strict=True):
        if 0 < n <= b.numel() // 8:
            rows = where.expand(b.shape).reshape(-1).nonzero()[:, 0]
            some = [v if v.numel() == 1 else v.expand(b.shape).reshape(-1)[rows] for v in arguments]
            out.view(-1)[rows] = form(*some)
    return out


_TERMS = 9
"""Terms of the power series of cosh, for arguments up to 1: the next term is 1/18! = 2e-16."""
_FAR = -35.0
"""Upper edges below this are far: erfc underflows from 38 sigma on."""
_ROOT = math.sqrt(0.5)


def _narrow(m: Tensor, h: Tensor) -> Tensor:
    """h <= 1/2 and |m| h <= 1. The mean of cosh(m u) exp(-u^2/2) at the nodes u = h t, where one h serves all as a
    polynomial in (m h)^2."""
    if h.numel() == 1 and not h.requires_grad:
        one, s = float(h), (m * h).square()
        weights = [w * math.exp(-0.5 * (one * t) ** 2) for t, w in zip(_NODES, _WEIGHTS, strict=True)]
        mean = torch.zeros_like(s)
        for k in reversed(range(_TERMS)):
            moment = sum(w * t ** (2 * k) for t, w in zip(_NODES, weights, strict=True))
            mean = mean.mul(s).add_(moment / math.factorial(2 * k))
    else:
        mean = torch.zeros_like(h)
        for t, w in zip(_NODES, _WEIGHTS, strict=True):
            u = h * t
            mean = mean + w * torch.exp(-0.5 * u * u) * torch.cosh(m * u)
    return -0.5 * m**2 + torch.log(h * mean) + 0.5 * math.log(2.0 / math.pi)


def _wide(m: Tensor, h: Tensor) -> Tensor:
    """log(1 - the mass outside): the middle of the distribution and most of the mass are inside."""
    return torch.log1p(-0.5 * (torch.erfc((h - m) * _ROOT) + torch.erfc((h + m) * _ROOT)))


def _middle(m: Tensor, h: Tensor) -> Tensor:
    """Neither narrow nor nearly everything, and near enough to the middle that erfc does not underflow."""
    return torch.log(0.5 * (torch.erfc((-h - m) * _ROOT) - torch.erfc((h - m) * _ROOT)))


def _far(m: Tensor, h: Tensor) -> Tensor:
    """Far below the middle. The mass more than 40 sigma beyond b <= 0 is at most exp(-800) of the whole; cutting it
    off keeps squares from overflowing."""
    b = m + h
    log_b = torch.special.log_ndtr(b)
    return log_b + log1mexp(log_b - torch.special.log_ndtr(torch.maximum(m - h, b - 40.0)))


def _open(end: Tensor) -> Tensor:
    """The mass below `end`, by erfc where it does not underflow and by log_ndtr, which is much slower, elsewhere."""
    if torch.is_grad_enabled() and end.requires_grad:
        return torch.special.log_ndtr(end)
    far = end <= _FAR
    tail = torch.erfc(end.abs() * _ROOT).mul_(0.5)
    value = torch.where(end < 0, tail.log(), torch.log1p(-tail))
    return torch.where(far, torch.special.log_ndtr(torch.where(far, end, 0.0)), value) if bool(far.any()) else value


_SAFE = {_narrow: (0.0, 0.5), _wide: (0.0, 3.0), _middle: (0.0, 1.0), _far: (-40.0, 1.0), _open: (0.0,)}
"""Arguments at which each form and its derivatives are finite."""


def _check(bins: int, low: float, high: float) -> None:
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 2:
        raise UsageError(f"{bins!r} bins", "give the number of codes, an integer of at least 2")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"bins over [{low}, {high}]", "give finite low < high, the values of the first and last code")


@equation("pixel-scaling")
def code_values(codes: Tensor, bins: int, low: float, high: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """x_k = low + (high - low) k / (K - 1) of integer codes k, elementwise, K = `bins`; exact at both ends.

    Ho et al. 2020, section 3.3. Codes are not checked here.
    """
    _check(bins, low, high)
    k = codes.to(dtype)
    return (low * (bins - 1 - k) + high * k) / (bins - 1)


def counts(codes: Tensor, bins: int) -> Tensor:
    """How often each code occurs at every position of `codes` (N, *shape), which are in 0..bins−1: (*shape, bins)."""
    shape = codes.shape[1:]
    positions = bins * torch.arange(shape.numel(), device=codes.device)
    total = torch.zeros(shape.numel() * bins, dtype=torch.float64, device=codes.device)
    for part in codes.flatten(1).split(1024):  # int64 of all 60,000 images of a training set need not be in memory
        total += torch.bincount((part.long() + positions).flatten(), minlength=len(total))
    return total.reshape(*shape, bins)


@equation("decoder-bin-edges")
def bin_edges(
    bins: int,
    low: float,
    high: float,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Tensor:
    """The K + 1 edges (K + 1,) of K = `bins` bins: -inf, then low + (high - low) (2k + 1) / (2 (K - 1)), then +inf.

    Code k lies between edges k and k + 1 (Ho et al. 2020, equation 13). UsageError: bins < 2 or low >= high.
    """
    _check(bins, low, high)
    twice = 2.0 * torch.arange(bins + 1, dtype=torch.float64, device=device) - 1.0
    edges = (low * (2 * (bins - 1) - twice) + high * twice) / (2 * (bins - 1))
    edges[0], edges[-1] = -math.inf, math.inf
    return edges.to(dtype)


@equation("decoder-likelihood", "decoder-mass-monotone")
def bin_log_mass(codes: Tensor, mean: Tensor, std: Tensor, bins: int, low: float, high: float) -> Tensor:
    r"""log of the N(mean, std^2) mass of each code's bin, elementwise, in nats: codes integer, the rest broadcast.

        log( Phi((x_k + half - mean) / std) - Phi((x_k - half - mean) / std) ),   outer edges infinite

    (Ho et al. 2020, equation 13; sum over the dimensions of an example). Both edges of neighbouring bins come from one
    number, mean in units of half bins from the middle of the range, so that masses telescope for every std.
    DomainError: codes that are no integers in 0..bins-1, or a std that is not positive.
    """
    _check(bins, low, high)
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise DomainError(f"codes of dtype {codes.dtype}", f"give integer codes 0..{bins - 1}, not values")
    if codes.numel():
        least, most = (int(v) for v in torch.aminmax(codes))
        if least < 0 or most >= bins:
            raise DomainError(f"codes span {least}..{most}", f"{bins} bins take codes 0..{bins - 1}")
    mean, std = _floats(mean, std)
    if not bool((std > 0).all()):
        raise DomainError("a standard deviation that is not positive", "give std > 0 (a variance is its square)")
    codes, mean = torch.broadcast_tensors(codes, mean)
    if std.numel() > 1:
        codes, mean, std = torch.broadcast_tensors(codes, mean, std)
    if codes.ndim == 0 or (torch.is_grad_enabled() and (mean.requires_grad or std.requires_grad)):
        return _bin(codes, mean, std, bins, low, high)
    parts = tiles.tiles(len(codes), codes[0].numel() if len(codes) else 1, codes.device)
    found = [_bin(codes[r], mean[r], std[r] if std.numel() > 1 else std, bins, low, high) for r in parts]
    return torch.cat(found) if len(found) > 1 else found[0]


def _bin(codes: Tensor, mean: Tensor, std: Tensor, bins: int, low: float, high: float) -> Tensor:
    """`bin_log_mass` of checked arguments; std of one element or of the shape of the others."""
    per_half = 2 * (bins - 1) / (high - low)
    middle = 0.5 * (low + high)
    offset = codes.to(mean.dtype).mul(2).sub_(bins - 1) - (mean - middle) * per_half
    h = 1.0 / (std * per_half)
    m = offset * h
    below, above = codes == 0, codes == bins - 1
    return _log_mass(m, h, below | above, torch.where(above, h - m, m + h))


@equation("decoder-normalised")
def log_pmf(mean: Tensor, std: Tensor, bins: int, low: float, high: float) -> Tensor:
    """log masses of all K = `bins` codes, (..., K) for mean and std that broadcast to (...), in nats; exp sums to 1.

    See `bin_log_mass` for formula, source and errors.
    """
    _check(bins, low, high)
    mean, std = torch.broadcast_tensors(*_floats(mean, std))
    codes = torch.arange(bins, device=mean.device)
    return bin_log_mass(codes, mean.unsqueeze(-1), std.unsqueeze(-1), bins, low, high)


def _floats(mean: Tensor | float, std: Tensor | float) -> tuple[Tensor, Tensor]:
    """Both as tensors of one dtype and device: that of the tensors given, float64 for plain numbers."""
    tensors = [v for v in (mean, std) if isinstance(v, Tensor)]
    dtype = torch.float64
    if tensors:
        dtype = torch.promote_types(tensors[0].dtype, tensors[-1].dtype)
    device = tensors[0].device if tensors else None
    mean, std = (torch.as_tensor(v, dtype=dtype, device=device) for v in (mean, std))
    return mean, std
