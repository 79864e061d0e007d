"""How much code one call of `nelbo.evaluate` crosses on its way to the network.

    python tools/crossing.py             # the figures, the deepest stack, the files
    python tools/crossing.py --check     # only the figures; exit status 1 where one is above its target

**frames**  the greatest number of Python frames on the stack from the public verb to the network, both included. The
            frames of torch between them (`Module.__call__` of the denoiser: two) count, since a reader of a traceback
            passes through them. The network is a plain function; a module would add two more frames of torch.
**files**   the source files of nelbo of which some function ran during the call. A first call, which is not counted,
            has done all imports.

The estimator is "auto"; the model comes from `nelbo.from_callable` on a continuous log-SNR schedule. Two cases: one in
which "auto" picks the pooled design, and one with per_example=True. At commit 34d8e3d the pooled case crossed 44 files
and 20 frames by this counting, the other one 43 files and 20 frames. Also printed are the frames of nelbo alone and
the files that have a frame on some stack that ends in the network (17 and 11 in both cases then). Since then the call
also reads data of every kind, opens the network, tries it, and checks and explains its result, so that **files** grew
to 69, while between the verb and the network lie 12 files and 14 frames of nelbo, two of them decorators.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import nelbo

HOUSE = Path(nelbo.__file__).parent
MOST_FILES, MOST_FRAMES = 28, 14


def network(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A network whose error is neither zero nor large."""
    return torch.tanh(z) * torch.sigmoid(t)[:, None, None, None]


CASES: dict[str, dict[str, Any]] = {
    "pooled": {"limit": 3000, "tolerance": 0.03},
    "per_example": {"limit": 96, "tolerance": 0.05, "per_example": True},
}
"""Options of the call; the name is the design that "auto" picks."""


def evaluation(case: str) -> Callable[[], nelbo.Bound]:
    """The call that is looked at; the model is made outside it."""
    generator = torch.Generator().manual_seed(5)
    codes = (torch.rand(3000, 1, 6, 6, generator=generator) * 8).floor().long()
    model = nelbo.from_callable(
        network,
        schedule=nelbo.schedules.logsnr_linear(7.0, -6.0),
        domain=nelbo.DataDomain((1, 6, 6), bins=8),
        predicts="v",
        time="logsnr",
        decoder="categorical",
    )
    return lambda: nelbo.evaluate(model, codes, **CASES[case])


@dataclass(frozen=True)
class Crossing:
    """stacks: every distinct stack from the verb to the network, as (file, function); ran: files of nelbo that ran."""

    stacks: frozenset[tuple[tuple[str, str], ...]]
    ran: frozenset[str]

    @property
    def deepest(self) -> tuple[tuple[str, str], ...]:
        """The stack of most frames."""
        return max(sorted(self.stacks), key=len)

    @property
    def frames(self) -> int:
        """Frames of the deepest stack."""
        return len(self.deepest)

    @property
    def own_frames(self) -> int:
        """The greatest number of frames of nelbo on a stack."""
        return max(sum(name in self.ran for name, _ in stack) for stack in self.stacks)

    @property
    def on_stacks(self) -> frozenset[str]:
        """Files of nelbo that have a frame on a stack."""
        return frozenset(name for stack in self.stacks for name, _ in stack if name in self.ran)


def short(path: str) -> str:
    """A file's path inside nelbo, or from site-packages on."""
    place = Path(path)
    if place.is_relative_to(HOUSE):
        return place.relative_to(HOUSE).as_posix()
    return path.rpartition("site-packages/")[2]


def crossing(case: str) -> Crossing:
    """Run a case twice, the second time with a profiler."""
    stacks: set[tuple[tuple[str, str], ...]] = set()
    ran: set[str] = set()

    def look(frame: Any, event: str, _: Any) -> None:
        if event != "call":
            return
        code = frame.f_code
        if code.co_filename.startswith(str(HOUSE)) and code.co_name != "<module>":
            ran.add(short(code.co_filename))
        if code is network.__code__:
            stack = []
            while frame is not None and (frame.f_code.co_filename != __file__ or frame.f_code is network.__code__):
                stack.append((short(frame.f_code.co_filename), frame.f_code.co_qualname))
                frame = frame.f_back
            stacks.add(tuple(reversed(stack)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call = evaluation(case)
        call()
        sys.setprofile(look)
        try:
            bound = call()
        finally:
            sys.setprofile(None)
    if bound.estimator["picked"] != case:
        raise RuntimeError(f"the case {case} was answered by the design {bound.estimator['picked']}")
    return Crossing(frozenset(stacks), frozenset(ran))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="print the figures alone; 1 where one is above its target")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    above = False
    for case in CASES:
        found = crossing(case)
        files, frames = len(found.ran), found.frames
        above |= files > MOST_FILES or frames > MOST_FRAMES
        print(
            f"{case}: {files} files (at most {MOST_FILES}), {frames} frames (at most {MOST_FRAMES}); "
            f"{found.own_frames} frames of nelbo, {len(found.on_stacks)} files on stacks to the network"
        )
        if not given.check:
            print("  the deepest stack:", *(f"    {file:<36} {name}" for file, name in found.deepest), sep="\n")
            print("  the files (* on a stack to the network):")
            print(*(f"    {'*' if name in found.on_stacks else ' '} {name}" for name in sorted(found.ran)), sep="\n")
    return int(above and given.check)


if __name__ == "__main__":
    sys.exit(main())
