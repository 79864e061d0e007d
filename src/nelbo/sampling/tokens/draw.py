"""`sample` of a model of symbols: options, batches and processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.errors import DomainError, ShapeError, UnknownNameError, UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.calling import condition_rows
from nelbo.model.examples import Examples
from nelbo.model.tokens.model import TokenModel
from nelbo.model.tokens.reverse import SymbolPrior
from nelbo.process import every_grid as grids
from nelbo.process.grid import Continuous, Grid
from nelbo.sampling.guidance import Guidance, make_guidance
from nelbo.sampling.tokens import masked, noised
from nelbo.sampling.tokens.laws import Laws
from nelbo.typing import Condition
from nelbo.workers import Run, agree

ANCESTRAL, CONFIDENCE = SAMPLERS = ("ancestral", "confidence")
"""The model's own law, and the surest places first, which is not the model's law."""
BATCH_NUMBERS = 1 << 20
"""Logits of a batch whose size is not set."""


@numbers
def sample(
    model: TokenModel,
    n: int,
    run: Run | None = None,
    *,
    sampler: str = ANCESTRAL,
    steps: int | None = None,
    grid: Grid | None = None,
    condition: Mapping[str, Tensor] | None = None,
    guidance: float | None = None,
    null_condition: Mapping[str, Tensor] | None = None,
    start: Tensor | None = None,
    prompt: Tensor | None = None,
) -> Tensor:
    """n draws of p(x), (n, L) int64. Draw i depends on (seed, i) alone, whatever the batches and processes.

    sampler: "ancestral" draws from the model itself: of masked places the chain that its bound is of, in a random
    order, at random times where the network is told them. "confidence" reveals in each step the places of which the
    network is surest: often nicer, and not the model's law, so that no bound is of these draws. steps, grid: another
    chain, of K steps, each of which reveals places at once; None: the model's own.

    start: z_T, (n, L), or (L,) for all, in the place of draws of the prior. prompt: bools of the same shape, True where
    `start` is given and stays as it is; None: with masks all places of `start` that are no mask, without masks none.
    condition, guidance, null_condition: as of `nelbo.sample`; guided log p ∝ log p_null + w (log p_cond − log p_null).
    Errors: UsageError, UnknownNameError, ShapeError, DomainError, NumericalError.
    """
    run = run or Run()
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise UsageError(f"{n!r} samples were asked for", "n is a whole number ≥ 1")
    if sampler not in SAMPLERS:
        raise UnknownNameError.of("sampler of symbols", sampler, SAMPLERS)
    model = _on_grid(model, steps, grid)
    check(model, sampler)
    rows_of = condition_rows(condition, n, "samples")
    z, free = _started(model, n, start, prompt)
    draws = _Draws(model, run, sampler, rows_of, make_guidance(guidance, null_condition, condition), z, free)
    draws.agree(n)
    own = torch.arange(n).tensor_split(run.workers.size)[run.workers.rank]
    size = run.batch_size or max(1, BATCH_NUMBERS // (model.domain.length * model.domain.vocabulary))
    if size < 1:
        raise UsageError(f"a batch of {size} samples was asked for", "batch_size is a whole number ≥ 1")
    draws.planned = len(own) * (model.steps or model.domain.length) * draws.calls
    with torch.no_grad(), model.denoiser.inference():
        parts = [draws.of(rows) for rows in own.split(size) if len(rows)]
    drawn = torch.cat([torch.empty(0, model.domain.length, dtype=torch.int64), *parts])
    return drawn if run.workers.size == 1 else torch.cat([v.long() for v in run.workers.gather(drawn.double())])


@dataclasses.dataclass(eq=False)
class _Draws:
    """What the batches of one call share. z (n, L): where they start; free (n, L): the places that are drawn."""

    model: TokenModel
    run: Run
    sampler: str
    condition: Condition
    guidance: Guidance | None
    z: Tensor | None
    free: Tensor
    planned: int = 0
    done: int = 0

    @property
    def calls(self) -> int:
        """Network evaluations of one law."""
        return 1 if self.guidance is None else 2

    def of(self, rows: Tensor) -> Tensor:
        """The samples of these numbers, on the CPU."""
        device = torch.device(self.run.device or "cpu")
        model = self.model.in_precision(None, device)
        laws = Laws(model, {k: v[rows].to(device) for k, v in self.condition.items()}, self.guidance)
        free, seed, shape = self.free[rows].to(device), self.run.seed, (model.domain.length,)

        def uniform(level: int) -> Tensor:
            purpose, at = (Purpose.SAMPLE_CODE, 0) if level == 0 else (Purpose.SAMPLE_NOISE, level)
            return purpose.uniform(seed, rows, at, shape=shape, device=device)

        z = None if self.z is None else self.z[rows].to(device)
        if model.kernel.absorbing:
            blank = torch.full(free.shape, model.kernel.mask, device=device) if z is None else z  # type: ignore[attr-defined]
            if self.sampler == CONFIDENCE:
                return masked.by_confidence(laws, blank, free, uniform(0), self._tick).cpu()
            return masked.ancestral(laws, blank, free, uniform(1), uniform(0), self._tick).cpu()
        if z is None:
            assert isinstance(model.prior, SymbolPrior)
            z = noised.prior_draw(model.prior, uniform(len(model.levels()[0])))
        return noised.ancestral(laws, z, free, uniform, self._tick).cpu()

    def _tick(self, sequences: int) -> None:
        self.done += sequences * self.calls
        if self.run.progress is not None:
            self.run.progress(self.done, max(self.done, self.planned))

    def agree(self, n: int) -> None:
        """Check that all processes draw the same samples. Errors: UsageError."""
        if self.run.workers.size == 1:
            return
        null = {} if self.guidance is None else self.guidance.null
        identity: dict[str, Any] = {
            "model": self.model.fingerprint(),
            "condition": {name: Examples(rows[None]).fingerprint for name, rows in self.condition.items()},
            "null_condition": {name: Examples(rows[None]).fingerprint for name, rows in null.items()},
            "start": None if self.z is None else Examples(self.z).fingerprint,
            "free": Examples(self.free.long()).fingerprint,
            "guidance": None if self.guidance is None else self.guidance.scale,
            "sampler": self.sampler,
        }
        agree(self.run.workers, {**identity, "n": n, "seed": self.run.seed}, "sample")


def _on_grid(model: TokenModel, steps: int | None, grid: Grid | None) -> TokenModel:
    if grid is not None and (steps is not None or not isinstance(grid, Grid)):
        raise UsageError(f"grid={grid!r}, steps={steps}", "give a number of steps, or a Grid such as grids.even(8)")
    if steps is not None:
        grid = grids.even(steps)
    return model if grid is None else model.with_grid(grid)


def check(model: TokenModel, sampler: str = ANCESTRAL) -> None:
    """Errors: UsageError where a model's chain is no law over symbols, or cannot be drawn from in finite time."""
    reverse = model.reverse
    if model.kernel.absorbing and not (reverse.carry_over and reverse.remove_mask):
        left = "remove_mask=False" if not reverse.remove_mask else "carry_over=False"
        raise UsageError(
            f"a model with {left}: its steps may end in the mask, or change what is visible, so that it gives "
            "sequences of symbols less than all probability",
            "make it with remove_mask=True and carry_over=True, whose bound is the tighter one",
        )
    if not model.kernel.absorbing and isinstance(model.grid, Continuous):
        raise UsageError(
            f"the continuous chain of the kernel {model.kernel.kind!r} has infinitely many steps",
            "give steps=256, say; the error of a step is of the order 1/steps",
        )
    if sampler == CONFIDENCE and not model.counted:
        raise UsageError(
            "places by confidence of a chain that does not run over counts of hidden places",
            'use sampler="ancestral"; the order of confidence is for masks and a network that is not told the time',
        )


def _started(model: TokenModel, n: int, start: Any, prompt: Any) -> tuple[Tensor | None, Tensor]:
    """z_T (n, L), None where the prior is drawn from, and the places (n, L) that are drawn."""
    L, mask = model.domain.length, getattr(model.kernel, "mask", None)
    everywhere = torch.ones(n, L, dtype=torch.bool)
    if start is None:
        if prompt is not None:
            raise UsageError("places are given, and not what stands there", "give start=sequences, too")
        return None, everywhere
    remedy = f"give integers ({n}, {L}), or ({L},) for all" + ("" if mask is None else f"; {mask} where one is drawn")
    try:
        z = torch.as_tensor(start)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"a start of type {type(start).__name__}", remedy) from None
    if tuple(z.shape) not in ((L,), (n, L)):
        raise ShapeError(f"a start of shape {tuple(z.shape)}", remedy)
    if z.is_floating_point() or z.is_complex() or z.dtype == torch.bool:
        raise DomainError(f"a start of {z.dtype}", remedy)
    z = z.long().expand(n, L)
    free = everywhere if mask is None else z == mask
    if prompt is not None:
        places = torch.as_tensor(prompt)
        if tuple(places.shape) not in ((L,), (n, L)) or places.dtype != torch.bool:
            raise ShapeError(f"a prompt of shape {tuple(places.shape)}", f"give bools ({n}, {L}), or ({L},) for all")
        free = ~places.expand(n, L)
    symbols = z if mask is None else z.masked_fill(free, 0)
    model.domain.checked(symbols)
    model.check_symbols(symbols, ~free)
    return (z if mask is None else z.masked_fill(free, mask)), free
