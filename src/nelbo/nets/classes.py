"""Class-conditional networks: any network of ours that also takes the label of every example."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nelbo.errors import UsageError


class ClassConditional(nn.Module):
    """net(z, λ, KEYWORD=y): z (B, *shape), λ (B,), labels y (B,) in 0..classes−1; e(λ) becomes e(λ) + c_y.

    The table c is zero at the start, so that training begins with the network without labels. λ must enter `net` by its
    module `embedding` alone.
    """

    def __init__(self, net: nn.Module, classes: int, keyword: str):
        super().__init__()
        net.embedding = _Labelled(net.embedding, classes)  # type: ignore[arg-type]
        self.net, self.classes, self.keyword = net, classes, keyword

    @property
    def hidden(self) -> tuple[str, ...]:
        """Names of the inner modules: all but the first and the last layers."""
        return tuple(f"net.{name}" for name in self.net.hidden)  # type: ignore[union-attr]

    @property
    def head(self) -> nn.Module:
        """The head of the network."""
        return self.net.head  # type: ignore[return-value]

    @property
    def keywords(self) -> tuple[str, ...]:
        """What the network takes besides z, λ and the labels."""
        return getattr(self.net, "keywords", ())

    def forward(self, z: Tensor, logsnr: Tensor, **condition: Tensor) -> Tensor:
        others = {name: condition.pop(name) for name in self.keywords if name in condition}
        y = labels(condition, self.keyword, self.classes)
        wide = torch.promote_types(logsnr.dtype, torch.float32)  # bf16 has no 257
        return self.net(z, torch.stack([logsnr.to(wide), y.to(wide)], -1), **others)


def labels(condition: Mapping[str, Tensor], keyword: str, classes: int) -> Tensor:
    """The labels (B,) among the keywords of a network. Errors: UsageError where they are missing, not alone or none of
    its classes."""
    if set(condition) != {keyword}:
        given = ", ".join(map(repr, condition)) or "none"
        raise UsageError(
            f"the network is conditional on {keyword!r}, and the condition given is {given}",
            f"give condition={keyword!r}, which takes the labels of the data, or condition={{{keyword!r}: labels}}",
        )
    y = condition[keyword]
    if y.device.type == "cpu" and len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise UsageError(
            f"labels from {int(y.min())} to {int(y.max())} for a network of {classes} classes",
            f"give labels 0..{classes - 1}, as the training data had them",
        )
    return y


class _Labelled(nn.Module):
    """(B, 2), λ and y → e(λ) + c_y, (B, width)."""

    def __init__(self, embedding: nn.Module, classes: int):
        super().__init__()
        self.embedding = embedding
        weights = next(p for p in reversed(list(embedding.parameters())))
        self.table = nn.Embedding(classes, weights.shape[0])
        nn.init.zeros_(self.table.weight)

    def forward(self, logsnr_and_label: Tensor) -> Tensor:
        logsnr, y = logsnr_and_label.unbind(-1)
        return self.embedding(logsnr.to(self.table.weight.dtype)) + self.table(y.long())
