"""What every complete p_θ(x) can do, whatever it is made of: change its grid or precision, and tell its fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor

from nelbo.errors import UsageError
from nelbo.model.predictor import Predictor
from nelbo.parts import hash_tensors
from nelbo.process.grid import Grid
from nelbo.typing import Json


class FrozenModel(ABC):
    """Abstract: a frozen dataclass with a `grid` and a `denoiser` among its parts."""

    denoiser: Predictor
    trained_on: Tensor | None

    @abstractmethod
    def describe(self) -> Json:
        """The parts as JSON: what a result must carry to say which model it scored."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the model by name."""

    def with_grid(self, grid: Grid) -> Self:
        """The model on another grid of the same schedule: same weights, decoder, prior."""
        return dataclasses.replace(self, grid=grid)  # type: ignore[type-var]

    def with_networks(self, networks: Predictor) -> Self:
        """The model with another module of the kind of its `denoiser` in the place of that."""
        return dataclasses.replace(self, denoiser=networks)  # type: ignore[type-var]

    def in_precision(self, dtype: torch.dtype | None, device: torch.device | str | None = None) -> Self:
        """The model whose network computes in `dtype` on `device`; self is left as it is."""
        return dataclasses.replace(self, denoiser=self.denoiser.in_precision(dtype, device))  # type: ignore[type-var]

    @property
    def parameters(self) -> int:
        """Number of trained scalars."""
        return sum(p.numel() for p in self.denoiser.parameters())

    def fingerprint(self) -> str | None:
        """SHA-256 over the parts, every tensor's bytes and the code of a network that is a function: two models with
        one fingerprint are the same p_θ. None where the network holds something that cannot be followed."""
        if self.denoiser.opaque:
            return None
        parts = {**self.describe(), "denoiser": self.denoiser.describe()}
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
        hash_tensors(digest, self.tensors())
        return digest.hexdigest()

    def known_fingerprint(self, what: str) -> str:
        """The fingerprint, for `what`, which cannot do without. Errors: UsageError where it is unknown."""
        fingerprint = self.fingerprint()
        if fingerprint is None:
            raise UsageError(
                f"the model's fingerprint is unknown, for its network holds {self.denoiser.opaque[0]}; it is needed "
                f"for {what}",
                "name the torch modules that the function calls: from_callable(fn, modules=[net], …); or load the "
                "weights before, outside of the function",
            )
        return fingerprint
