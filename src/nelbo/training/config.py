"""The settings of a training run, as tables with defaults: a pydantic model. `settings.py` reads them."""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from nelbo.process.schedule import TRAINABLE

# The docstrings of the tables are descriptions in the JSON schema of a configuration file.


class _Strict(BaseModel):
    """A frozen pydantic model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and annotation in (int, float, int | None):
            raise PydanticCustomError("bool_for_a_number", "Input should be a number")
        return value


def _named(value: Any) -> Any:
    """`"bound"` stands for `{"name": "bound"}`."""
    return {"name": value} if isinstance(value, str) else value


def _schedule_name(name: str) -> str:
    if name in TRAINABLE:
        return name
    *others, last = map(repr, TRAINABLE)
    raise PydanticCustomError("unknown_name", "Input should be {names}", {"names": f"{', '.join(others)} or {last}"})


class Precision(enum.Enum):
    """What the network computes in while it is trained; weights, losses and the optimiser stay in float32."""

    FLOAT32 = "float32"
    BF16 = "bf16"


class Optimizer(enum.Enum):
    """What makes steps of gradients."""

    ADAMW = "adamw"
    MUON = "muon"


class Augmentation(enum.Enum):
    """Changes to training examples; none is made unasked."""

    HORIZONTAL_FLIP = "horizontal_flip"


class Keep(enum.Enum):
    """Which averaged weights the finished model gets: those of the least validation bound, or the last."""

    BEST = "best"
    LAST = "last"


class ValidationConfig(_Strict):
    """The bound on examples that are not trained on, every so many steps, by the bound engine with a fixed budget."""

    every: int | None = Field(default=None, ge=1, description="steps between two bounds; null: none")
    data: str | None = Field(default=None, description="DATA to score; null: hold out a part of the training data")
    examples: int | None = Field(
        default=None, ge=2, description="how many; null: of held-out data a tenth, of given data all, at most 1000"
    )
    tolerance: float = Field(default=0.01, gt=0, description="standard error to stop at, in bits/dim")
    max_nfe: int = Field(default=4000, ge=600, description="most network evaluations of one bound")
    patience: int | None = Field(default=None, ge=1, description="stop after so many bounds that were no better")
    keep: Keep = Field(default=Keep.BEST, description="weights of the finished model")


class NetConfig(_Strict):
    """The network: `name`, its `head`, what a plain head `predicts`, and the network's own `settings` (net.size: tiny,
    small or base).

    `name`: mlp, unet, set (points without an order), or diffusers' unet2d, which needs a plain head and a schedule with
    a table; for sequences of symbols transformer.
    """

    name: str = "mlp"
    head: Literal["categorical", "mixture", "plain"] = "categorical"
    predicts: Literal["eps", "x0", "v"] = "v"
    components: int = Field(default=4, ge=1, description="Gaussians a pixel of a mixture head")
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather_settings(cls, values: Any) -> Any:
        """`net.width = 512` stands for `net.settings.width = 512`."""
        if not isinstance(values, dict):
            return values
        own = {k: v for k, v in values.items() if k in cls.model_fields}
        rest = {k: v for k, v in values.items() if k not in cls.model_fields}
        return {**own, "settings": {**own.get("settings", {}), **rest}} if rest else own


class ObjectiveConfig(_Strict):
    """What is minimised, by `name`, and how times are drawn (`t`).

    bound: the bound. sigmoid, edm_monotone: the bound weighed over noise levels. simple: L_simple. min_snr: L_simple
    with weights min(SNR, gamma)/SNR. hybrid: L_simple + vlb_weight · bound, for variance=learned_range; of symbols
    under uniform noise the bound + ce_weight · cross-entropy.
    """

    name: Literal["bound", "sigmoid", "edm_monotone", "simple", "min_snr", "hybrid"] = "bound"
    t: Literal["uniform", "low_discrepancy", "importance"] = "low_discrepancy"
    bias: float = Field(default=2.0, description="b of w = sigmoid(b − log-SNR), for sigmoid")
    gamma: float = Field(default=5.0, gt=0, description="of min_snr")
    vlb_weight: float = Field(default=0.001, ge=0, description="of hybrid: the bound's weight, in bits/dim")
    ce_weight: float = Field(default=0.01, ge=0, description="of hybrid over symbols: the cross-entropy's weight")


class TokenConfig(_Strict):
    """Of sequences of symbols: the noise (`kernel`), what the network is told besides them (`time`), and the survival
    of a symbol where it is told t or σ (`schedule`); else every schedule has one bound."""

    kernel: Literal["masked", "uniform"] = "masked"
    time: Literal["none", "count", "mask_fraction", "unit", "sigma"] = "none"
    schedule: Literal["linear", "cosine"] = "linear"


class LatentConfig(_Strict):
    """A latent model of images: `conv` encoder and decoder of `width` channels inside, with `channels` numbers at every
    place of the latents, whose sides are those of the image over patch · 2^halvings. `net`, `schedule`, `levels` and
    `objective.t` are then those of the chain over latents.

    `likelihood` of x about x̂, with a trained scale, one for all or one a channel (`per_channel`). stages: 1, all for
    the one bound at once; 2, encoder and decoder under a normal prior for `first_share` of the steps, and then the
    chain alone.
    """

    name: Literal["conv"] = "conv"
    channels: int = Field(default=4, ge=1, description="numbers at every place of a latent")
    width: int = Field(default=64, ge=8, multiple_of=8, description="channels inside encoder and decoder")
    patch: int = Field(default=2, ge=1, description="pixels on a side that are folded into channels first")
    halvings: int = Field(default=1, ge=0)
    blocks: int = Field(default=1, ge=1, description="residual blocks at every scale")
    likelihood: Literal["gaussian", "logistic"] = "logistic"
    per_channel: bool = False
    stages: Literal[1, 2] = 1
    first_share: float = Field(default=0.5, gt=0, lt=1, description="of the steps, the first of two stages")

    def first_steps(self, steps: int) -> int:
        """Steps of the first of two stages, of a run of `steps`; 0 of one stage."""
        return 0 if self.stages == 1 else min(max(1, round(self.first_share * steps)), steps - 1)


class ScheduleConfig(_Strict):
    """The log-SNR law: `logsnr_linear` from `logsnr_max` to `logsnr_min`, or DDPM's tables `linear`, `cosine` (T).

    learned: begins as logsnr_linear, and its shape (`segments` straight ones) and end points (unless `fixed_ends`) are
    trained along with the network.
    """

    name: Annotated[str, AfterValidator(_schedule_name)] = Field(
        default="logsnr_linear", json_schema_extra={"enum": [*TRAINABLE]}
    )
    logsnr_max: float = 5.0
    logsnr_min: float = -6.0
    T: int = Field(default=1000, ge=2)
    segments: int = Field(default=32, ge=1)
    fixed_ends: bool = False


class TrainConfig(_Strict):
    """All settings of a run. `levels` is the number of steps of the saved model's grid (null: continuous)."""

    steps: int = Field(default=1000, ge=1, description="optimiser steps")
    seed: int = Field(default=0, ge=0, lt=2**63)
    batch_size: int = Field(default=192, ge=1)
    lr: float = Field(default=4e-3, gt=0)
    optimizer: Optimizer = Field(
        default=Optimizer.ADAMW, description="muon: for the matrices of inner layers, and AdamW for the rest"
    )
    net: Annotated[NetConfig, BeforeValidator(_named)] = NetConfig()
    objective: Annotated[ObjectiveConfig, BeforeValidator(_named)] = ObjectiveConfig()
    schedule: Annotated[ScheduleConfig, BeforeValidator(_named)] = ScheduleConfig()
    tokens: TokenConfig = TokenConfig()
    latent: Annotated[LatentConfig | None, BeforeValidator(_named)] = Field(
        default=None, description="encoder and decoder of a latent model (latent=conv); null: a model of the data"
    )
    variance: Literal["beta_tilde", "beta", "learned_range", "learned_log"] = "beta_tilde"
    decoder: Literal["plain", "histogram", "mixture"] = Field(
        default="plain",
        description="of a plain head on codes: histogram weighs z's codes by the training counts, mixture by what the "
        "network says of every pixel (net.components)",
    )
    clip: bool = Field(default=False, description="clip x̂ to the codes' range; never while training")
    bins: int | None = Field(default=None, ge=2, description="codes a pixel, or symbols; null: what the data say")
    levels: int | None = Field(default=256, ge=2)
    checkpoint_every: int = Field(default=1000, ge=1)
    log_every: int = Field(default=50, ge=1)
    weight_decay: float = Field(default=0.5, ge=0)
    warmup: int = Field(default=200, ge=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    ema: float = Field(default=0.999, ge=0, lt=1)
    precision: Precision = Field(default=Precision.FLOAT32, description="of the network; bf16 is autocast")
    accumulate: int = Field(default=1, ge=1, description="micro-batches that a batch is computed in")
    compile: bool = Field(default=False, description="torch.compile for the network")
    channels_last: bool = Field(default=False, description="memory format of the network's convolutions")
    validation: ValidationConfig = ValidationConfig()
    augment: tuple[Augmentation, ...] = Field(default=(), description="changes to the training examples")
    condition: str | None = Field(default=None, description="keyword of the network that takes the data's labels")
    standardise: bool = Field(default=False, description="real data: train on (x − mean)/sd of every column")
    tracker: str | None = Field(default=None, description="also log to tensorboard, wandb, … (accelerate's trackers)")
    reconstruction_share: float = Field(
        default=0.125, gt=0, le=1, description="examples of a batch that also score the first level"
    )

    def stage(self, step: int) -> tuple[int, int]:
        """The first step of the stage that `step` is in, and the number of its steps."""
        first = 0 if self.latent is None else self.latent.first_steps(self.steps)
        return (0, first) if step < first else (first, self.steps - first)
