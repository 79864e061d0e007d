"""`Compressed`, the result of a compression: its size, what it is made of, and how far it is from the bound."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from nelbo.codec.header import Header
from nelbo.codec.tables import PRECISION
from nelbo.codec.tally import Tally
from nelbo.model.examples import described
from nelbo.typing import Json

NOTABLE, LEAST_NOTABLE = 5e-3, 1e-3
"""By how much the coder may move the net bits without a word: a share of the bound, and bits/dim."""


@dataclass(frozen=True)
class Compressed:
    """The result of a compression.

    net_bits: what the images added to their stacks, the bound in expectation where the coder's tables are as fine as
    the model; tally: whether they are. borrowed: bytes that bits-back borrowed
    and that the file contains. metadata: bytes of names and conditions. exceptions: roundings that were recorded.
    verified: whether everything was decoded again. seconds: by kind of work.
    """

    path: str
    bytes: int
    images: int
    dimensions: int
    net_bits: float
    borrowed: int
    metadata: int
    exceptions: int
    verified: bool
    seconds: dict[str, float]
    header: Header
    tally: Tally = field(default_factory=Tally)
    text_bytes: int | None = None
    """Bytes of a text."""
    facts: Json = field(default_factory=dict)
    """What the data hold and the file does not (`passed_over`), and the numbers of their classes."""

    @property
    def bits_per_dim(self) -> float:
        """Of the whole file."""
        return 8 * self.bytes / (self.images * self.dimensions)

    @property
    def bits_per_byte(self) -> float | None:
        """Of the whole file, a byte of the text; None where it is none."""
        return None if self.text_bytes is None else 8 * self.bytes / self.text_bytes

    @property
    def net_bits_per_dim(self) -> float:
        """Without header, checksums and borrowed bits."""
        return self.net_bits / (self.images * self.dimensions)

    @property
    def model_bits_per_dim(self) -> float:
        """What the images take by the model's own probabilities at the latents that were drawn: their bound, up to the
        randomness of the latents. Infinite where the model gives a code no probability."""
        return self.tally.bits / (self.images * self.dimensions)

    @property
    def off_bound(self) -> str | None:
        """A sentence where the coder's tables and lattices move the net bits by more than `NOTABLE`, else None."""
        net, bound, tally = self.net_bits_per_dim, self.model_bits_per_dim, self.tally
        if abs(bound - net) <= max(NOTABLE * abs(bound), LEAST_NOTABLE) and math.isfinite(bound):
            return None
        side = "below" if net < bound else "above"
        number = f"{bound:.4f} bits/dim" if math.isfinite(bound) else "infinite"
        what = f"the net bits are {side} the bound, which is {number} by the model's own probabilities"
        counts = ((tally.rare_codes, tally.codes, "codes"), (tally.rare_latents, tally.latents, "latents"))
        rare = " and ".join(f"{few} of {every} {name}" for few, every, name in counts if few)
        if side == "above" or not rare:
            return f"{what}: the coder's tables and lattices are coarser than these"
        return f"{what}: {rare} have less than 2^-{PRECISION} under the model, the least that the coder's tables give"

    @property
    def overhead(self) -> float:
        """What the file has beyond its net bits and its metadata, as a share of the net bits."""
        return 8 * (self.bytes - self.metadata) / max(self.net_bits, 1.0) - 1

    def to_dict(self) -> Json:
        """As JSON, schema nelbo.compressed/1."""
        return {
            "schema": "nelbo.compressed/1",
            "file": self.path,
            "bytes": self.bytes,
            "images": self.images,
            "dimensions": self.dimensions,
            "bits_per_dim": self.bits_per_dim,
            **({} if self.text_bytes is None else {"text_bytes": self.text_bytes, "bits_per_byte": self.bits_per_byte}),
            "net_bits_per_dim": self.net_bits_per_dim,
            "model_bits_per_dim": self.model_bits_per_dim if math.isfinite(self.model_bits_per_dim) else None,
            "off_bound": self.off_bound,
            "capped": {
                "codes": [self.tally.rare_codes, self.tally.codes],
                "latents": [self.tally.rare_latents, self.tally.latents],
            },
            "overhead": self.overhead,
            "borrowed_bytes": self.borrowed,
            "names_and_conditions_bytes": self.metadata,
            "exceptions": self.exceptions,
            "verified": self.verified,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "archive": self.header.describe(),
            **self.facts,
        }

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.images} {self.header.noun} in {self.bytes} bytes, "
            f"{self.bits_per_dim:.4f} {self.header.unit} "
            f"({self.net_bits_per_dim:.4f} net + {100 * self.overhead:.2f} %)"
            + ("" if self.text_bytes is None else f", {self.bits_per_byte:.4f} bits/byte of {self.text_bytes} bytes")
            + (f"\n{self.off_bound}" if self.off_bound else "")
            + "".join(f"\n{name:<13} {text}" for name, text in described(self.facts).items())
        )
