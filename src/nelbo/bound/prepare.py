"""What every verb that scores examples begins with: a chain over checked examples, and the runner of its draws.

Every check of the input is made here, before the first evaluation is spent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from nelbo._version import __version__
from nelbo.arguments import check_function
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.ragged import chain as ragged
from nelbo.bound.ragged.chain import RaggedChain
from nelbo.bound.ragged.network import mask_rows
from nelbo.bound.ragged.padding import aligned
from nelbo.bound.runner import Runner
from nelbo.errors import UnknownNameError
from nelbo.maths.units import bits_per_dim
from nelbo.model.calling import condition_rows
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.model.frozen import FrozenModel
from nelbo.process.grid import Grid
from nelbo.typing import Condition, Json
from nelbo.workers import Run, agree

PRECISIONS = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.bfloat16}


class Chain(Protocol):
    """A problem that was made of a model and the rows of a condition."""

    @property
    def condition(self) -> Condition:
        """Keywords of the network, one row an example."""
        ...


M = TypeVar("M", bound=FrozenModel)
C = TypeVar("C", bound=Chain)


@dataclass(frozen=True, eq=False)
class Prepared(Generic[M, C]):
    """model: as asked for, on its grid. examples: as they are scored. chain: of the model in the run's precision."""

    model: M
    examples: Examples
    chain: C
    runner: Runner
    run: Run

    @cached_property
    def fingerprint(self) -> str | None:
        """Of the model; None where it is unknown."""
        return self.model.fingerprint()

    def open_state(self, **how: str) -> None:
        """Open the run's state file, if any; `how` says what is computed, besides model, data and run.

        Errors: UsageError where the file is the state of something else.
        """
        if self.run.state is None:
            return
        self.model.known_fingerprint("a state file, which must be of the same model when it is read again")
        if self.run.workers.rank > 0:
            return
        self.runner.open_state(self._identity(how))

    def agree(self, command: str, **how: str) -> None:
        """Check that all workers score the same in the same way; `how` as of `open_state`. Errors: UsageError."""
        if self.run.workers.size > 1:
            agree(self.run.workers, self._identity(how), command)

    def _identity(self, how: dict[str, str]) -> Json:
        condition = {name: Examples(rows).fingerprint for name, rows in self.chain.condition.items()}
        settings = {"seed": self.run.seed, "precision": self.run.precision, "batch_size": self.runner.batch_size}
        scored = {"data": self.examples.fingerprint, "model": self.fingerprint, "condition": condition}
        scored |= self._of_sizes(self.examples)
        if "classes" in self.examples.facts:
            scored["classes"] = self.examples.facts["classes"]
        return {**scored, **settings, **how, "version": __version__}

    def claims(self, examples: Examples | None = None) -> Json:
        """The fields of a result that say what was scored and how; examples: those scored, if not all."""
        scored = examples or self.examples
        return {
            "precision": self.run.precision,
            "seed": self.run.seed,
            "data": {"name": scored.name, "fingerprint": scored.fingerprint, **scored.facts, **self._of_sizes(scored)},
            "model": {"fingerprint": self.fingerprint, "parameters": self.model.parameters},
            "description": self.model.describe(),
            "version": __version__,
        }

    def _of_sizes(self, scored: Examples) -> Json:
        """Of examples of different size their smallest and largest D and the sum, and a hash of what is there."""
        if not isinstance(self.chain, RaggedChain):
            return {}
        sizes = scored.sizes
        smallest, largest = int(sizes.min()), int(sizes.max())
        there = Examples(self.chain.there[: len(scored)].long()).fingerprint
        return {"sizes": {"smallest": smallest, "largest": largest, "total": int(sizes.sum())}, "mask": there}


@dataclass(frozen=True, eq=False)
class Setup(Generic[M]):
    """What chains of every kind are prepared from: model, on the grid that is asked for; examples as they are given."""

    model: M
    examples: Examples
    run: Run

    @classmethod
    def of(cls, model: M, data: Examples | Tensor | Any, run: Run | None, grid: Grid | None = None) -> Setup[M]:
        """Errors: UnknownNameError for a precision, and those of the grid."""
        run = run or Run()
        if run.precision not in [*PRECISIONS]:
            raise UnknownNameError.of("precision", run.precision, PRECISIONS)
        return cls(model if grid is None else model.with_grid(grid), examples_of(data), run)

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return torch.device(self.run.device or "cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of control columns."""
        return torch.float64 if self.run.precision == "float64" else torch.float32

    def in_precision(self) -> M:
        """The model as the run computes with it."""
        return self.model.in_precision(PRECISIONS[self.run.precision], self.device)

    def prepared(
        self,
        checked: Tensor,
        chain: C,
        size: int,
        watch: Callable[[float, float], None] | None = None,
        runner: Runner | None = None,
        mask: Tensor | None = None,
    ) -> Prepared[M, C]:
        """size: numbers of the largest tensor of an example, by which batches are chosen. watch: as of `Runner`;
        runner: one to share. mask: what is there of the examples, where that is not as they say."""
        runner = runner or Runner(self.run, size, watch)
        examples = dataclasses.replace(self.examples, data=checked, mask=self.examples.mask if mask is None else mask)
        return Prepared(self.model, examples, chain, runner, self.run)


def examples_of(data: Examples | Tensor | Any) -> Examples:
    """`data` as they are, or an array or tensor as `Examples`."""
    return data if isinstance(data, Examples) else Examples(torch.as_tensor(data))


def in_bits(watch: Callable[[float, float], None] | None, dimensions: int) -> Callable[[float, float], None] | None:
    """A function that is called with nats an example and their standard error, and calls `watch` with bits/dim.
    Errors: UsageError where that is no function."""
    check_function("watch", watch, "bits/dim, standard error")
    if watch is None:
        return None
    return lambda nats, error: watch(*(float(bits_per_dim(v, dimensions)) for v in (nats, error)))


def prepare(
    model: DiffusionModel,
    data: Examples | Tensor | Any,
    run: Run | None = None,
    *,
    grid: Grid | None = None,
    condition: Mapping[str, Tensor] | None = None,
    watch: Callable[[float, float], None] | None = None,
    runner: Runner | None = None,
) -> Prepared[DiffusionModel, GaussianChain]:
    """`data` (`Examples`, an array or a tensor) under `model`, checked. Examples with a mask make a chain over what is
    there of them, and the network gets the mask under the name that it has for it. watch: called with (bits/dim,
    standard error); runner: one to share.

    Errors: ShapeError, DomainError, UsageError, UnknownNameError.
    """
    setup = Setup.of(model, data, run, grid)
    model, examples = setup.model, setup.examples
    there = mask = None
    if examples.mask is None:
        checked = model.domain.checked(examples.data, release=examples.release)
        rows = condition_rows(condition, len(checked))
    else:
        ragged.check(model)
        values, there, mask = aligned(examples.data, examples.mask, model.domain)
        checked = model.domain.checked(values)
        rows = condition_rows(condition, len(checked))
        rows = {**rows, **mask_rows(model.denoiser, mask, rows)}
    parts: Json = {
        "model": setup.in_precision(),
        "data": checked,
        "condition": rows,
        "seed": setup.run.seed,
        "device": setup.device,
        "dtype": setup.dtype,
        "mapped": examples.mapped and there is None,
        "release": examples.release,
    }
    chain = GaussianChain(**parts) if there is None else RaggedChain(**parts, there=there)
    return setup.prepared(checked, chain, model.domain.dimensions, in_bits(watch, chain.dimensions), runner, mask)
