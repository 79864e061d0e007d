"""The record: exact results of every verb, compared with the committed file tools/record.json.

    python tools/record.py                      # compute all rows and compare; exit status 1 where one differs
    python tools/record.py --only 'evaluate*'   # a subset, by patterns as of the shell or by a part of the name
    python tools/record.py --list               # names of the rows
    python tools/record.py --write [--only P]   # write the file, or the rows of it that match

Numbers are kept as `float.hex`, arrays and documents as SHA-256, so that a refactoring that changes a single bit is
noticed. A row is computed with one thread, from a fixed seed, in an empty folder, independently of all others.

**Hardware.** The last bits depend on torch and on the CPU. Where both equal those in the file, the comparison is
exact. Elsewhere numbers are compared to a relative tolerance (1e-5 unless the row says otherwise) and hashes are
skipped; the output says so.

**Adding a row.** Write a function in the file of `tools/recorded/` that belongs to the verb, decorated with
`@row("verb.name")`, or call that file's helper (`evaluation`, `flow`, `tightened`, `training`, `sampling`, `coded`).
It returns a dict of floats, integers, strings, tensors, bytes and `Document`s (JSON, hashed without messages, seconds
and versions). `device=True` where it obeys `on.device`, and `planned=True` where rounding may change its draws, let
`benchmarks/gpu.py` repeat it on another device. Then `python tools/record.py --write --only NAME`. Keep a row below
a second.

**Writing anew** is legitimate where a number or a file format changes on purpose: with a line in CHANGELOG.md, in the
commit that changes it, and only for the rows concerned (`--only`). Rows `words.*` hold prose and may be written anew
whenever the words change. A refactoring never writes.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import platform
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script it finds its rows

import torch
from tools.recorded import ROWS, On, written

FILE = Path(__file__).with_suffix(".json")
Values = dict[str, Any]


def hardware() -> dict[str, str]:
    """What the last bits depend on, and Python's version, whose bytecode is in fingerprints of functions."""
    model = "unknown"
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        known = {key.strip(): value.strip() for key, _, value in lines if value}
        model = " ".join(known.get(k, "?") for k in ("model name", "cpu family", "model", "stepping"))
    python = ".".join(platform.python_version_tuple()[:2])
    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "python": python, "cpu": model, "capability": capability}


def compute(name: str, device: str | None = None) -> Values:
    """The values of one row as they stand in the file; of a row that fails its error, which is in no file."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            return written(ROWS[name].compute(On(device, Path(folder))))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Difference:
    """A value that is not as recorded."""

    row: str
    key: str
    recorded: Any
    found: Any

    def __str__(self) -> str:
        a, b = number(self.recorded), number(self.found)
        if a is None or b is None:
            return f"{self.row:<40} {self.key:<22} {self.recorded!s:<26} {self.found!s}"
        relative = abs(b - a) / max(abs(a), abs(b), 1e-300)
        return f"{self.row:<40} {self.key:<22} {a:<26.17g} {b:<26.17g} {relative:.1e}"


def number(value: Any) -> float | None:
    """The number that a value stands for, None for a hash, a word or nothing."""
    if isinstance(value, str):
        return float.fromhex(value) if value.lstrip("-").startswith(("0x", "nan", "inf")) else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def distance(key: str, recorded: Values, found: Values) -> float | None:
    """|a − b| / max(|a|, |b|, size) of a value that was recorded as a and found as b; infinite where one of them is no
    number, None where both are hashes, which tell nothing but equality.

    size: 1e-3, and of the mean of an array the root mean square of its elements, because a mean may be near zero.
    """
    a, b = recorded.get(key, "missing"), found.get(key, "missing")
    if a == b:
        return 0.0
    if isinstance(a, str) and isinstance(b, str) and a.startswith("sha256:") and b.startswith("sha256:"):
        return None
    x, y = number(a), number(b)
    if x is None or y is None or not (math.isfinite(x) and math.isfinite(y)):
        return math.inf
    size = number(recorded.get(key.removesuffix("mean") + "rms")) if key.endswith(".mean") else None
    return abs(x - y) / max(abs(x), abs(y), size or 1e-3)


def differences(row: str, recorded: Values, found: Values, rel: float | None) -> list[Difference]:
    """What differs; rel None: in any bit, else numbers by more than `rel`, and hashes are skipped."""
    different = []
    for key in {**recorded, **found}:
        a, b = recorded.get(key, "missing"), found.get(key, "missing")
        apart = distance(key, recorded, found)
        if a == b or (rel is not None and (apart is None or apart <= rel)):
            continue
        different.append(Difference(row, key, a, b))
    return different


def chosen(patterns: list[str]) -> list[str]:
    """The names that match one of the patterns; all where there is none."""
    return [n for n in ROWS if not patterns or any(p in n or fnmatch.fnmatch(n, p) for p in patterns)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument("--write", action="store_true", help="write the file instead of comparing with it")
    parser.add_argument("--seconds", action="store_true", help="print the time that each row took")
    parser.add_argument("--file", type=Path, default=FILE, help="compare with, or write, another file")
    given = parser.parse_args(argv)
    names = chosen(given.only)
    if given.list:
        print("\n".join(names))
        return 0
    if not names:
        parser.error(f"no row matches {given.only}")
    here = hardware()
    recorded = json.loads(given.file.read_text()) if given.file.exists() else {"hardware": here, "rows": {}}
    exact = recorded["hardware"] == here
    if given.write:
        if not exact and given.only:
            parser.error(f"the file is of other hardware, {recorded['hardware']}: write all rows")
        rows = recorded["rows"] if given.only else {}
        rows |= {name: _timed(name, given.seconds) for name in names}
        if failed := {name: rows[name]["error"] for name in names if "error" in rows[name]}:
            print(
                "nothing was written; these rows fail:", *(f"{name}: {text}" for name, text in failed.items()), sep="\n"
            )
            return 1
        kept = {name: rows[name] for name in ROWS if name in rows}
        given.file.write_text(json.dumps({"hardware": here, "rows": kept}, indent=0) + "\n")
        print(f"{len(names)} rows written to {given.file}")
        return 0
    if not exact:
        print(
            "other hardware than the file's: numbers to a relative tolerance, hashes skipped",
            f"file: {recorded['hardware']}",
            f"here: {here}",
            sep="\n",
        )
    began, different = time.perf_counter(), []
    for name in names:
        found = _timed(name, given.seconds)
        different += differences(name, recorded["rows"].get(name, {}), found, None if exact else ROWS[name].rel)
    if not given.only:
        gone = [name for name in recorded["rows"] if name not in ROWS]
        different += [Difference(name, "row", "recorded", "missing") for name in gone]
    for difference in different:
        print(difference)
    count, how = len({d.row for d in different}), "exactly" if exact else "to tolerance"
    print(f"{len(names)} rows compared {how}, {count} differ ({time.perf_counter() - began:.0f} s)")
    return 1 if different else 0


def _timed(name: str, show: bool) -> Values:
    began = time.process_time()
    values = compute(name)
    if show:
        print(f"{time.process_time() - began:6.2f} s  {name}", flush=True)
    return values


if __name__ == "__main__":
    sys.exit(main())
