"""From a scheduler's configuration to the chain it was trained for: schedule, output, time, variance, clipping.

The chain is read from the configuration and never from the scheduler's steps. Settings that only concern sampling from
the trained chain are not part of it: `timestep_spacing`, `steps_offset`, `set_alpha_to_one`, solver orders, Karras,
exponential or beta σ, `shift` and dynamic shifting (which respace a flow without changing its law).

| family | schedulers | chain |
| table  | DDPM, DDIM, PNDM, DEIS, DPM-Solver, UniPC, SASolver, Euler, Heun, LMS, KDPM2, … | a table of β, VP path |
| flow   | FlowMatchEuler, FlowMatchHeun, and those of `table` with flow σ | z = (1 − τ)x + τε, the law of τ |
| EDM    | EDMEuler, EDMDPMSolver | z = x + σε, F preconditioned with sigma_data |
| score  | ScoreSdeVe | z = x + σε, the score at σ |

Euler, Heun, LMS and KDPM2 store their samples as z/α and scale them back before they call the network, so that the
networks of the whole family are on the VP path and get the table's index as time.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nelbo.adapters.diffusers import tables
from nelbo.adapters.diffusers.config import defaults, notes, typed
from nelbo.errors import NelboError, UnknownNameError, UsageError
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Clip, Clipping, Threshold
from nelbo.nets.diffusers import Adaptation
from nelbo.process import schedule as schedules
from nelbo.process.schedule import LogSNRLinear, Schedule
from nelbo.typing import Json

TABLE = (
    "DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler", "DDIMInverseScheduler",
    "PNDMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverMultistepInverseScheduler",
    "DPMSolverSinglestepScheduler", "DPMSolverSDEScheduler", "UniPCMultistepScheduler", "SASolverScheduler",
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler",
    "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "RePaintScheduler", "UnCLIPScheduler",
)  # fmt: skip
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
SCORE = ("ScoreSdeVeScheduler",)

DISTILLED = (
    "it samples in a few steps from a distilled network, which is no longer the denoiser of a chain of Gaussians"
)
REFUSED = {
    "CMStochasticIterativeScheduler": DISTILLED,
    "ConsistencyDecoderScheduler": DISTILLED,
    "LCMScheduler": DISTILLED,
    "TCDScheduler": DISTILLED,
    "FlowMatchLCMScheduler": DISTILLED,
    "SCMScheduler": DISTILLED,
    "VQDiffusionScheduler": "its chain is one of codes: give nelbo.from_diffusers((transformer, scheduler))",
    "AmusedScheduler": "it reveals the codes of which its network is surest first, which is no chain with a known law",
    "BlockRefinementScheduler": "it edits the symbols of a block by confidence, which is no chain with a known law",
    "KarrasVeScheduler": "its pipeline rescales image and σ in ways that the configuration does not describe",
    "IPNDMScheduler": "its table is not one of β, and its networks get an angle as time",
}
PREDICTIONS = {
    "epsilon": "eps", "sample": "x0", "original_sample": "x0", "v_prediction": "v", "flow_prediction": "velocity",
}  # fmt: skip
VARIANCES = {
    "fixed_small": "beta_tilde", "fixed_small_log": "beta_tilde", "fixed_large": "beta", "fixed_large_log": "beta",
    "learned": "learned_log", "learned_range": "learned_range",
}  # fmt: skip
FLOW_END = 1 / (1 + 2**-12)
"""τ of a flow's last level: SNR 2^-24, where the prior term is 3e-8 x² nats."""
PLAIN = Adaptation()


@dataclass(frozen=True)
class SchedulerChain:
    """The chain that a scheduler belongs to; `variance` is None if it does not determine the reverse variance."""

    schedule: Schedule
    predicts: str
    time: str = "index"
    variance: str | None = None
    clip: Clipping | None = None
    sigma_data: float | None = None
    prior: GaussianPrior | None = None
    range: tuple[float, float] = (-1.0, 1.0)
    adaptation: Adaptation = PLAIN

    def key(self) -> tuple[Any, ...]:
        """Equal for equal chains, whatever their reverse variance."""
        parts = [part and part.to_config() for part in (self.schedule, self.clip, self.prior)]
        table = {name: value.tolist() for name, value in self.schedule.to_tensors().items()}
        return *parts, table, self.predicts, self.time, self.sigma_data, self.range, self.adaptation


def chain(name: str, config: Json) -> SchedulerChain:
    """The chain of the scheduler class `name` with `config`, completed with the defaults of the class.

    Errors: UsageError with the reason for a scheduler that does not belong to a chain of Gaussians; UnknownNameError
    for an unknown scheduler, table, prediction or variance; those of `tables.table`.
    """
    if name in REFUSED:
        raise UsageError(
            f"the scheduler {name} has no likelihood here: {REFUSED[name]}",
            "evaluate the model that it was made from, with the scheduler it was trained with",
        )
    families = {TABLE: _table, FLOW: _flow, EDM: _edm, SCORE: _score}
    read = next((read for names, read in families.items() if name in names), None)
    if read is None:
        raise UnknownNameError.of("scheduler", name, [n for names in families for n in names])
    try:
        return read(filled(name, config))
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"the configuration of the scheduler {name} is incomplete: {type(error).__name__} {error}",
            "write it with scheduler.save_pretrained",
        ) from None


def filled(name: str, config: Json) -> Json:
    """`config` completed with the defaults of the scheduler class, every value of the type of its default."""
    known = defaults(name)
    given = typed({k: v for k, v in config.items() if not k.startswith("_")}, known, f"the scheduler {name}")
    if given.get("predict_epsilon") is False:  # the name of prediction_type before diffusers 0.12, which ignores it now
        given.setdefault("prediction_type", "sample")
    filled = {k: v for k, v in known.items() if v is not inspect.Parameter.empty} | given
    T = filled.get("num_train_timesteps", 1)
    if not isinstance(T, int) or T < 1:
        raise UsageError(f"num_train_timesteps = {T!r} of the scheduler {name}", "give a whole number, T ≥ 1")
    return filled


def check_file(name: str, config: Json, path: Path, listed: str | None) -> list[str]:
    """Notes on a scheduler_config.json, as of `config.notes`. listed: the class that model_index.json names, if any.

    Errors: those of `chain` and of `config.notes`; UsageError where the two classes are of different chains.
    """
    own = chain(name, config)
    if listed is not None and listed != name:
        try:
            same = chain(listed, config).key() == own.key()
        except NelboError:
            same = False
        if not same:
            raise UsageError(
                f"model_index.json names the scheduler {listed}, and {path} is of a {name}: they are different chains",
                "write the same class in both, or give nelbo.from_diffusers((network, scheduler)) with the one it was "
                "trained with",
            )
    everywhere = {key for names in (TABLE, FLOW, EDM, SCORE) for each in names for key in defaults(each)}
    return notes(config, defaults(name), everywhere, str(path))


def _table(config: Json) -> SchedulerChain:
    predicts = _prediction(config)
    if predicts == "velocity" or config.get("use_flow_sigmas"):
        return _flow(config)
    if "beta_start" not in config:  # UnCLIP has one table only
        config = {**config, "beta_start": None, "beta_end": None}
    if config.get("rescale_betas_zero_snr") and predicts == "eps":
        raise UsageError(
            "the scheduler has zero terminal SNR and prediction_type 'epsilon': at the last level x̂ would be a "
            "division by zero",
            "set rescale_betas_zero_snr to false, as the network was trained, or prediction_type to 'v_prediction'",
        )
    variance = config.get("variance_type")
    if variance is not None and variance not in VARIANCES:
        raise UnknownNameError.of("variance_type of a scheduler", variance, VARIANCES)
    if config.get("timestep_type") == "continuous" and predicts == "v":
        return _continuous(config)
    return SchedulerChain(
        schedule=tables.table(config),
        predicts=predicts,
        variance=None if variance is None else VARIANCES[variance],
        clip=_clipping(config),
        adaptation=Adaptation(outputs="raw_variance") if variance == "learned" else PLAIN,
    )


def _continuous(config: Json) -> SchedulerChain:
    """EulerDiscrete with time ln σ/4: EDM with sigma_data = 1, between its σ_min and σ_max or the ends of its table."""
    table = tables.table(config).table
    low, high = (float(v) for v in (table[[0, -1]] * -0.5).exp())
    ends = {"sigma_min": config.get("sigma_min") or low, "sigma_max": config.get("sigma_max") or high}
    return _edm({**config, **ends, "sigma_schedule": "karras", "rho": 7.0, "sigma_data": 1.0})


def _flow(config: Json) -> SchedulerChain:
    """τ from the scheduler's first level, shift/T/(1 + (shift − 1)/T), to where the SNR is 2^-24; the time is T τ."""
    if config.get("invert_sigmas"):
        raise UsageError(
            "the scheduler has invert_sigmas: its network's time runs from noise to data",
            "wrap the network with nelbo.from_callable(lambda z, t: -net(z, T * (1 - t)), "
            "schedule=nelbo.schedules.flow(), predicts='velocity', time='unit')",
        )
    T = config["num_train_timesteps"]
    shift = 1.0 if config.get("use_dynamic_shifting") else config.get("shift", config.get("flow_shift", 1.0))
    first = shift / T / (1 + (shift - 1) / T)
    predicts = PREDICTIONS[config["prediction_type"]] if "prediction_type" in config else "velocity"
    return SchedulerChain(
        schedule=schedules.flow(first, FLOW_END), predicts=predicts, time="unit", adaptation=Adaptation(float(T))
    )


def _edm(config: Json) -> SchedulerChain:
    """σ from σ_min to σ_max, F with the sign of its c_out; the prior is N(0, σ_max² + 1), where the sampler starts."""
    low, high = float(config["sigma_min"]), float(config["sigma_max"])
    predicts = _prediction(config)
    if predicts not in ("eps", "v"):
        raise UnknownNameError.of(
            "prediction_type of an EDM scheduler", config["prediction_type"], ("epsilon", "v_prediction")
        )
    if config["sigma_schedule"] == "karras":
        law: Schedule = schedules.edm(low, high, float(config["rho"]))
    else:
        law = LogSNRLinear(-2 * math.log(low), -2 * math.log(high), "ve")
    return SchedulerChain(
        schedule=law,
        predicts="edm_F",
        time="c_noise",
        clip=_clipping(config),
        sigma_data=float(config["sigma_data"]),
        prior=GaussianPrior(variance=high**2 + 1),
        adaptation=Adaptation(output_scale=-1.0 if predicts == "v" else 1.0),
    )


def _score(config: Json) -> SchedulerChain:
    """σ geometric from σ_min to σ_max, images in [0, 1] (Song et al. 2021, app. C); the prior is N(0, σ_max²)."""
    low, high = float(config["sigma_min"]), float(config["sigma_max"])
    return SchedulerChain(
        schedule=LogSNRLinear(-2 * math.log(low), -2 * math.log(high), "ve"),
        predicts="score",
        time="sigma",
        prior=GaussianPrior(variance=high**2),
        range=(0.0, 1.0),
    )


def _clipping(config: Json) -> Clipping | None:
    """Thresholding goes before clipping, as in the schedulers' own steps."""
    if config.get("thresholding"):
        return Threshold(float(config["dynamic_thresholding_ratio"]), float(config["sample_max_value"]))
    r = float(config.get("clip_sample_range") or 1.0)
    return Clip(-r, r) if config.get("clip_sample") else None


def _prediction(config: Json) -> str:
    name = config.get("prediction_type", "epsilon")
    if name not in PREDICTIONS:
        raise UnknownNameError.of("prediction_type of a scheduler", name, PREDICTIONS)
    return PREDICTIONS[name]
