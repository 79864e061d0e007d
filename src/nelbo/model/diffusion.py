"""`DiffusionModel`: a complete p_θ(x), made of parts and frozen.

    p_θ(x) = ∫ p(z_L) Π_{j=2..L} p_θ(z_{j−1} | z_j) p(x | z_1) dz_{1..L}

What is evaluated, sampled or coded is exactly what its parts say; another grid, clip or variance is another model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nelbo.equation import equation
from nelbo.errors import NelboError, UsageError
from nelbo.model.decoder import Decoder, NetworkCategorical
from nelbo.model.denoiser import CategoricalDenoiser, Denoiser
from nelbo.model.domain import DataDomain
from nelbo.model.frozen import FrozenModel
from nelbo.model.mixture import MixtureDenoiser, NetworkMixture
from nelbo.model.prior import Prior
from nelbo.model.reverse import Reverse
from nelbo.process.grid import Grid
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction
from nelbo.process.schedule import Schedule
from nelbo.typing import Condition, Json


@equation("latent-marginal", "reverse-joint")
@dataclass(frozen=True, eq=False)
class DiffusionModel(FrozenModel):
    """Domain, schedule, grid, denoiser, reverse, decoder and prior, with the provenance of the weights.

    Errors: UsageError where parts do not fit each other (a discrete decoder on real data, a categorical decoder on a
    network without a categorical head, a grid that the schedule does not have).
    """

    domain: DataDomain
    schedule: Schedule
    grid: Grid
    denoiser: Denoiser
    reverse: Reverse
    decoder: Decoder
    prior: Prior
    provenance: Json = field(default_factory=dict)
    trained_on: Tensor | None = None
    """Hashes of the training examples (`Examples.hashes`), so that evaluating on them is noticed."""

    def __post_init__(self):
        self.decoder.check(self.domain)
        self.prior.check(self.domain.shape)
        if isinstance(self.decoder, NetworkCategorical) and not isinstance(self.denoiser, CategoricalDenoiser):
            raise UsageError(
                "the decoder 'network_categorical' needs a network with a categorical head, and this one has none",
                "use decoder='discretized_gaussian' or 'categorical', or train with net.head='categorical'",
            )
        if isinstance(self.decoder, NetworkMixture) and not isinstance(self.denoiser, MixtureDenoiser):
            raise UsageError(
                "the decoder 'network_mixture' needs a network with a mixture head, and this one has none",
                "use decoder='discretized_gaussian' or 'categorical', or train with net.head='mixture'",
            )
        variance = self.reverse.variance
        if (variance.learned or self.decoder.spread is not None) and not self.denoiser.learned_variance:
            raise UsageError(
                f"the variance {variance.kind!r} or the decoder's takes what a network says, and this one says none",
                "give a network that returns twice the channels and declare its variance 'learned_range' or "
                "'learned_log', or choose a fixed variance",
            )
        variance.check(self.levels(), self.schedule, self.grid.continuous)
        variance.check_shape(self.domain.shape)

    def levels(self) -> Levels:
        """The levels z_1 … z_L of the model's grid, (L,); its two ends where the grid is continuous."""
        return self.grid.levels(self.schedule, self.decoder.calls_network)

    @property
    def steps(self) -> int | None:
        """Network evaluations of one pass of the chain; None where the grid is continuous."""
        if self.grid.continuous:
            return None
        return len(self.levels()) - 1 + int(self.decoder.calls_network)

    def predict(self, z: Tensor, t: Levels, condition: Condition | None = None) -> Prediction:
        """The model's prediction at z (B, …) and levels t (B,), after its clipping policy."""
        return self.reverse.prepared(self.denoiser(z, t, condition), z)

    def save_pretrained(self, folder: str | Path, *, bound: Any = None, license: str | None = None) -> Path:
        """Write the model as a folder that diffusers loads; see `nelbo.save_pretrained`, also for errors."""
        import nelbo  # the public face, which loads the floors above this one when they are asked for

        return nelbo.save_pretrained(self, folder, bound=bound, license=license)

    def describe(self) -> Json:
        """The parts as JSON: what a result must carry to say which model it scored."""
        grid: Json = {**self.grid.to_config(), "steps": self.steps}
        levels = self.levels()
        if not self.grid.continuous:
            grid["levels"] = len(levels)
        grid |= {"logsnr_first": float(levels.logsnr[0]), "logsnr_last": float(levels.logsnr[-1])}
        domain = self.domain.to_config()
        return {
            "domain": domain if self.domain.scale is None else {**domain, "standardised": True},
            "schedule": self.schedule.to_config(),
            "grid": grid,
            "variance": self.reverse.variance.to_config(),
            "clipping": None if self.reverse.clip is None else self.reverse.clip.to_config(),
            "decoder": self.decoder.to_config(),
            "prior": self.prior.to_config(),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the model by name: weights as the denoiser names them (`net.…`), tables under their part."""
        named = dict(self.denoiser.state_dict())
        for part in ("domain", "schedule", "reverse", "decoder", "prior"):
            named |= {f"{part}.{k}": v for k, v in getattr(self, part).to_tensors().items()}
        return named


def flops_per_evaluation(model: DiffusionModel) -> int | None:
    """Floating-point operations of one prediction for one example: matrix products, convolutions and attention, as
    `torch.utils.flop_counter` counts them (a multiplication and an addition are two).

    None where the count is unknown: for a network that needs a condition, or that does not compute with torch.
    """
    last = model.levels()[-1:]
    z = torch.zeros(1, *model.domain.shape, dtype=torch.float64, device=last.logsnr.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), model.denoiser.inference():
        try:
            model.predict(z, last)
        except (NelboError, RuntimeError, TypeError, ValueError, IndexError):
            return None
    return counter.get_total_flops() or None
