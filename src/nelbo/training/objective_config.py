"""Settings of the objective, and from settings to a `Criterion`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from nelbo.errors import UsageError
from nelbo.training.criterion import Criterion
from nelbo.training.learned_schedule import LearnedLaw
from nelbo.training.objective import Bound, Hybrid, Objective, Simple
from nelbo.training.strict import Strict
from nelbo.training.times import Sampling, Times
from nelbo.training.weighting import EDMMonotone, Flat, MinSNR, Sigmoid

if TYPE_CHECKING:
    from nelbo.training.config import TrainConfig


class ObjectiveConfig(Strict):
    """What is minimised, by `name`, and how times are drawn (`t`).

    bound: the bound. sigmoid, edm_monotone: the bound weighed over noise levels. simple: L_simple. min_snr: L_simple
    with weights min(SNR, gamma)/SNR. hybrid: L_simple + vlb_weight · bound, for variance=learned_range.
    """

    name: Literal["bound", "sigmoid", "edm_monotone", "simple", "min_snr", "hybrid"] = "bound"
    t: Literal["uniform", "low_discrepancy", "importance"] = "low_discrepancy"
    bias: float = Field(default=2.0, description="b of w = sigmoid(b − log-SNR), for sigmoid")
    gamma: float = Field(default=5.0, gt=0, description="of min_snr")
    vlb_weight: float = Field(default=0.001, ge=0, description="of hybrid: the bound's weight, in bits/dim")

    def objective(self, reconstruction_share: float) -> Objective:
        """The objective these settings name."""
        share = reconstruction_share
        return {
            "bound": Bound(Flat(), share),
            "sigmoid": Bound(Sigmoid(self.bias), share),
            "edm_monotone": Bound(EDMMonotone(), share),
            "simple": Simple(),
            "min_snr": Simple(MinSNR(self.gamma)),
            "hybrid": Hybrid(self.vlb_weight),
        }[self.name]


def make_criterion(settings: TrainConfig) -> Criterion:
    """The criterion of a run. Errors: UsageError where objective and schedule do not fit."""
    law = None
    o, s = settings.objective, settings.schedule
    if s.name == "learned":
        if o.name != "bound" or o.t == "importance":
            raise UsageError(
                f"a learned schedule with objective.name = {o.name!r} and objective.t = {o.t!r}",
                "its shape lowers the noise of the bound in the way that importance sampling of t does: use "
                "--set objective=bound --set objective.t=low_discrepancy, or another schedule",
            )
        law = LearnedLaw(s.logsnr_max, s.logsnr_min, s.segments, s.fixed_ends)
    return Criterion(o.objective(settings.reconstruction_share), Times(Sampling.parse(o.t)), law)
