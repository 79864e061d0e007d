"""What a denoiser of every kind of data is besides its formula: weights, their mode, precision, place and inside."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import torch
from torch import nn

from nelbo.errors import UsageError
from nelbo.model.calling import first_line
from nelbo.model.opened import OpenedFunction, home, plain
from nelbo.typing import Json


class Predictor(nn.Module):
    """Abstract: holds the weights of a network and says how it is called. `compute_dtype`: what it computes in."""

    compute_dtype: torch.dtype | None = None
    stochastic: bool = False
    """Whether its network may answer differently when it is asked twice; declared by whoever made it."""
    reference: str | None = None
    """`package.module:function` that made it, where it came so: what a folder can hold in the place of its network."""

    def describe(self) -> Json:
        """What its weights do not say and p_θ depends on, as JSON for the model's fingerprint."""
        return {"kind": type(self).__name__}

    @property
    def opaque(self) -> tuple[str, ...]:
        """What could not be followed inside of its network, by path; the model's fingerprint is then unknown."""
        return tuple(path for m in self.modules() if isinstance(m, OpenedFunction) for path in m.opaque)

    @property
    def foreign(self) -> bool:
        """Whether its network is not one of nelbo's own, which are known to treat every example by itself."""
        net = getattr(self, "net", None)
        return net is not None and not hasattr(plain(net), "recipe") and not home(net).startswith("nelbo.model.")

    @property
    def coarse(self) -> bool:
        """Whether its network computes in 16 bits."""
        return torch.finfo(self._dtype(torch.float64)).bits < 32

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Evaluation mode (no dropout) inside, and afterwards every module in the mode it was in."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def in_precision(self, dtype: torch.dtype | None, device: torch.device | str | None) -> Self:
        """A copy that computes in `dtype` on `device`; the original stays as it is.

        Errors: UsageError where the network cannot be copied.
        """
        tensors = [*self.parameters(), *self.buffers()]
        same_device = device is None or all(_on(t.device, torch.device(device)) for t in tensors)
        if dtype == self._dtype(torch.float64) and same_device:
            return self
        try:
            other = copy.deepcopy(self).to(device=device, dtype=dtype)
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise UsageError(
                f"the network cannot be copied to {dtype} on {device or 'its device'}: {first_line(error)}",
                "give a network that copy.deepcopy copies, or ask for the precision and device that it has",
            ) from error
        other.compute_dtype = dtype
        return other

    def _dtype(self, otherwise: torch.dtype) -> torch.dtype:
        for p in self.parameters():
            if p.is_floating_point():
                return p.dtype
        held = next((m.held for m in self.modules() if isinstance(m, OpenedFunction)), None)
        return self.compute_dtype or held or otherwise


def _on(device: torch.device, asked: torch.device) -> bool:
    """Whether `device` is the one asked for: "cuda" is any GPU."""
    return device == asked or (asked.index is None and device.type == asked.type)
