"""Stages: draws one portion after the other, until the one who looks at the error bar in between is content.

Pooled stages end at preset multiples of the plan: stopping at the first lucky look would favour samples whose skewed
tail has not shown yet, and the fewer the looks before enough is known, the less. Blocks of examples are planned by what
the blocks before have shown; each has its fixed share of the estimate, so that nothing is favoured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

from nelbo.bound import plan
from nelbo.bound.per_example import LARGEST, PerExample
from nelbo.bound.plan import Plan
from nelbo.bound.pooled import MIN_DRAWS, Pooled

LOOKS = tuple(0.5 * 1.07**i for i in range(64))
"""Multiples of the plan, to 35, at which a pooled error bar is looked at."""
LEAST = 32
"""Pairs, and first-level draws, of the smallest pooled stage but the first."""
AGAIN = 40
"""Most times that a block of examples is drawn again because the variance is more than what was planned for."""


def of_pooled(drawn: Pooled, wanted: Plan, left: Callable[[], float]) -> Iterator[int]:
    """Draw the stages that end at the looks, as far as the evaluations that are `left` go. Before each, yields those
    that it will take."""
    had = [0, 0]
    for look in LOOKS:
        least = LEAST if had[0] else MIN_DRAWS // 4
        size = [math.ceil(n * look) - h for n, h in zip((wanted.strata, wanted.reconstructions), had, strict=True)]
        if had[0] and max(size) < least:
            continue
        size = [max(least, n) for n in size]
        last = drawn.cost(*size) > left()
        while drawn.cost(*size) > left():
            size = [math.floor(0.9 * n) for n in size]
            if min(size) < 2 * len(drawn.folds):
                return
        yield drawn.cost(*size)
        drawn.draw(*size)
        if last:
            return
        had = [h + n for h, n in zip(had, size, strict=True)]


def of_blocks(
    drawn: PerExample, wanted: Plan, target: float, left: Callable[[], float], strata: int | None = None
) -> Iterator[int]:
    """Draw block after block of examples, then such blocks again as were too rough. Before each, yields what it takes
    and the examples that are left need at least. With `strata` every example has as many, and that is all."""
    N = drawn.problem.examples
    k, m = plan.first(wanted, N) if strata is None else (float(strata), float(round(wanted.reconstructions)))
    remaining = N
    for examples in [N] if strata is not None else plan.parts(N, k):
        if remaining < N:
            k, m = plan.block(drawn, target, remaining, wanted)
        k, m = plan.within(drawn, k, m, left() / remaining)
        yield math.ceil(drawn.cost(remaining, k, m))
        for rows, whole, pairs in _whole(examples, k, m):
            drawn.draw(drawn.new(rows), whole, pairs)
            if drawn.problem.stopped:
                return
        remaining -= examples
    if strata is not None:
        return
    yield 0
    for _ in range(AGAIN):
        block, *more = plan.again(drawn, target)
        cost = round(drawn.cost(len(block.rows), *more))
        if cost > left():
            return
        yield cost
        drawn.draw(block, *more)


def _whole(examples: int, k: float, m: float) -> Iterator[tuple[int, int, int]]:
    """`examples` in groups with whole numbers of strata and pairs, which are k and m on average or a little less."""
    low = math.floor(k), math.floor(m)
    ends = [math.floor((n - whole) * examples + 1e-9) for n, whole in zip((k, m), low, strict=True)]
    edges = sorted({0, *ends, examples, *range(0, examples, LARGEST)})
    for a, b in pairwise(edges):
        yield b - a, low[0] + (b <= ends[0]), low[1] + (b <= ends[1])
