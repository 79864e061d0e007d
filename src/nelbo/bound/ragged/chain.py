"""A Gaussian chain over examples of different size: every term is a sum over the elements that are there.

Elements that are there are laid out as rows of one number each, and the terms of the chain are asked of these; parts of
a model that look at several elements at once have no such sum, and are refused. The controls and features are those of
a surrogate with independent elements.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.bound import terms
from nelbo.bound.features import LEVELS, PLACES
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.noised import Noised
from nelbo.bound.problem import Draws
from nelbo.bound.ragged.elements import over, summed
from nelbo.errors import UsageError
from nelbo.model.decoder import Categorical, ContinuousGaussian, Decoder, DiscretizedGaussian, NetworkCategorical
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.latent.likelihood import ScaledDecoder
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Beta, BetaTilde, Clip, LearnedLog, LearnedRange, VarianceTable
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Prediction
from nelbo.typing import Condition
from nelbo.workers import Workers

ALONE = (BetaTilde, Beta, LearnedRange, LearnedLog, VarianceTable)
"""Variances of a step that are of every element by itself."""


DECODERS = (ContinuousGaussian, DiscretizedGaussian, Categorical, NetworkCategorical, ScaledDecoder)
"""Decoders that are, unless a table of theirs has a place for every element."""


def check(model: DiffusionModel) -> None:
    """Errors: UsageError for a part of the model that looks at several elements at once."""
    decoder, clip = model.decoder, model.reverse.clip
    table = getattr(decoder, "log_prior", None)
    scale = decoder.to_tensors().get("scale") if isinstance(decoder, ScaledDecoder) else None
    known = isinstance(
        decoder, (ContinuousGaussian, DiscretizedGaussian, Categorical, NetworkCategorical, ScaledDecoder)
    )
    misfit = {
        f"the decoder {decoder.kind!r}": not known
        or (table is not None and table.ndim > 1)
        or (scale is not None and scale.ndim > 0),
        f"the variance {model.reverse.variance.kind!r}": not isinstance(model.reverse.variance, ALONE),
        f"the prior {model.prior.kind!r}": not isinstance(model.prior, GaussianPrior),
        f"the clipping {'' if clip is None else clip.kind!r}": not (clip is None or isinstance(clip, Clip)),
    }
    for what, wrong in misfit.items():
        if wrong:
            raise UsageError(
                f"{what} for examples of different size, which is not of every element by itself",
                "use a decoder and variances that are the same for all elements",
            )


def first_level(
    model: DiffusionModel, data: Tensor, z: Tensor, at: Levels, prediction: Prediction | None, there: Tensor
) -> Tensor:
    """−log p(x | z_1) of what is there (b, *shape), (b,), of codes or values `data`."""
    domain = model.domain
    number = replace(domain, shape=(1,), mean=None, scale=None)
    target = data.long() if domain.discrete else domain.values(data)
    nats = over(there, partial(_nll, model.decoder, number), target, z, at, prediction)
    if domain.scale is None:
        return nats
    # the decoder's density is that of standardised data
    volume = domain.scale.to(device=data.device, dtype=torch.float64).log().expand(there.shape)
    return nats + over(there, lambda rows: rows[:, 0], volume)


def _nll(
    decoder: Decoder, number: DataDomain, target: Tensor, z: Tensor, at: Levels, prediction: Prediction | None
) -> Tensor:
    return decoder.nll(target, z, at, prediction, number)


class Elements(NamedTuple):
    """The surrogate x_e ~ N(mean, variance), independent elements, the same at all positions, (*shape[1:])."""

    mean: Tensor
    variance: Tensor

    def parts(self, x: Tensor, logsnr: Tensor) -> tuple[Tensor, Tensor]:
        """p and q (x − mean) of ε − ε_G = p ε − q (x − mean), as of `surrogate.py`, (b, *shape)."""
        snr = column(logsnr.exp(), x)
        total = 1 + snr * self.variance.to(x)
        return snr * self.variance.to(x) / total, snr.sqrt() / total * (x - self.mean.to(x))

    def excess(self, x: Tensor, eps: Tensor, logsnr: Tensor, there: Tensor) -> Tensor:
        """‖ε − ε_G‖² less its mean over ε, of the elements that are there, (b,)."""
        p, bias = self.parts(x, logsnr)
        return _summed((p * eps - bias).square() - p.square() - bias.square(), there)

    def expected(self, x: Tensor, logsnr: Tensor, there: Tensor) -> Tensor:
        """E‖ε − ε_G‖² at every log-SNR of `logsnr` (K,), (n, K)."""
        columns = []
        for level in logsnr:
            p, bias = self.parts(x, level.expand(len(x)))
            columns.append(_summed(p.square() + bias.square(), there))
        return torch.stack(columns, 1)


def _summed(values: Tensor, there: Tensor) -> Tensor:
    return summed(values[there].to(torch.float64), there)


def _nowhere() -> Tensor:
    return torch.zeros(0, dtype=torch.bool)


@dataclass(frozen=True, eq=False)
class RaggedChain(GaussianChain):
    """there (N, *shape): the elements that are; data are zero elsewhere. The mask is among the condition's rows where
    the network takes one."""

    there: Tensor = field(default_factory=_nowhere)

    @property
    def sizes(self) -> Tensor:
        """D of every example, (N,)."""
        return self.there.flatten(1).sum(1)

    @property
    def dimensions(self) -> int:
        """D on average, rounded."""
        return max(1, round(float(self.sizes.double().mean())))

    @property
    def control_columns(self) -> int:
        """The surrogate's excess and ‖ε‖² − D over the elements that are there."""
        return 2

    def there_of(self, examples: Tensor) -> Tensor:
        """The elements of `examples` (n,) that are there, (n, *shape), on the device."""
        return self.there[examples].to(self.device)

    def prior(self, examples: Tensor) -> Tensor:
        last = self.levels[-1:]
        return over(self.there_of(examples), lambda x: terms.prior(self.model, x, last), self.values(examples)).cpu()

    def noised(
        self, draws: Draws, rows: Tensor, each: Callable[[slice, Tensor, Tensor, Levels], None] | None = None
    ) -> Noised:
        """As of every chain, with zeros where nothing is."""
        noised = super().noised(draws, rows, each)
        there = self.there_of(noised.examples)
        zero = torch.zeros((), dtype=noised.x.dtype, device=self.device)
        return noised._replace(x=torch.where(there, noised.x, zero), z=torch.where(there, noised.z, zero))

    def term(self, noised: Noised, condition: Condition) -> tuple[Tensor, Prediction | None]:
        """The term of every draw in nats, (b,); what the network says where nothing is does not count."""
        model, (examples, cells, data, x, z, at) = self.model, noised
        asked = cells is not None or model.decoder.calls_network
        prediction = model.predict(z, at, condition) if asked else None
        there = self.there_of(examples)
        if cells is None or prediction is None:
            return first_level(model, data, z, at, prediction, there), prediction
        if self.cells.continuous:
            slope = -2 * self.cells.scale[cells].to(self.device)
            return over(there, terms.diffusion_rate, x, prediction, at, slope), prediction
        s = self.levels[cells.to(self.device)]
        return over(there, partial(terms.diffusion, model), x, prediction, s, at), prediction

    def reconstruction_of(self, examples: Tensor) -> Callable[[Tensor, Tensor, Levels, Prediction | None], Tensor]:
        """−log p(x | z_1) of what is there of `examples` (b,), (b,) nats, as a function of codes or values (b, *shape),
        z_1, levels (b,) and the network's prediction."""
        there = self.there_of(examples)
        return lambda target, z, at, prediction: first_level(self.model, target, z, at, prediction, there)

    def controls_of(self, examples: Tensor, x: Tensor, eps: Tensor, at: Levels, controls: object) -> Tensor:
        """The surrogate's excess and ‖ε‖² − D over the elements that are there."""
        assert isinstance(controls, Elements)
        there = self.there_of(examples)
        return torch.stack([controls.excess(x, eps, at.logsnr, there), _summed(eps.square() - 1, there)], 1)

    def observed(self, draws: Draws) -> int:
        return 0

    def fit_controls(self, examples: Tensor, workers: Workers) -> Elements:  # type: ignore[override]
        """Mean and variance of the elements of `examples` that are there, one for each place behind the first axis;
        those of the worker of rank 0."""
        there, x = self.there_of(examples).cpu(), self.values(examples).cpu()
        axes = (0, 1)
        number = there.sum(axes).clamp_min(1)
        mean = (x * there).sum(axes) / number
        variance = ((x - mean).square() * there).sum(axes) / number
        table = torch.stack([mean.reshape(-1), variance.reshape(-1).clamp_min(1e-9)])
        table = table if workers.size == 1 else workers.gather(table)[0]
        shape = self.model.domain.shape[1:]
        return Elements(table[0].reshape(shape), table[1].reshape(shape))

    def features(self, examples: Tensor, controls: object) -> tuple[Tensor, Tensor]:
        """Logarithms of the surrogate's expected errors at a few levels and of D, and these errors at more."""
        assert isinstance(controls, Elements)
        if not len(examples):
            return torch.zeros(0, LEVELS + 1), torch.ones(0, PLACES)
        there, x = self.there_of(examples), self.values(examples)
        ends = self.levels.logsnr
        logsnr = torch.linspace(float(ends[0]), float(ends[-1]), PLACES, dtype=torch.float64, device=self.device)
        expected = controls.expected(x, logsnr, there).clamp_min(1e-9)
        size = there.flatten(1).sum(1, keepdim=True).to(expected)
        return torch.cat([expected[:, ::3].log(), size.log()], 1).float().cpu(), expected.float().cpu()
