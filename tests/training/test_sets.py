"""Training on examples of different size: the loss is the bound of what is there; a run, from lists and files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import nelbo
from nelbo.bound.estimators import Stratified
from nelbo.errors import NelboError
from nelbo.training.batches import Batch
from nelbo.training.criterion import Criterion
from nelbo.training.objective import BoundObjective, HybridObjective, SimpleObjective
from tests.bound.ragged import test_sets as sets

pytestmark = pytest.mark.filterwarnings("ignore:the chain does not end at its prior")
TINY = {"steps": 2, "batch_size": 4, "net": {"width": 8, "blocks": 1, "embedding": 8}}


@pytest.mark.slow
def test_the_loss_is_the_bound_of_what_is_there():
    """Over seeds its mean is the continuous bound: all nats over all numbers."""
    examples = sets.examples() * 32
    whole, mask = sets.padded(examples, sets.MOST + 2, math.nan)
    of = sets.model(sets.pooled, grid=nelbo.grids.continuous())
    losses = torch.stack([nelbo.bound_loss(of, whole, mask=mask, seed=s, reconstruction_share=1.0) for s in range(40)])
    bound = sets.nats(of, examples, estimator=Stratified(8, 8))
    error = math.hypot(float(losses.std()) / 40**0.5, bound.standard_error.estimator)
    assert abs(float(losses.mean()) - bound.bits_per_dim) < 4 * error < 0.6


def test_a_loss_without_padding_is_as_without_a_mask():
    """Of every objective, with the same keys; and nothing in the padding moves it."""
    x = torch.randn(4, sets.MOST, 2, generator=torch.Generator().manual_seed(1)).double()
    table = nelbo.from_callable(
        lambda z, t: torch.cat([0.3 * z, 0.2 + 0 * z], 1), schedule=nelbo.schedules.linear(20), predicts="eps",
        domain=nelbo.DataDomain((sets.MOST, 2)), variance="learned_range", decoder="continuous_gaussian",
    )  # fmt: skip
    there = torch.ones(4, sets.MOST, dtype=torch.bool)
    objectives = [BoundObjective(reconstruction_share=0.5), SimpleObjective(), HybridObjective()]
    for model, some in ((table, objectives), (sets.model(), objectives[:2])):
        for objective in some:
            without, full = (Criterion(objective)(model, Batch(x, 3, 7, mask=m))["loss"] for m in (None, there))
            assert float(full) == pytest.approx(float(without), rel=1e-6)
            part = there.clone()
            part[1:, 3:] = False
            other = torch.where(part[..., None], x, 1e3 * torch.ones_like(x))
            a, b = (Criterion(objective)(model, Batch(v, 3, 7, mask=part))["loss"] for v in (x, other))
            assert torch.equal(a, b) and not torch.equal(a, full)


@pytest.mark.slow
def test_a_run_on_sets(tmp_path):
    """From a list and from a file, the same model; it is evaluated and sampled from its folder with masks."""
    examples = [x.float() for x in sets.examples([1 + i % 4 for i in range(12)])]
    np.savez(tmp_path / "x.npz", x=torch.cat(examples), n=[len(x) for x in examples])
    settings = {**TINY, "validation": {"every": 2, "examples": 2, "max_nfe": 600}}
    models = [
        nelbo.train(data, tmp_path / name, settings, progress=False)
        for name, data in (("list", examples), ("file", f"{tmp_path / 'x.npz'}#x#lengths=n"))
    ]
    assert models[0].fingerprint() == models[1].fingerprint() == nelbo.load(tmp_path / "list").fingerprint()
    assert models[0].domain.shape == (4, 2) and models[0].trained_on.numel() == 10
    records = [json.loads(line) for line in (tmp_path / "list" / "log.jsonl").read_text().splitlines()]
    assert math.isfinite(next(r["bound"] for r in records if "bound" in r))
    with pytest.warns(UserWarning, match="examples are among those the model was trained on"):
        nelbo.evaluate(models[0], examples, estimator=Stratified(2, 2), progress=False)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"net": "mlp"}, "the network 'mlp' for examples of different size"),
        ({"standardise": True}, "standardise=True"),
        ({"variance": "learned_range", "schedule": "linear"}, "outputs"),
        ({"augment": ["horizontal_flip"]}, "augment"),
    ],
)
def test_settings_that_do_not_fit_sets(settings, match, tmp_path):
    with pytest.raises(NelboError, match=match):
        nelbo.train(sets.examples(), tmp_path / "run", {**TINY, **settings}, progress=False)


def test_samples_of_given_sizes():
    """What is there is as without a mask, where the network looks at every number by itself; zero elsewhere."""
    of = sets.model()
    mask = torch.arange(sets.MOST) < torch.tensor([[2], [6], [1]])
    for sampler in ("ancestral", "heun"):
        drawn, whole = (nelbo.sample(of, 3, sampler=sampler, mask=m, progress=False) for m in (mask, None))
        assert torch.equal(drawn[mask], whole[mask]) and not bool(drawn[~mask].any())
    pooled = sets.model(sets.pooled)
    again = nelbo.sample(pooled, 3, mask=mask[:, :6].repeat(1, 1), batch_size=1, progress=False)
    assert torch.allclose(again, nelbo.sample(pooled, 3, mask=mask, progress=False))
    codes = nelbo.sample(sets.coded(), 3, mask=mask, progress=False)
    assert codes.dtype == torch.int64 and not bool(codes[~mask].any()) and bool(codes[mask].any())
    for wrong in (mask[:2], mask.float(), torch.ones(3, 9, dtype=torch.bool), mask & False):
        with pytest.raises(NelboError, match=r"mask|positions, and the domain|nothing that is there"):
            nelbo.sample(of, 3, mask=wrong, progress=False)
