r"""What every random number of nelbo is for: one table, a member of `Purpose` for each.

A random number is keyed by (seed, stream, example, level, draw), see `random.py`. A purpose owns a stream and a range
of levels and of draws in it, and the rule is that no two purposes share a key: numbers that serve two purposes would be
dependent. Where two purposes of this table do share keys, `SHARED` names them and says what follows. The numbers make
results reproducible: they never change, and a new purpose takes a range of its own.

    eps = Purpose.TERM_NOISE.normal(seed, examples, levels, draws, shape)
    order = Purpose.PILOT_EXAMPLES.permutation(seed, n)

`level` and `draw` are counted from the first of the purpose's own. Two more generators have keys of their own: the
codec's, which is part of the archive format (`nelbo.codec`), and torch's, for dropout and initial weights in training.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.maths import random
from nelbo.maths.random import Stream

_EVERY_EXAMPLE = range(1 << 32)
_CHAIN = range(1 << 29)
"""Levels of a chain, or strata: fewer than 2^29 of them, so that level keys from 2^29 on are free for other uses."""
_ESTIMATE = range(1 << 30)
"""Draws of an estimate: fewer than 2^30 an example and level, so that draw numbers from 2^30 on are free as well."""
_ZERO = range(1)
_LAPS = (3, 8, 9, 16, 17, 24, 25, 32, 33)
"""Of the draws that measure a precision; then of each of four folds, for the reconstruction and the diffusion term."""


def _only(number: int) -> range:
    return range(number, number + 1)


@dataclass(frozen=True, eq=False)
class Keys:
    """The keys of one purpose: `room` is the part of nelbo that draws them, the others are what they range over."""

    room: str
    stream: Stream
    levels: Sequence[int] = _ZERO
    draws: range = _ZERO
    examples: range = _EVERY_EXAMPLE


class Purpose(enum.Enum):
    """What a random number is for."""

    # the estimators of the bound
    TERM_NOISE = Keys("evaluate", Stream.FORWARD, _CHAIN, _ESTIMATE)
    """ε of the terms: level 0 for the reconstruction, above it that of the estimator (a cell, a stratum)."""
    PILOT_NOISE = Keys("pilot", Stream.FORWARD, _CHAIN, range(1 << 31, (1 << 31) + (1 << 30)))
    """ε of the pilot, which the estimate does not see; two draws for every time that it takes an example."""
    PILOT_EXAMPLES = Keys("pilot", Stream.SELECT, draws=_only(1), examples=_ZERO)
    """Which examples the pilot evaluates."""
    SURROGATE_BASIS = Keys("pilot", Stream.PROBE)
    """Starting vectors of the surrogate's subspace iteration; the seed is always 0."""
    PAIRED_EXAMPLES = Keys("exhaustive", Stream.SELECT, examples=_ZERO)
    """Which examples get a second draw in an exhaustive estimate of one draw."""
    STRATUM_PLACE = Keys("stratified", Stream.TIME, range(1, 1 << 29), range(2))
    """Place of a draw in its stratum, of level 1 + stratum."""
    ONE_TIME_PLACE = Keys("one_time", Stream.TIME, _only(2), _ESTIMATE)
    """The one time that an example, or a group of them, gets in a pass."""
    ONE_TIME_GROUPS = Keys("one_time", Stream.SELECT, draws=_only(5), examples=_ZERO)
    """Which examples share a low-discrepancy sequence."""
    PER_EXAMPLE_PLACE = Keys("per_example", Stream.TIME, _only(1), _ESTIMATE)
    """Place of a draw in its example's stratum."""
    PER_EXAMPLE_ORDER = Keys("per_example", Stream.SELECT, draws=_only(2), examples=_ZERO)
    """The order in which examples form blocks."""
    FOLDS = Keys("designs", Stream.SELECT, draws=_only(7), examples=_ZERO)
    """The split of the examples into folds for cross-fitting."""
    POOLED_PLACE = Keys("pooled", Stream.TIME, draws=_ESTIMATE, examples=range(4))
    """Place of a draw in its stratum; the example index is the fold."""
    DIFFUSION_ORDER = Keys("pooled", Stream.SELECT, _only(2), _ESTIMATE, _ZERO)
    """Order in which a stage's pairs of diffusion draws are computed."""
    RECONSTRUCTION_ORDER = Keys("pooled", Stream.SELECT, _only(6), _ESTIMATE, _ZERO)
    """Order in which a stage's reconstruction draws are computed."""
    LAP_ORDER = Keys("laps", Stream.SELECT, _LAPS, _ESTIMATE, _ZERO)
    """Order of the examples in a lap of the systematic sample; the draw number is the lap."""
    LAP_START = Keys("laps", Stream.TIME, tuple((1 << 29) + level for level in _LAPS), _ESTIMATE, _ZERO)
    """The random start of a lap's systematic sample."""
    LAP_SHUFFLE = Keys("laps", Stream.SELECT, tuple(level + 4 for level in _LAPS), _ESTIMATE, _ZERO)
    """Order of what a lap has sampled."""
    PRECISION_NOISE = Keys("precision", Stream.FORWARD, range(2), range(1 << 30, (1 << 30) + 256))
    """ε of the draws that compare a coarser precision with float32."""
    PRECISION_PLACE = Keys("precision", Stream.TIME, _only(1), range(1 << 30, (1 << 30) + 256), _ZERO)
    """Places of those draws along the chain."""

    TRIAL_NOISE = Keys("trial", Stream.FORWARD, _only((1 << 31) + 2))
    """ε of the rows on which a foreign network is tried before the first estimate."""

    # the bound of a latent model
    LATENT_DRAW = Keys("latent", Stream.FORWARD, _only((1 << 31) + 3), range(1 << 32))
    """Where a draw of the likelihood's term has its z, in units of the encoder's standard deviation."""
    LATENT_INNER = Keys("latent", Stream.FORWARD, range(1 << 30, (1 << 30) + (1 << 29)), range(1 << 32))
    """Where z is, given z_t, in a term that is not averaged over it in closed form; of `TERM_NOISE`'s levels."""
    LATENT_SPLIT = Keys("latent", Stream.FORWARD, _ZERO, range((1 << 30) + (1 << 23), (1 << 30) + (1 << 24)))
    """ε of the draws that tell the first level's term of the prior from the likelihood's."""

    LATENT_FIT = Keys("latent_fit", Stream.FORWARD, _only((1 << 31) + 4), range(3))
    """Where z is drawn to which the scale of a likelihood is fitted, and a chain, and that certify the latter."""

    # diagnosis
    DIAGNOSIS_NOISE = Keys("diagnose", Stream.FORWARD, range(2), range((1 << 30) + (1 << 20), (1 << 30) + (1 << 21)))
    """ε of the draws that all declarations share: level 0 for the reconstruction, level 1 along the chain."""
    DIAGNOSIS_PLACE = Keys("diagnose", Stream.TIME, _only(3), range(1 << 20), _ZERO)
    """Places of those draws along the chain."""
    DIAGNOSIS_EXAMPLES = Keys("diagnose", Stream.SELECT, range(64), _only(8), _ZERO)
    """Which examples they are of; level 0 for those that are looked at in all, above it for a stage."""
    DIAGNOSIS_PERMUTATION = Keys("diagnose", Stream.SELECT, draws=_only(9), examples=_ZERO)
    """The order in which the rows of a condition are given to other examples."""

    # contrasts of conditions
    CONTRAST_NOISE = Keys("contrast", Stream.FORWARD, range(2), range((1 << 30) + (1 << 21), (1 << 30) + (1 << 22)))
    """ε of the draws that all conditions share: level 0 for the first level's term, level 1 along the chain."""
    CONTRAST_PLACE = Keys("contrast", Stream.TIME, _only(4), range(1 << 30, (1 << 30) + (1 << 21)))
    """Place of a draw in its stratum of the chain."""
    CONTRAST_EXAMPLES = Keys("contrast", Stream.SELECT, draws=_only(10), examples=_ZERO)
    """Which examples the pilot of a contrast looks at."""

    # where in a sequence the bits are
    SURPRISAL_NOISE = Keys("surprisal", Stream.FORWARD, range(1 << 10), range(1 << 10))
    """Orders of the places, and the number that is hidden; the level is the stratum, the draw the repeat."""

    # the monitor of a training run
    MONITOR_NOISE = Keys("monitor", Stream.FORWARD, _CHAIN, range((1 << 30) + (1 << 22), (1 << 30) + (1 << 23)))
    """ε of the draws that all readings share, of `TERM_NOISE`'s levels."""
    MONITOR_PLACE = Keys("monitor", Stream.TIME, _only(5), range(1 << 22))
    """Place of a draw in its stratum."""
    MONITOR_EXAMPLES = Keys("monitor", Stream.SELECT, draws=range(11, 14), examples=_ZERO)
    """Which examples are drawn: along the chain, at the first level, for the Gaussian that the density follows."""

    # the likelihood of the probability-flow ODE
    ODE_START = Keys("ode", Stream.FORWARD, draws=_ESTIMATE)
    """The starting point z_1 of the flow: ε of the variational dequantisation, u of those on the bin."""
    ODE_PROBES = Keys("ode", Stream.PROBE, range(1 << 30), _ESTIMATE)
    """Signs of the trace estimator; the level is the number of the probe."""
    DERIVATIVE_NOISE = Keys("ode", Stream.FORWARD, _only((1 << 31) + 1), range(5))
    """Where the network's derivative is compared with differences of its values."""
    DERIVATIVE_PROBES = Keys("ode", Stream.PROBE, range(5), _only((1 << 31) + 1))
    """Along which signs it is compared; the level is the number of the place."""
    FLOW_WEIGHTS = Keys("ode", Stream.PROBE, _only(1 << 31), examples=range(3))
    """First weights of the fitted dequantisation; the example index is the layer."""
    FLOW_EXAMPLES = Keys("ode", Stream.SELECT, _only(1 << 31), examples=range(200))
    """Examples of a step of its fit; the example index is the step."""
    FLOW_NOISE = Keys("ode", Stream.FORWARD, _only(1 << 31), range(200))
    """Uniform numbers of a step of its fit; the draw is the step."""

    # tightening
    SPLIT_ORDER = Keys("tighten", Stream.SELECT, examples=_ZERO)
    """Which examples are fitted to and which are held out."""
    COVARIANCE_EXAMPLES = Keys("tighten", Stream.SELECT, draws=_only(2), examples=_ZERO)
    """Which examples a covariance is fitted to, where there are many."""
    COVARIANCE_FOLDS = Keys("tighten", Stream.SELECT, draws=_only(3), examples=_ZERO)
    """The split of these into folds."""
    COVARIANCE_NOISE = Keys("tighten", Stream.FORWARD, _CHAIN, _only(1 << 30))
    """ε at which the network's errors are measured; the level is the number of the node."""
    DECODER_NOISE = Keys("tighten", Stream.FORWARD, range(1 << 29, 1 << 30))
    """ε at which decoders are fitted; the level is the number of the node."""
    REGRESSION_PLACES = Keys("tighten", Stream.SELECT, _CHAIN)
    """Which blocks or pixels of an example a regression sees at a node."""

    CALIBRATION_NOISE = Keys("calibrate", Stream.FORWARD, range(2), range((1 << 30) + (1 << 24), (1 << 30) + (1 << 25)))
    """Draws of a chain over symbols to which a calibration is fitted: level 0 for the first level, 1 for the others."""
    CALIBRATION_PLACE = Keys("calibrate", Stream.TIME, _only(6), range((1 << 30) + (1 << 24), (1 << 30) + (1 << 25)))
    """Places of those draws along the chain."""
    CALIBRATION_SPLIT = Keys("calibrate", Stream.SELECT, draws=_only(14), examples=_ZERO)
    """Which of the sequences that are not held out a calibration is fitted to, and by which it is chosen."""

    # training: the example index is the place in the batch and the level is the step, unless said otherwise
    BATCH_ORDER = Keys("train", Stream.SELECT, range(1 << 32), examples=_ZERO)
    """Order of the training examples; the level is the epoch."""
    VALIDATION_SPLIT = Keys("train", Stream.SELECT, draws=_only(1), examples=_ZERO)
    """Which examples are held out for validation."""
    TRAINING_NOISE = Keys("train", Stream.BATCH, range(1 << 32), _only(0))
    """ε of the diffusion term."""
    BATCH_TIME = Keys("train", Stream.BATCH, range(1 << 32), _only(1), _ZERO)
    """The one uniform number from which low-discrepancy times of a batch follow."""
    FIRST_LEVEL_NOISE = Keys("train", Stream.BATCH, range(1 << 32), _only(2))
    """ε of the reconstruction term."""
    INDEPENDENT_TIME = Keys("train", Stream.BATCH, range(1 << 32), _only(3))
    """Times of a batch that are independent of each other."""
    FLIP = Keys("train", Stream.AUGMENT, range(1 << 32))
    """Whether an example is mirrored."""

    # sampling, exact laws, and the laws that models are tried on
    SAMPLE_NOISE = Keys("sample", Stream.SAMPLE, range(1, 1 << 29))
    """Noise of a step of a sampler from level 1 + level; above the last step that of the prior."""
    SAMPLE_CODE = Keys("sample", Stream.DECODE)
    """Draws of codes from the decoder."""
    CODING_ORDER = Keys("codec", Stream.SELECT, _only(1 << 30))
    """The order in which the places of a sequence are coded; part of the format of archives."""
    EXACT_DRAW = Keys("exact", Stream.SAMPLE)
    """Draws of an exact law: normals of a Gaussian or of a component, uniforms of a categorical law."""
    EXACT_COMPONENT = Keys("exact", Stream.SAMPLE, draws=_only(1))
    """The component of a mixture that a draw comes from."""
    CHECK_NOISE = Keys("testing", Stream.FORWARD)
    """ε at which models and adapters are tried; the seed is fixed."""

    @property
    def level(self) -> int:
        """The first level key."""
        return self.value.levels[0]

    @property
    def draw(self) -> int:
        """The first draw number."""
        return self.value.draws[0]

    def normal(
        self,
        seed: int,
        example: int | Tensor,
        level: int | Tensor = 0,
        draw: int | Tensor = 0,
        shape: Sequence[int] = (),
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Standard normals of this purpose, as of `random.normal`."""
        at = _at(self.value.levels, level), _at(self.value.draws, draw)
        return random.normal(seed, example, *at, shape, stream=self.value.stream, dtype=dtype, device=device)

    def uniform(
        self,
        seed: int,
        example: int | Tensor,
        level: int | Tensor = 0,
        draw: int | Tensor = 0,
        shape: Sequence[int] = (),
        *,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Uniform numbers of this purpose, as of `random.uniform`."""
        at = _at(self.value.levels, level), _at(self.value.draws, draw)
        return random.uniform(seed, example, *at, shape, stream=self.value.stream, device=device)

    def permutation(
        self, seed: int, n: int, level: int = 0, draw: int = 0, *, device: torch.device | str | None = None
    ) -> Tensor:
        """A permutation of 0..n-1 of this purpose, as of `random.permutation`."""
        at = self.value.levels[level], self.value.draws[draw]
        return random.permutation(seed, n, *at, stream=self.value.stream, device=device)

    def permutations(self, seed: int, n: int, level: int, draws: Tensor) -> Tensor:
        """The permutations of several draw numbers (B,), (B, n)."""
        return random.permutations(seed, n, self.value.levels[level], draws + self.draw, self.value.stream)


def _at(keys: Sequence[int], number: int | Tensor) -> int | Tensor:
    """The key of a number that counts from the first. Errors: IndexError for an int outside of the purpose's range."""
    if not isinstance(number, Tensor):
        return keys[number]
    return number if keys[0] == 0 else number + keys[0]


SHARED: dict[frozenset[Purpose], str] = {
    frozenset(
        {Purpose.TERM_NOISE, Purpose.ODE_START}
    ): "meant: the variational dequantisation starts at the z_1 of the "
    "bound's reconstruction term, so that the two are compared at common noise",
    frozenset({Purpose.PER_EXAMPLE_ORDER, Purpose.COVARIANCE_EXAMPLES}): "within `tighten`, the order of the held-out "
    "examples' blocks and the choice of examples to fit to: of disjoint examples",
    frozenset({Purpose.SPLIT_ORDER, Purpose.REGRESSION_PLACES}): "within `tighten`, the split and the pixels that the "
    "first example shows at the first node: both only choose what is fitted to",
    frozenset(
        {Purpose.BATCH_ORDER, Purpose.PAIRED_EXAMPLES}
    ): "within `train`, orders of training and of held-out data",
    frozenset({Purpose.BATCH_ORDER, Purpose.DIFFUSION_ORDER}): "as above, in the third epoch",
    frozenset({Purpose.BATCH_ORDER, Purpose.RECONSTRUCTION_ORDER}): "as above, in the seventh epoch",
    frozenset({Purpose.BATCH_ORDER, Purpose.LAP_ORDER}): "as above, from the fourth epoch on",
    frozenset({Purpose.BATCH_ORDER, Purpose.LAP_SHUFFLE}): "as above, from the eighth epoch on",
    frozenset(
        {Purpose.VALIDATION_SPLIT, Purpose.PILOT_EXAMPLES}
    ): "within `train`, the choice of held-out examples and "
    "the pilot's choice among these: the pilot is never averaged in",
    frozenset({Purpose.CHECK_NOISE, Purpose.TERM_NOISE}): "within `nelbo.testing`, identities that hold at any noise",
}
"""Pairs of purposes that share keys within one call (the first pair: in two calls), and what follows from it."""
