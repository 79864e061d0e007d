"""A bidirectional transformer over symbols: the law of every place from all places."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, pad, scaled_dot_product_attention

from nelbo.errors import UsageError
from nelbo.nets.classes import labels


class Transformer(nn.Module):
    """z (B, L) int64 of the symbols 0 … V − 1 or the mask V ↦ logits (B, L, V), V = `vocabulary`, for any L.

    A block is h ← h + short convolution, h ← h + attention, h ← h + two layers, each of the normalised h. The
    convolution has a filter of `reach` places on either side for every feature by itself; attention turns queries and
    keys by their place (rotary positions). The logits are 0 at the start.

    time: what the second argument (B,) is, of "none", "count", "mask_fraction", "unit" and "sigma", as
    `nelbo.tokens.from_callable` names them. classes: the number of labels (B,) that the network takes as its keyword
    `keyword`. Time and label scale and shift what is normalised, by nothing at the start.

    Sources: Vaswani et al. 2017; Su et al. 2021 (rotary positions); Peebles & Xie 2023 (scale and shift).
    """

    hidden: tuple[str, ...]
    """Its inner layers, which Muon updates."""
    takes_places = True
    """Whether it takes the keyword `places` (B, L), and then returns the logits (m, V) of these m places alone."""

    def __init__(
        self,
        vocabulary: int,
        time: str = "none",
        width: int = 128,
        blocks: int = 6,
        heads: int = 4,
        reach: int = 3,
        dropout: float = 0.0,
        classes: int | None = None,
        keyword: str = "y",
    ):
        super().__init__()
        if min(width, heads, blocks) < 1 or width % (2 * heads):
            raise UsageError(
                f"a transformer of width {width}, {blocks} blocks and {heads} heads",
                "give a block at least, and a width that is a multiple of twice the heads",
            )
        if reach < 0 or not 0 <= dropout < 1:
            raise UsageError(
                f"a transformer with reach={reach} and dropout={dropout}", "give reach ≥ 0, 0 ≤ dropout < 1"
            )
        self.time, self.classes, self.keyword = time, classes, keyword
        self.symbols = nn.Embedding(vocabulary + 1, width)
        nn.init.normal_(self.symbols.weight, std=0.5)
        self.moment = _Moment(width) if time != "none" else None
        self.labels = None if classes is None else nn.Embedding(classes, width)
        conditional = self.moment is not None or self.labels is not None
        self.blocks = nn.ModuleList(_Block(width, heads, reach, dropout, conditional) for _ in range(blocks))
        inner = ("qkv", "mix", "first", "second")
        self.hidden = tuple(f"blocks.{k}.{name}" for k in range(blocks) for name in inner)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, vocabulary)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, z: Tensor, time: Tensor | None = None, *, places: Tensor | None = None, **condition: Tensor
    ) -> Tensor:
        h = self.symbols(z)
        e = self._condition(z, time, condition)
        turn = _turns(z.shape[1], self.blocks[0].size, h)  # type: ignore[arg-type]
        for block in self.blocks:
            h = block(h, turn, e)
        return self.out(self.norm(h if places is None else h[places]))

    def _condition(self, z: Tensor, time: Tensor | None, condition: dict[str, Tensor]) -> Tensor | None:
        if (time is None) != (self.moment is None):
            raise UsageError(
                f"a transformer whose time is {self.time!r}, called with{'out' if time is None else ''} a time",
                "the time of the network is chosen where it is built",
            )
        e = None
        if self.moment is not None and time is not None:
            if self.time == "count":
                time = time / z.shape[1]
            elif self.time == "sigma":
                time = -torch.expm1(-time)
            e = self.moment(time)
        if self.classes is None:
            if condition:
                raise UsageError(
                    f"the condition {', '.join(map(repr, condition))} of a transformer without classes",
                    "leave it out, or give the network `classes`",
                )
            return e
        c = self.labels(labels(condition, self.keyword, self.classes).long())  # type: ignore[misc]
        return c if e is None else e + c


class _Moment(nn.Module):
    """u (B,) in [0, 1] → (B, width), by sines and cosines; the lowest sine is monotone in u."""

    def __init__(self, width: int, frequencies: int = 8):
        super().__init__()
        self.frequencies = frequencies
        self.layers = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, u: Tensor) -> Tensor:
        kind = next(self.layers.parameters()).dtype
        rising = torch.linspace(0.5, self.frequencies, self.frequencies, device=u.device, dtype=torch.float32)
        angle = u.to(torch.float64 if kind == torch.float64 else torch.float32)[:, None] * rising
        return self.layers(torch.cat([angle.sin(), angle.cos()], -1).to(kind))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, reach: int, dropout: float, conditional: bool):
        super().__init__()
        self.heads, self.size, self.reach = heads, width // heads, reach
        self.filter = nn.Parameter(torch.randn(2 * reach + 1, width) * 0.3)
        self.norms = nn.ParameterList(nn.Parameter(torch.stack([torch.ones(width), torch.zeros(width)])) for _ in "123")
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)
        self.modulation = nn.Linear(width, 6 * width) if conditional else None
        for layer in (self.mix, self.second, *([self.modulation] if self.modulation is not None else [])):
            for p in layer.parameters():
                nn.init.zeros_(p)

    def forward(self, h: Tensor, turn: tuple[Tensor, Tensor], e: Tensor | None) -> Tensor:
        changes = [(None, None)] * 3
        if self.modulation is not None and e is not None:
            parts = self.modulation(nn.functional.silu(e))[:, None].chunk(6, -1)
            changes = [(parts[2 * k], parts[2 * k + 1]) for k in range(3)]
        h = h + self._convolution(self._normalised(0, h, *changes[0]))
        h = h + self.drop(self._attention(self._normalised(1, h, *changes[1]), turn))
        inner = self._normalised(2, h, *changes[2])
        return h + self.drop(self.second(gelu(self.first(inner))))

    def _normalised(self, which: int, h: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        weight, bias = self.norms[which]
        h = layer_norm(h, h.shape[-1:], weight, bias)
        return h if scale is None or shift is None else h * (1 + scale) + shift

    def _convolution(self, h: Tensor) -> Tensor:
        L, around = h.shape[1], pad(h, (0, 0, self.reach, self.reach))
        out = around[:, :L] * self.filter[0]
        for k in range(1, len(self.filter)):
            out = torch.addcmul(out, around[:, k : k + L], self.filter[k])
        return out

    def _attention(self, h: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        B, L, width = h.shape
        q, k, v = self.qkv(h).view(B, L, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(_turned(q, turn), _turned(k, turn), v)
        return self.mix(mixed.transpose(1, 2).reshape(B, L, width))


def _turns(L: int, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin (L, size/2) of the angles by which the places are turned, 10,000^(−2k/size) a place."""
    rate = torch.exp(torch.arange(0, size, 2, dtype=torch.float64, device=like.device) * (-math.log(1e4) / size))
    angle = torch.arange(L, dtype=torch.float64, device=like.device)[:, None] * rate
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def _turned(v: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = turn
    a, b = v.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
