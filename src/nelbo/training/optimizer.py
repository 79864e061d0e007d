"""The optimiser of a run: which parameters are treated how."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nelbo.errors import UsageError
from nelbo.training.config import Optimizer, TrainConfig
from nelbo.training.muon import Muon


def make_optimizer(net: nn.Module, criterion: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or Muon for what `net`, a denoiser, and the criterion train.

    Matrices decay; biases, norms, tables of biases and the criterion's parameters do not. Muon turns the matrices of
    the network's inner layers, which its `hidden` names; layers that see the data, or say the answer, are AdamW's.
    Errors: UsageError for Muon where the network does not say which layers are inner ones.
    """
    hidden: tuple[str, ...] = ()
    if settings.optimizer is Optimizer.MUON:
        hidden = tuple(f"net.{name}." for name in getattr(getattr(net, "net", None), "hidden", ()))
        if not hidden:
            raise UsageError(
                "optimizer = 'muon' for a network that does not say which of its layers are inner ones",
                "use --set optimizer=adamw, or give the network an attribute `hidden`: the names of those modules",
            )
    turned, decayed, others = [], [], []
    for name, parameter in net.named_parameters():
        if parameter.ndim < 2 or name.endswith("bias"):
            others.append(parameter)
        else:
            (turned if name.startswith(hidden) else decayed).append(parameter)
    others += [p for p in criterion.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if hidden:
        turning = {"params": turned, "weight_decay": settings.weight_decay, "orthogonal": True}
        return Muon([turning, *groups], settings.lr)
    return torch.optim.AdamW(groups, settings.lr, fused=True)
