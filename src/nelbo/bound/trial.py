"""A trial of a foreign network before the first estimate: does it answer twice alike, and each example by itself?

Five evaluations in the middle of the chain: two rows together, each at its level, one of them alone, the two together
again.
A bound averages over noise that is keyed, and every estimator assumes that a prediction depends on z_t, t and the
condition of one example alone. Dropout, statistics of the batch and state that calls leave behind break that in
silence: the value moves, its error bar does not tell, and batch sizes change the result. The networks that nelbo itself
builds are known to be free of them, and are not tried.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.ragged.chain import RaggedChain
from nelbo.bound.ragged.network import check_padding
from nelbo.bound.runner import Runner
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.predictor import Predictor
from nelbo.process import forward

EVALUATIONS = 5
SECOND = -2.0
"""Log-SNR of the second row."""
_FINE, _COARSE = 5e-3, 0.1
"""Differences, in units of the root mean square of x̂, beyond which two answers are not alike. Rounding in float32, with
other kernels for other batch sizes and TF32 in convolutions on a GPU, gives up to 2e-3; in bf16 up to 0.03; dropout and
batch statistics give 0.1 to 1."""


def trial(chain: GaussianChain, runner: Runner) -> list[str]:
    """Try the chain's network if it is foreign; a note where it is declared stochastic. Inside `inference()`. Of
    examples of different size every network is tried with something else in the padding.

    Errors: UsageError with the probable cause and the remedy.
    """
    notes = tried(chain.model.denoiser, runner, lambda: _asked(chain))
    if isinstance(chain, RaggedChain):
        check_padding(chain, runner)
    return notes


def tried(denoiser: Predictor, runner: Runner, ask: Callable[[], tuple[Tensor, Tensor, Tensor]]) -> list[str]:
    """As `trial`, of a network that `ask` asks: its predictions for two rows, for the second alone, and for both
    again."""
    if not denoiser.foreign:
        return []
    if denoiser.stochastic:
        return ["the network is declared stochastic: it may answer differently when it is asked twice"]
    buffers = {name: (b, b._version, b.clone()) for name, b in denoiser.named_buffers()}
    random = torch.get_rng_state()
    if runner.planned:
        runner.plan(runner.planned + EVALUATIONS)
    together, alone, again = ask()
    runner.count(EVALUATIONS)
    drawn = not torch.equal(random, torch.get_rng_state())
    changed = [name for name, (b, version, _) in buffers.items() if b._version != version]
    for name in changed:
        buffers[name][0].copy_(buffers[name][2])
    scale = float(together.square().mean().sqrt()) or 1.0
    limit = _COARSE if denoiser.coarse else _FINE
    if changed:
        raise UsageError(
            f"the network changes its own buffers when it is called: {_some(changed)}",
            "an evaluation must leave the model as it is: switch these updates off in evaluation mode",
        )
    twice = float((together - again).abs().max()) / scale
    if not twice <= limit and torch.isfinite(together).all():
        raise UsageError(
            f"the network answers differently when it is asked twice: by {twice:.2g} of its predictions' size; "
            + _why_random(denoiser, drawn),
            "make it deterministic, or declare stochastic=True in from_callable: the result then says so",
        )
    apart = float((together[1:] - alone).abs().max()) / scale
    if runner.batch_size > 1 and not apart <= limit and torch.isfinite(together).all():
        raise UsageError(
            f"the network's answer for an example depends on the others of its batch: it differs by {apart:.2g} of its "
            f"predictions' size when the example is alone; {_why_together(denoiser)}",
            "give a network that treats every example by itself, or ask it for one at a time: batch_size=1",
        )
    return []


def _asked(chain: GaussianChain) -> tuple[Tensor, Tensor, Tensor]:
    """x̂ of two rows at levels of their own, of the second alone, and of both again.

    The levels are those whose log-SNR is nearest to 0 and to `SECOND`, so that a network is noticed that takes the
    first time of a batch for all.
    """
    model = chain.model
    levels = chain.levels
    if chain.cells.continuous:
        first, last = (float(v) for v in levels.logsnr)
        wanted = [min(max(logsnr, last), first) for logsnr in (0.0, SECOND)]
        t = model.schedule.at(model.schedule.time_of(torch.tensor(wanted, dtype=torch.float64, device=chain.device)))
    else:
        places = [int((levels.logsnr - logsnr).abs().argmin()) for logsnr in (0.0, SECOND)]
        t = levels[torch.tensor(places, device=chain.device)]
    rows = torch.tensor([0, min(1, chain.examples - 1)])
    x, condition = chain.values(rows), chain.condition_of(rows)
    eps = Purpose.TRIAL_NOISE.normal(chain.seed, torch.arange(2), shape=model.domain.shape, device=chain.device)
    z = forward.noised(x, eps, t)

    def predicted(start: int) -> Tensor:
        with torch.no_grad():
            return model.denoiser(z[start:], t[start:], {name: v[start:] for name, v in condition.items()}).x0

    return predicted(0), predicted(1), predicted(0)


def _why_random(denoiser: Predictor, drawn: bool) -> str:
    active = [name for name, m in denoiser.named_modules() if m.training and "dropout" in type(m).__name__.lower()]
    training = [name for name, m in denoiser.named_modules() if m.training and name]
    if active:
        return f"dropout is active in {_some(active)}, which was put into training mode during the call"
    if training:
        return f"{_some(training)} went into training mode during the call"
    if drawn:
        return "it draws random numbers from torch's generator in the call (dropout as a function, or noise of its own)"
    return "it keeps a hidden state between calls, or draws random numbers from a generator of its own"


def _why_together(denoiser: Predictor) -> str:
    kinds = (nn.modules.batchnorm._BatchNorm,)
    norms = [
        n for n, m in denoiser.named_modules() if isinstance(m, kinds) and (m.training or not m.track_running_stats)
    ]
    if norms:
        return f"{_some(norms)} normalises by the statistics of the batch"
    return (
        "something in it mixes the examples of a batch (statistics, attention, a reshape over axis 0, or one example's "
        "time for all)"
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(name.removeprefix("net.") for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
