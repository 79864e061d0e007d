"""The subject of a diagnosis: a model, data and condition as one declaration has them; and changes to another."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nelbo.adapters.choices import decoder_follows, decoder_for, prior_for
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.errors import UsageError
from nelbo.model.clip import Clip, Clipping
from nelbo.model.denoiser import Denoiser, NetworkDenoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.reverse import Reverse, Variance
from nelbo.process.grid import Full, Grid
from nelbo.process.schedule import Schedule
from nelbo.typing import Condition, Json


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, data (N, *shape) and condition. nats: what is added to an example's bound, so that all declarations are
    about the same data in the same units."""

    model: DiffusionModel
    data: Tensor
    condition: Condition
    nats: float = 0.0

    @property
    def network(self) -> NetworkDenoiser:
        """The denoiser, if its output is declared. Errors: UsageError where it is of another kind."""
        denoiser = self.model.denoiser
        if not isinstance(denoiser, NetworkDenoiser):
            raise UsageError(
                f"a {type(denoiser).__name__}, whose output belongs to its codes",
                "nothing of it can be declared otherwise",
            )
        return denoiser

    def chain(self, seed: int, device: torch.device) -> GaussianChain:
        """Its chain."""
        return GaussianChain(self.model, self.data, self.condition, seed, device, torch.float64)

    def with_denoiser(self, denoiser: Denoiser) -> Subject:
        """The same with another denoiser."""
        return dataclasses.replace(self, model=dataclasses.replace(self.model, denoiser=denoiser))

    def redeclared(
        self,
        *,
        schedule: Schedule | None = None,
        variance: Variance | None = None,
        domain: DataDomain | None = None,
        first: int | None = None,
        clip: Clipping | bool | None = None,
    ) -> Subject:
        """The same with other parts: decoder, prior and clipping follow where they followed from the parts before.

        clip: True clamps x̂ to the range, False does nothing to it; None keeps it, in the new range if it was the old.
        """
        model = self.model
        old, level = model.reverse.variance, getattr(model.grid, "first", 0)
        new = {
            "domain": domain or model.domain,
            "schedule": schedule or model.schedule,
            "grid": _begun(model.grid, first),
            "prior": model.prior,
            "decoder": model.decoder,
        }
        if schedule is not None and model.prior.to_config() == prior_for(model.schedule).to_config():
            new["prior"] = prior_for(schedule)
        policy = variance or old
        like = new["domain"].discrete == model.domain.discrete
        if not like or decoder_follows(model, old, level):
            kind = model.decoder.kind if like else None
            begin = level if first is None else first
            new["decoder"] = decoder_for(kind, new["domain"], new["schedule"], policy, begin)
        reverse = Reverse(policy, _clipping(model, new["domain"], clip))
        return dataclasses.replace(self, model=dataclasses.replace(model, reverse=reverse, **new))


def _begun(grid: Grid, first: int | None) -> Grid:
    if first is None:
        return grid
    if not isinstance(grid, Full):
        raise UsageError(f"a grid of kind {grid.kind!r}", "only a full table begins at an index")
    return Full(first)


def _clipping(model: DiffusionModel, domain: DataDomain, clip: Clipping | bool | None) -> Clipping | None:
    if isinstance(clip, Clipping):
        return clip
    if clip is not None:
        return Clip(domain.low, domain.high) if clip else None
    own, old = model.reverse.clip, model.domain
    if isinstance(own, Clip) and (own.low, own.high) == (old.low, old.high):
        return Clip(domain.low, domain.high)
    return own


class Sibling(ABC):
    """One change of a declaration. Frozen.

    choice: whether another value makes another model of the same network, such as another variance or clipping, rather
    than contradicting what the network is. control: whether it is wrong on purpose, to compare with. unusual: whether
    hardly anyone means it, so that a usual one that is about as good is preferred. same_chain: whether data, log-SNRs
    and variances stay, so that the right one costs less at nearly every level. indexes: whether the network may look
    up what this gives it in a table that ends before. rescales: whether the data have another size, of which a smaller
    one costs less whatever the network predicts. least_share: the share of the declared bound that it must save, where
    a right declaration of a network with little training often loses a few per cent to it. evaluates: whether the
    network is evaluated at other inputs, which costs evaluations.
    """

    choice: ClassVar[bool] = False
    control: ClassVar[bool] = False
    unusual: ClassVar[bool] = False
    same_chain: ClassVar[bool] = False
    indexes: ClassVar[bool] = False
    rescales: ClassVar[bool] = False
    least_share: ClassVar[float] = 0.0
    evaluates: ClassVar[bool] = True

    @property
    @abstractmethod
    def name(self) -> str:
        """What is declared, in a few words."""

    @property
    @abstractmethod
    def declaration(self) -> Json:
        """The fields that differ and their values."""

    @property
    @abstractmethod
    def claim(self) -> str:
        """A clause that holds if this is the right declaration: "this network predicts v"."""

    @property
    @abstractmethod
    def change(self) -> str:
        """The line of code to write."""

    @abstractmethod
    def of(self, subject: Subject) -> Subject:
        """The subject as this declares it. Errors: UsageError and others of the parts, where it cannot be."""

    def trained(self, schedule: Schedule) -> tuple[float, float] | None:
        """The least and the largest log-SNR of which the network was trained, if this says so of a model of `schedule`
        that declares more."""
        return None

    def following(self) -> Sibling | None:
        """The declaration to try if this one is better than what was declared."""
        return None


def plain(value: Any) -> str:
    """A number without needless digits, as code has it."""
    return f"{value:g}"


def printed(value: Any) -> str:
    """The same with a minus sign."""
    return plain(value).replace("-", "−")
