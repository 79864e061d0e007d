"""The tables of β of diffusers' schedulers, from their configuration, in float64.

The schedulers' own tables are float32, in which 1 − ᾱ of the first steps has lost three to five digits; they are not
used.

    linear             β_i = β_1 + (β_T − β_1) i/(T − 1)
    scaled_linear      √β_i evenly spaced
    squaredcos_cap_v2  ᾱ(u) = cos²(π/2 (u + s)/(1 + s)), s = 0.008, β ≤ 0.999
    sigmoid            β_i = β_1 + (β_T − β_1) sigmoid(y_i), y evenly spaced over [−6, 6]
    exp                ᾱ(u) = e^{−12 u}
    laplace            ᾱ(u) = √(SNR/(1 + SNR)), SNR = e^{−½ sign(½ − u) log(1 − 2|½ − u| + 1e-6)}
    trained_betas      listed one by one
"""

from __future__ import annotations

import math

import torch

from nelbo.errors import UnknownNameError, UsageError
from nelbo.maths.stable import log1mexp
from nelbo.process import schedule as schedules
from nelbo.process.schedule import Table
from nelbo.typing import Json

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "exp", "laplace")
TERMINAL_LOG_ALPHA_BAR = -64 * math.log(2)
"""log ᾱ_T of a table whose last ᾱ is zero: with α_T = 2^-32, x has no effect that float64 could resolve."""


def table(config: Json) -> Table:
    """The schedule that a scheduler's configuration describes.

    With `rescale_betas_zero_snr`, √ᾱ is shifted and stretched so that ᾱ_T = 0 (Lin et al. 2024, algorithm 1), and the
    last level gets ᾱ_T = 2^-64: finite, and equal to the limit ᾱ_T → 0 to nine digits in every term. (Some of
    diffusers' schedulers use 2^-24, which for the linear table of 1000 steps lies above ᾱ_{T−1}.)
    Errors: UnknownNameError for an unknown `beta_schedule`; UsageError, DomainError for invalid tables.
    """
    T = config["num_train_timesteps"]
    given = config.get("trained_betas")
    if given is not None:
        betas = torch.as_tensor(given, dtype=torch.float64).reshape(-1)
        name = f"trained_betas(T={T})"
        if len(betas) != T:
            raise UsageError(
                f"the scheduler has num_train_timesteps = {T} and {len(betas)} trained_betas",
                "the two must agree: set num_train_timesteps to the length of the table",
            )
        plain = schedules.from_betas(betas, name)
    else:
        plain = _named(config["beta_schedule"], T, config.get("beta_start"), config.get("beta_end"))
    return _zero_terminal(plain) if config.get("rescale_betas_zero_snr") else plain


def _named(name: str, T: int, beta_1: float | None, beta_T: float | None) -> Table:
    if name not in SCHEDULES:
        raise UnknownNameError.of("beta_schedule of a scheduler", name, SCHEDULES)
    if name == "squaredcos_cap_v2":
        return schedules.cosine(T)
    if name in ("exp", "laplace"):
        law = _exp if name == "exp" else _laplace
        alpha_bar = torch.tensor([law(i / T) for i in range(T + 1)], dtype=torch.float64)
        return schedules.from_betas((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999), f"{name}(T={T})")
    if beta_1 is None or beta_T is None:
        raise UsageError(f"the scheduler's {name!r} table has no beta_start or beta_end", "complete its configuration")
    if name == "linear":
        return schedules.linear(T, beta_1, beta_T)
    label = f"{name}(T={T}, {beta_1}, {beta_T})"
    if name == "scaled_linear":
        return schedules.from_betas(torch.linspace(beta_1**0.5, beta_T**0.5, T, dtype=torch.float64).square(), label)
    y = torch.linspace(-6, 6, T, dtype=torch.float64)
    return schedules.from_betas(beta_1 + (beta_T - beta_1) * torch.sigmoid(y), label)


def _exp(u: float) -> float:
    return math.exp(-12 * u)


def _laplace(u: float) -> float:
    log_snr = -0.5 * math.copysign(1, 0.5 - u) * math.log(1 - 2 * abs(0.5 - u) + 1e-6)
    return math.sqrt(1 / (1 + math.exp(-log_snr)))


def _zero_terminal(plain: Table) -> Table:
    """√ᾱ_i ← (√ᾱ_i − √ᾱ_T) √ᾱ_1/(√ᾱ_1 − √ᾱ_T), and then ᾱ_T = 2^-64."""
    log_alpha = 0.5 * torch.nn.functional.logsigmoid(plain.table)
    first, last = log_alpha[0], log_alpha[-1]
    # a − a_T = a (1 − a_T/a); its logarithm loses no digits where a is near a_T
    stretched = log_alpha[:-1] + log1mexp(log_alpha[:-1] - last) - log1mexp(first - last)
    log_alpha_bar = torch.cat([2 * stretched, torch.tensor([TERMINAL_LOG_ALPHA_BAR], dtype=torch.float64)])
    return Table(log_alpha_bar - log1mexp(-log_alpha_bar), f"{plain.name}, zero terminal SNR")
