"""Training of latent models: the loss is the bound that the engine says, and a run goes on to the bit."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import nelbo
from nelbo.cli.main import app
from nelbo.errors import UsageError
from nelbo.maths.units import bits_per_dim
from nelbo.process import forward
from nelbo.training import train
from nelbo.training.batches import Batch
from nelbo.training.build import build_model
from nelbo.training.criterion import make_criterion
from nelbo.training.recipe import with_recipe
from nelbo.training.settings import check_config
from nelbo.training.trainer import Trainer
from nelbo.typing import Json
from tests.training.cases import codes, interrupt, log_of

pytestmark = pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")  # about networks of no training
DATA = codes(40, (8, 8))
SMALL: Json = {
    "steps": 12, "batch_size": 8, "checkpoint_every": 4, "log_every": 2, "warmup": 2, "ema": 0.9, "levels": None,
    "latent": {"width": 8, "channels": 2}, "net": {"width": 8}, "schedule": {"logsnr_max": 5.0, "logsnr_min": -6.0},
}  # fmt: skip
NOISE = 0.1
"""Added to the weights, so that no network is the one that it begins as."""


def settings(**changes):
    return check_config(with_recipe({**SMALL, **changes}, DATA))


def untrained(**changes):
    """A model in training whose weights are random, in evaluation mode, and its settings."""
    chosen = settings(**changes)
    model = build_model(DATA, chosen)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.denoiser.parameters():
            p.add_(NOISE * torch.randn(p.shape, generator=generator))
    model.denoiser.eval()
    return model, chosen


def losses(model, chosen, steps: int) -> dict[str, torch.Tensor]:
    """Each term of the loss of all examples, (steps,), over steps with noise of their own."""
    criterion = make_criterion(chosen)
    with torch.no_grad():
        rows = [criterion(model, Batch(DATA.data, 0, step)) for step in range(steps)]
    return {name: torch.stack([row[name].double() for row in rows]) for name in rows[0]}


def z_scores(model, chosen, exact: nelbo.Bound, steps: int = 40) -> dict[str, float]:
    """Of each term's mean over the steps, against the engine's."""
    rows, found = losses(model, chosen, steps), {}
    for name, term in vars(exact.terms).items():
        error = math.hypot(float(rows[name].std()) / math.sqrt(steps), term.standard_error)
        found[name] = float(rows[name].mean() - term.bits_per_dim) / max(error, 1e-6)
    return found


def test_the_loss_is_the_bound(monkeypatch):
    """Every term within 4 standard errors of what the engine says of the same model; without what is not known of z
    given z_t the diffusion term is not."""
    model, chosen = untrained(objective={"name": "bound", "t": "low_discrepancy"})
    exact = nelbo.evaluate(model.with_networks(model.denoiser), DATA, tolerance=0.02, progress=False)
    found = z_scores(model, chosen, exact)
    assert found.keys() == {"pixels", "encoder", "prior", "diffusion", "reconstruction"}
    assert max(map(abs, found.values())) < 4, found
    whole = forward.noised_spread
    monkeypatch.setattr(forward, "noised_spread", lambda *given: whole(*given)._replace(std=torch.zeros(1, 1, 1, 1)))
    assert z_scores(model, chosen, exact, 10)["diffusion"] < -6


def test_the_first_stage_has_an_ideal_chain():
    """prior is E[−log N(z; 0, I)] and all else that is not exact stays; the second stage trains the chain alone."""
    model, chosen = untrained(latent={**SMALL["latent"], "stages": 2, "first_share": 0.25})
    criterion = make_criterion(chosen)
    mean, std = model.encode(model.domain.values(DATA.data).float())
    square = (mean.square() + std.square()).double().flatten(1).sum(1)
    expected = 0.5 * (square + math.prod(model.latent_shape) * math.log(2 * math.pi)).mean()
    first = criterion(model, Batch(DATA.data, 0, 2))
    assert first["prior"].item() == pytest.approx(bits_per_dim(expected, 64).item(), rel=1e-5)
    assert first["diffusion"].item() == 0 and "reconstruction" not in first
    second = criterion(model, Batch(DATA.data, 0, 3))
    second["loss"].backward()
    trained = {name.split(".")[0] for name, p in model.denoiser.named_parameters() if p.grad is not None}
    assert trained == {"prior"} and second["diffusion"].item() > 0
    assert chosen.stage(2) == (0, 3) and chosen.stage(3) == (3, 9)


def test_all_parts_are_trained_and_the_start_is_a_normal_prior():
    """One step changes every network and the scale; before it the chain's terms are those of N(0, I)."""
    chosen = settings(objective={"name": "bound", "t": "low_discrepancy"})
    trainer = Trainer.alone(build_model(DATA, chosen), DATA, chosen)
    bound = nelbo.evaluate(trainer.averaged, DATA, tolerance=0.01, progress=False)
    mean, std = trainer.model.encode(trainer.model.domain.values(DATA.data).float())
    square = (mean.square() + std.square()).double().flatten(1).sum(1).mean()
    normal = bits_per_dim(0.5 * (square + 8 * math.log(2 * math.pi)), 64)
    terms = bound.terms
    found = sum(t.bits_per_dim for t in (terms.prior, terms.diffusion, terms.reconstruction))
    assert abs(found - normal.item()) < 4 * bound.standard_error.estimator + 0.01  # the ends of the chain
    before = {name: p.detach().clone() for name, p in trainer.net.named_parameters()}
    for _ in range(3):
        trainer.advance()
    moved = {name.split(".")[0] for name, p in trainer.net.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"encoder", "decoder", "prior", "log_scale"}
    assert float(trainer.averaged.likelihood.scale) != float(before["log_scale"].exp())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"latent": {"halvings": 3}}, "multiples of 16"),
        ({"latent": {"per_channel": True}}, "without channels"),
        ({"schedule": "linear"}, "continuous time"),
        ({"objective": "simple"}, "trained for one bound"),
        ({"net": {"name": "mlp", "head": "categorical"}}, "net.head=plain"),
        ({"decoder": "histogram"}, "latent.likelihood"),
        ({"latent": {"stages": 2}, "steps": 1}, "in one step"),
        ({"compile": True}, "three networks"),
        ({"latent": "vq"}, "latent.name"),
        ({"latent": {"widht": 8}}, "unknown configuration key 'latent.widht'"),
    ],
)
def test_what_does_not_fit_is_refused(changes, match):
    with pytest.raises(UsageError, match=match):
        build_model(DATA, check_config(with_recipe({"steps": 4, "latent": {}, **changes}, DATA)))


RUNS: dict[str, Json] = {
    "one stage": {"validation": {"every": 4, "examples": 10, "max_nfe": 600}},
    "two stages, AdamW, an MLP": {
        "latent": {**SMALL["latent"], "stages": 2, "likelihood": "gaussian"}, "optimizer": "adamw", "lr": 0.01,
        "net": {"name": "mlp", "width": 16},
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_a_run_goes_on_to_the_bit_and_is_a_folder(tmp_path, kind):
    """Stopped twice, in either stage; the folder evaluates, samples and describes itself."""
    chosen = {**SMALL, **RUNS[kind]}
    model = train(DATA, tmp_path / "whole", chosen)
    interrupt(tmp_path / "parts", chosen, 4, 7, data=DATA)
    train(DATA, tmp_path / "parts", chosen, resume=True)
    loaded = nelbo.load(tmp_path / "parts")
    assert isinstance(loaded, nelbo.LatentModel) and loaded.fingerprint() == model.fingerprint()
    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole")
    assert loaded.provenance["config"]["latent"]["width"] == 8
    drawn = nelbo.sample(loaded, 3, steps=4, progress=False)
    assert drawn.shape == (3, 8, 8) and 0 <= int(drawn.min()) <= int(drawn.max()) <= 4
    told = CliRunner().invoke(app, ["info", str(tmp_path / "parts"), "--json"])
    assert told.exit_code == 0 and json.loads(told.stdout)["latent"]["shape"] == [2, 2, 2]


@pytest.mark.slow
def test_training_lowers_the_bound_of_other_images(tmp_path: Path):
    """At the command line, conditional on classes: far below the model before the first step, below a model of
    independent pixels, and the trained scale is near the best one."""
    data, other = codes(400, (8, 8)), codes(100, (8, 8), seed=2)
    labels = {"condition": "y"}
    of_class = replace(data, labels=data.data.double().mean((1, 2)).round().long() % 3)
    chosen = {**SMALL, "steps": 400, "batch_size": 32, "levels": 100, "ema": 0.99, **labels}
    model = train(of_class, tmp_path, {**chosen, "lr": 0.01})
    y = other.data.double().mean((1, 2)).round().long() % 3
    bound = nelbo.evaluate(model, other, condition={"y": y}, tolerance=0.01, progress=False)
    entropy = torch.bincount(data.data.flatten().long()).double()
    independent = float(-(entropy / entropy.sum() * (entropy / entropy.sum()).log2()).sum())
    assert bound.bits_per_dim < independent - 4 * bound.standard_error.total
    fitted = nelbo.latent.fit_likelihood(model, other, "logistic")
    assert float(model.likelihood.scale) == pytest.approx(float(fitted.likelihood.scale), rel=0.15)
