r"""Keyed random numbers: every noise value is a pure function of its purpose, not of when it was drawn.

The generator is Philox4x32-10 (`philox.py`), a bijection of 128-bit counters under a 64-bit key. Here

    counter = (block, example, level, draw)      32 bits each
    key     = mix(seed, stream)                  64 bits

so a value depends on (seed, stream, example, level, draw, position in the example) and on nothing else: neither batch
size, order, number of workers nor chunking changes it. The words are made by exact integer arithmetic in int64 and
are the same on every device; normals go through the device's own log, cos and sin, whose last bits may differ between
devices, hence agree across devices to a few units in the last place of float64.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nelbo.errors import ShapeError, UsageError
from nelbo.maths import philox

# Blocks computed at once: on a CPU the seven buffers of a chunk (2 MiB a thread) stay in its cache, and torch splits no
# operation on fewer elements over threads; a GPU is faster with few, large kernels. Values do not depend on it.
_CHUNK_CPU = 1 << 15
_CHUNK_GPU = 1 << 22


class Stream(enum.IntEnum):
    """What a random number is for; streams of one seed are independent. The numbers are part of the saved format."""

    FORWARD = 0
    """Noise of the bound's Monte Carlo estimate."""
    TIME = 1
    """Times and levels."""
    SAMPLE = 2
    """Ancestral sampling."""
    SELECT = 3
    """Permutations and subsets."""
    PROBE = 4
    """Probe vectors of trace estimators."""
    BATCH = 5
    """Order and make-up of training batches."""
    DECODE = 6
    """Draws from the decoder."""
    AUGMENT = 7
    """Changes to training examples."""


def _mix64(z: int) -> int:
    """Finaliser of SplitMix64 (Steele, Lea, Flood 2014, figure 15), a bijection of 64-bit integers."""
    z = (z + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def stream_key(seed: int, stream: Stream) -> tuple[int, int]:
    """Philox key of `seed` (any integer in [0, 2^64)) and `stream`: two 32-bit words, low word first.

    key = mix(mix(seed) + stream), with mix the finaliser of SplitMix64: distinct seeds never share a key in one
    stream, nor distinct streams of one seed. Raises UsageError for another seed or stream.
    """
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= seed.__index__() < 2**64:
        raise UsageError(f"seed {seed!r} is not an integer in [0, 2^64)", "give a non-negative integer below 2^64")
    try:
        stream = Stream(stream)
    except ValueError:
        choices = ", ".join(f"Stream.{s.name}" for s in Stream)
        raise UsageError(f"unknown stream {stream!r}", f"choose one of: {choices}") from None
    key = _mix64((_mix64(seed.__index__()) + int(stream)) % 2**64)
    return key & philox.MASK, key >> 32


def _indices(example, level, draw, device) -> list[Tensor]:
    """The three indices as int64 tensors (B,) on one device, that of the first tensor unless `device` says so."""
    given = (example, level, draw)
    if device is None:
        device = next((v.device for v in given if isinstance(v, Tensor)), None)
    words = [philox.word(v, n, device) for v, n in zip(given, ("example", "level", "draw"), strict=True)]
    shapes = [tuple(w.shape) for w in words]
    sizes = {s[0] for s in shapes if len(s) == 1} - {1}
    if any(len(s) > 1 for s in shapes) or len(sizes) > 1:
        raise ShapeError(
            f"example, level and draw have shapes {shapes}",
            "give ints or vectors (B,) of one length B, one per example",
        )
    return [w.reshape(1) if w.ndim == 0 else w for w in words]


def _chunks(seed: int, stream: Stream, indices: list[Tensor], blocks: int):
    """Yield (rows, columns, words, t) over the B x blocks table of counters; words and t are flat reused buffers."""
    if blocks > philox.WORD:
        raise UsageError(f"an example of {blocks} blocks of 128 bits", "split it over several draws")
    k0, k1 = stream_key(seed, stream)
    later = philox.next_key(*philox.next_key(k0, k1))
    device = indices[0].device
    block = torch.arange(blocks, dtype=torch.int64, device=device)
    example, level, draw = (w[:, None] for w in torch.broadcast_tensors(*indices))

    batch, threads = example.shape[0], torch.get_num_threads() if device.type == "cpu" else 0
    chunk = _CHUNK_CPU * threads if threads else _CHUNK_GPU
    do = philox.NUMPY if threads == 1 else philox.TORCH
    width = max(1, min(blocks, chunk))
    height = max(1, min(batch, chunk // width))
    memory = torch.empty(5, height * width, dtype=torch.int64, device=device)
    for i in range(0, batch, height):
        for j in range(0, blocks, width):
            rows, columns = slice(i, min(i + height, batch)), slice(j, min(j + width, blocks))
            shape = (rows.stop - i, columns.stop - j)
            flat = memory[:, : shape[0] * shape[1]]
            counter = [block[columns], example[rows], level[rows], draw[rows]]
            table = [c.view(shape) for c in flat[:4]]
            words = list(flat)
            if do is philox.NUMPY:
                counter, table = [c.numpy() for c in counter], [c.numpy() for c in table]
                words = [c.numpy() for c in words]
            philox.begin(counter, table, k0, k1, do)
            c0, c1, c2, c3, t = words
            philox.apply_rounds(
                c0, c1, c2, c3, t, *later, philox.ROUNDS - 2, do
            )  # as many as leave every word in its buffer
            yield rows, columns, flat[:4], flat[4]


def _deal(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(B, blocks, values per block) -> (B, *shape): element e is value e mod w of block e // w."""
    batch, size = values.shape[0], math.prod(shape)
    return values.flatten(1)[:, :size].reshape(batch, *shape).contiguous()


def normal(
    seed: int,
    example: int | Tensor,
    level: int | Tensor,
    draw: int | Tensor,
    shape: Sequence[int],
    *,
    stream: Stream = Stream.FORWARD,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Independent standard normals (B, \*shape), row b keyed by (seed, stream, example_b, level_b, draw_b).

        z_1 = sqrt(-2 log u) cos(2 pi v),    z_2 = sqrt(-2 log u) sin(2 pi v)

    with u = (w_0 + 1/2) / 2^32 and v = w_1 / 2^32 from the words of one Philox block, which gives four normals
    (Box and Muller 1958, equation 1). Computed in float64, then rounded to `dtype`. Since u has 32 bits, |z| <= 6.76;
    the law beyond has mass 1.4e-11, and the variance is 1 to about 1e-10.

    example, level, draw: ints or int64 (B,), in [0, 2^32); B = 1 where all are ints. UsageError outside that range.
    """
    shape = tuple(shape)
    indices = _indices(example, level, draw, device)
    batch, blocks = torch.broadcast_shapes(*(w.shape for w in indices))[0], -(-math.prod(shape) // 4)
    out = torch.empty(batch, blocks, 2, dtype=torch.complex128, device=indices[0].device)
    radius = None
    for rows, columns, words, angle in _chunks(seed, stream, indices, blocks):
        part = out[rows, columns]
        if radius is None or radius.shape != angle.shape:
            radius, cosine = torch.empty(2, *angle.shape, dtype=torch.float64, device=out.device)
        angle = angle.view(torch.float64)
        for i in (0, 1):
            radius.copy_(words[2 * i]).add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
            angle.copy_(words[2 * i + 1]).mul_(2.0 * math.pi * 2.0**-32)
            torch.cos(angle, out=cosine).mul_(radius)
            angle.sin_().mul_(radius)
            # z_1 + i z_2: neighbours in memory, written in one pass
            torch.complex(cosine.view(part.shape[:2]), angle.view(part.shape[:2]), out=part[..., i])
    return _deal(torch.view_as_real(out).flatten(2), shape).to(dtype)


def uniform(
    seed: int,
    example: int | Tensor,
    level: int | Tensor,
    draw: int | Tensor,
    shape: Sequence[int] = (),
    *,
    stream: Stream = Stream.TIME,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Independent uniforms (B, \*shape) in the open interval (0, 1), keyed as in `normal`.

    u = (k + 1/2) / 2^52 with k the first 52 bits of two words, exact in float64. Rounding to a narrower `dtype` may
    reach 1, so only float64 is taken. Errors as in `normal`.
    """
    if dtype != torch.float64:
        raise UsageError(f"uniform numbers in {dtype}", "take float64 and round where 0 or 1 do no harm")
    shape = tuple(shape)
    indices = _indices(example, level, draw, device)
    batch, blocks = torch.broadcast_shapes(*(w.shape for w in indices))[0], -(-math.prod(shape) // 2)
    out = torch.empty(batch, blocks, 2, dtype=torch.float64, device=indices[0].device)
    for rows, columns, words, t in _chunks(seed, stream, indices, blocks):
        part = out[rows, columns]
        for i in (0, 1):
            torch.bitwise_right_shift(words[2 * i + 1], 12, out=t)
            part[..., i].copy_(words[2 * i].bitwise_left_shift_(20).bitwise_or_(t).view(part.shape[:2]))
    return _deal(out.add_(0.5).mul_(2.0**-52), shape)


def permutation(
    seed: int,
    n: int,
    level: int = 0,
    draw: int = 0,
    *,
    stream: Stream = Stream.SELECT,
    device: torch.device | str | None = None,
) -> Tensor:
    """A permutation of 0..n-1, int64 (n,), keyed by (seed, stream, level, draw): stable argsort of keyed integers.

    Each position gets a 64-bit integer; a tie (probability below n^2 / 2^65) leaves the order of positions. Uniform
    over all permutations up to that. UsageError where n is negative or at least 2^32.
    """
    rows = permutations(seed, n, level, torch.tensor([draw], device=device), stream)
    return rows[0]


def permutations(seed: int, n: int, level: int, draws: Tensor, stream: Stream = Stream.SELECT) -> Tensor:
    """`permutation` of every draw number of `draws` (B,), (B, n), on its device."""
    size = int(philox.word(n, "n"))
    indices = _indices(0, level, draws, None)
    blocks = -(-size // 2)
    keys = torch.empty(len(draws), blocks, 2, dtype=torch.int64, device=indices[0].device)
    for rows, columns, words, _ in _chunks(seed, stream, indices, blocks):
        part = keys[rows, columns]
        for i in (0, 1):
            part[..., i].copy_(words[2 * i].bitwise_left_shift_(32).bitwise_or_(words[2 * i + 1]).view(part.shape[:2]))
    return torch.argsort(_deal(keys, (size,)), dim=1, stable=True)
