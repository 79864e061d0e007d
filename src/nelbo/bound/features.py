"""Closed-form features of examples that foretell their bound: no network, no noise, all examples.

Two surrogates of the network give the expected error E‖ε − ε̂‖² of an example at a few λ; their logarithms are features:

    Gaussian     x ~ N(μ, C): right for textures and for the bulk of the data (`surrogate.py`)
    local        of images, variances of the example's own, by neighbourhoods (`local_surrogate.py`); of other data the
                 best diagonal estimator of the example in the Gaussian's basis (`local_surrogate.risk`, v = d²): right
                 for what is flat in places and busy in others

Further features: the share of numbers at either end of the range of discrete data, where the decoder's bins are open,
and for images the total variation and the share of neighbours that are equal.

Which of the two a network follows is a matter of its kind and its training: the expected errors that the fit of the
terms begins with are a mixture of both, in shares that the pilot's draws say.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.bound.gaussian_controls import Controls
from nelbo.bound.local_surrogate import is_image, risk
from nelbo.model.domain import DataDomain

LEVELS = 8
"""Log-SNRs, evenly from the first level to the last, at which a surrogate is asked for features."""
_BETWEEN = 3
PLACES = _BETWEEN * (LEVELS - 1) + 1
"""Log-SNRs, those among them, at which it is asked for expected errors."""


def of(x: Tensor, domain: DataDomain, controls: Controls, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Features (B, q) of values x (B, *shape) of a chain between two log-SNRs, and expected errors (B, PLACES), the
    Gaussian's to the power 1 − s times the local surrogate's to that of its share s; float32 on the CPU."""
    surrogate, local = controls.surrogate, controls.local
    logsnr = torch.linspace(float(first), float(last), PLACES, dtype=torch.float64, device=x.device)
    x = x.float()
    expected, few = surrogate.expected(x, logsnr).float(), logsnr[::_BETWEEN].float()
    if local is None:
        square = ((x.flatten(1) - surrogate.mean) @ surrogate.basis.to(x.dtype)).square_()
        other = risk(square, square, few).clamp_min_(1e-9).log_()
    else:
        other = local.expected(x, few).clamp_min_(1e-9).log_()
    features = torch.cat([expected[:, ::_BETWEEN].log(), other, counts(x, domain)], 1)
    if local is not None:
        expected = torch.lerp(expected.log_(), _refined(other), controls.share).exp_()
    return features.cpu(), expected.cpu()


def _refined(logs: Tensor) -> Tensor:
    """Logarithms at LEVELS places (B, LEVELS), interpolated to PLACES."""
    at = torch.arange(PLACES, device=logs.device)
    left = (at // _BETWEEN).clamp_max(LEVELS - 2)
    return torch.lerp(logs[:, left], logs[:, left + 1], (at / _BETWEEN - left).to(logs))


def counts(x: Tensor, domain: DataDomain) -> Tensor:
    """(B, 0 to 4): what is counted on the numbers of every example."""
    counts = []
    if domain.discrete:
        ends = domain.lattice(device=x.device)[[0, -1]].to(x.dtype)
        counts += [(x == end).flatten(1).to(x.dtype).mean(1) for end in ends]
    if is_image(tuple(x.shape[1:])):
        steps = [(x[..., 1:, :] - x[..., :-1, :]).flatten(1).abs(), (x[..., 1:] - x[..., :-1]).flatten(1).abs()]
        counts += [
            sum(s.mean(1) for s in steps) / len(steps),
            sum((s > 0).to(x.dtype).mean(1) for s in steps) / len(steps),
        ]
    return torch.stack(counts, 1) if counts else torch.zeros(len(x), 0, dtype=x.dtype, device=x.device)
