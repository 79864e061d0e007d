"""A network of transformers as z ↦ logits: what its tokenizer sets around a text is set around z, and taken off again.

[CLS] z_1 … z_n [SEP] [PAD] …      places that hold the padding at the end are behind the end symbol, and not attended
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nelbo.errors import ShapeError
from nelbo.typing import Json


class MaskedNetwork(nn.Module):
    """z (B, L) int64 ↦ logits (B, L, V).

    before, after: symbols around every sequence. pad: the symbol of places that are not attended, at the end of a
    sequence; None where every place is.
    """

    def __init__(self, inner: nn.Module, config: Json, before: list[int], after: list[int], pad: int | None):
        super().__init__()
        self.inner = inner
        self.before, self.after, self.pad = tuple(before), tuple(after), pad
        self.config = config

    def identity(self) -> Json:
        """What its weights do not say."""
        around = {"before": list(self.before), "after": list(self.after), "pad": self.pad}
        return {"net": type(self.inner).__name__, "config": self.config, **around}

    def forward(self, z: Tensor) -> Tensor:
        shown, padded = self._around(z)
        keywords: dict[str, Any] = {} if padded is None else {"attention_mask": (~padded).long()}
        answer = self.inner(input_ids=shown, **keywords)
        logits = getattr(answer, "logits", None)
        if logits is None:
            raise ShapeError(
                f"the network {type(self.inner).__name__} returned a {type(answer).__name__} without logits",
                "give a network with the head over its vocabulary",
            )
        return logits[:, len(self.before) : len(self.before) + z.shape[1]]

    def _around(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """The symbols that the network is given, and which of them are padding, None where none is."""
        B, L = z.shape
        before, after = (z.new_tensor(s).expand(B, -1) for s in (self.before, self.after))
        padded = None if self.pad is None else (z == self.pad).flip(1).cumprod(1).flip(1).bool()
        if padded is None or not bool(padded.any()):
            return torch.cat([before, z, after], 1), None
        assert self.pad is not None  # or nothing is padded
        content = len(self.before) + (~padded).sum(1, keepdim=True)
        place = torch.arange(len(self.before) + L + len(self.after), device=z.device)
        shown = torch.cat([before, z, torch.full_like(after, self.pad)], 1)
        for k, symbol in enumerate(self.after):
            shown = torch.where(place == content + k, symbol, shown)
        return shown, place >= content + len(self.after)
