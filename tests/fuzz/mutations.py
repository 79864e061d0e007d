"""Random changes of bytes and of JSON, from a generator of numpy."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 255, 4096, 65537, 10**6, 10**8, 2**31, 2**62, 2**63 - 1, 2**64, -(2**63), 0.5,
    -0.0, 1e-300, 1e300, 1e-9, float("nan"), float("inf"), "", "x", "0", "beta", "os:abort", "../../evil", "\udcff",
    "a" * 5000, [], {}, [0], [1, 2], [[1]], {"kind": "x"}, {"kind": "beta"}, {"kind": "even", "steps": 3}, ["y", "y"],
)  # fmt: skip
"""Values in the place of others."""


def changed_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Flips, cuts, splices, repeats, zeros and insertions at random places."""
    new = bytearray(data)
    kind, most = rng.integers(7), max(len(new), 1)
    a, b = sorted(int(v) for v in rng.integers(0, most, 2))
    if kind == 0:
        for at in rng.integers(0, most, rng.integers(1, 6)):
            new[at] ^= 1 << rng.integers(8)
    elif kind == 1:
        del new[a:]
    elif kind == 2:
        del new[a:b]
    elif kind == 3:
        new[a:a] = rng.bytes(int(rng.integers(1, 40)))
    elif kind == 4:
        new[a : a + 16] = bytes(len(new[a : a + 16]))
    elif kind == 5:
        new[b:b] = new[a : a + 60]
    else:
        new[a] = rng.integers(256)
    return bytes(new)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The path of every entry of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, one in inner for found in ((*path, key), *places(one, (*path, key)))]


def changed_json(value: Any, rng: np.random.Generator) -> Any:
    """One to three entries dropped, renamed, added, exchanged or given other values."""
    new = copy.deepcopy(value)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        paths = places(new)
        if not paths:
            return new
        path = paths[rng.integers(len(paths))]
        holder = at(new, path[:-1])
        kind = rng.integers(6)
        old = holder[path[-1]]
        if kind == 0:
            del holder[path[-1]]
        elif kind == 1 and isinstance(holder, dict):
            holder[f"{path[-1]}x"] = holder.pop(path[-1])
        elif kind == 2 and isinstance(old, int | float) and not isinstance(old, bool):
            holder[path[-1]] = [old + 1, -old, old * 10**6, old * 0.5, old + 1e-9, float(old)][rng.integers(6)]
        elif kind == 3:
            holder[path[-1]] = copy.deepcopy(at(new, paths[rng.integers(len(paths))]))
        elif kind == 4 and isinstance(old, list):
            old.append(old[0] if old else 1)
        else:
            holder[path[-1]] = copy.deepcopy(ODD[rng.integers(len(ODD))])
    return new


def at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value
