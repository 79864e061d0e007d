"""The loop: what it logs and saves, what it refuses, and what it leaves alone."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import warnings

import pytest
import torch

from nelbo import evaluate
from nelbo.bound.checks import NelboWarning
from nelbo.errors import DomainError, Interrupted, NumericalError, ShapeError, UnknownNameError, UsageError
from nelbo.model import folder
from nelbo.model.decoder import Categorical, ContinuousGaussian, DiscretizedGaussian, NetworkCategorical
from nelbo.model.exact import GaussianData
from nelbo.model.examples import Examples
from nelbo.process.schedule import Table
from nelbo.training import TrainConfig, train
from nelbo.training.build import build_model
from nelbo.training.config import check_config
from nelbo.training.optimizer import learning_rate_factor
from tests.training.cases import BINS, codes, small


def checkpoint(path) -> dict:
    return torch.load(path, weights_only=True)


def log_of(out) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------- what a run leaves behind


def test_log_and_progress(tmp_path):
    seen: list[dict] = []
    train(codes(), tmp_path, small(), progress=seen.append)
    assert [r["step"] for r in seen] == list(range(1, 13)) and all(r["steps"] == 12 for r in seen)
    log = log_of(tmp_path)
    assert log == [r for r in seen if "loss" in r]
    assert [r["step"] for r in log] == [1, 5, 10, 12]
    for record in log:
        assert record["loss"] == pytest.approx(record["diffusion"] + record["reconstruction"] + record["prior"])
        assert all(math.isfinite(record[k]) and record[k] > 0 for k in ("diffusion", "reconstruction", "prior"))
        assert record["lr"] == pytest.approx(0.01 * learning_rate_factor(record["step"] - 1, 12, 2))
    assert [r["seconds"] for r in log] == sorted(r["seconds"] for r in log)


def test_learning_rate():
    """Up in a straight line, down on a cosine to a hundredth."""
    assert learning_rate_factor(0, 10**6, 100) == pytest.approx(0.01)
    assert learning_rate_factor(49, 10**6, 100) == pytest.approx(0.5)
    assert learning_rate_factor(500, 1000, 100) == pytest.approx(0.505)
    assert learning_rate_factor(1000, 1000, 100) == pytest.approx(0.01)
    assert learning_rate_factor(0, 1000, 0) == 1.0


def test_the_average_is_what_is_saved(tmp_path):
    """The saved weights are the running average of every step's weights, recomputed here; not the last ones."""
    nets: dict[int, dict[str, torch.Tensor]] = {}

    def look(record) -> None:
        # The checkpoint of a step is written after its progress call: read the one before.
        for path in (tmp_path / "checkpoints").glob("step-*.pt"):
            state = checkpoint(path)
            nets[state["step"]] = state["net"]

    saved = train(codes(), tmp_path, small(checkpoint_every=1, ema=0.8, steps=50), progress=look)
    look(None)
    assert sorted(nets) == list(range(1, 51))
    average = {k: v.double().clone() for k, v in nets[1].items()}
    for count in range(1, 50):
        decay = min(0.8, count / (count + 20))
        for k, v in nets[count + 1].items():
            average[k] = decay * average[k] + (1 - decay) * v.double()
    weights = saved.denoiser.state_dict()
    assert set(weights) == set(average)
    for k, v in weights.items():
        torch.testing.assert_close(v.double(), average[k], rtol=1e-4, atol=1e-6)
    head = "net.head.out.weight"
    assert float((weights[head] - nets[50][head]).abs().max()) > 1e-4
    assert folder.load(tmp_path).fingerprint() == saved.fingerprint()


def test_no_average(tmp_path):
    saved = train(codes(), tmp_path, small(ema=0.0))
    last = checkpoint(max((tmp_path / "checkpoints").glob("*.pt")))["net"]
    assert all(torch.equal(v, last[k]) for k, v in saved.denoiser.state_dict().items())


def test_checkpoints_are_few(tmp_path):
    train(codes(), tmp_path, small(checkpoint_every=3))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000009.pt", "step-00000012.pt"]
    assert {p.name for p in tmp_path.iterdir()} == {
        "checkpoints",
        "config.json",
        "log.jsonl",
        "model.json",
        "model.safetensors",
    }


def test_provenance_and_the_warning_on_training_data(tmp_path):
    examples = codes()
    train(examples, tmp_path, TrainConfig.model_validate(small(seed=7)))
    model = folder.load(tmp_path)
    assert model.provenance["config"] == check_config(small(seed=7)).model_dump(mode="json")
    told = model.provenance["data"]
    assert told == {"name": "codes 1", "fingerprint": examples.fingerprint, "examples": 40}
    assert model.trained_on is not None and torch.equal(model.trained_on, examples.hashes)
    with pytest.warns(NelboWarning, match="40 of 40 examples"):
        bound = evaluate(model, examples)
    assert bound.warnings
    others = codes(200, seed=2)
    new = others.data[~torch.isin(others.hashes, examples.hashes)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not evaluate(model, new, estimator="stratified").warnings
    with pytest.warns(NelboWarning, match="1 of 4 examples"):
        evaluate(model, torch.cat([new[:3], examples.data[5:6]]))


# ---------------------------------------------------------------- it learns, with every head and schedule


def bits(model, data) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NelboWarning)
        return evaluate(model, data, estimator="stratified").bits_per_dim


@pytest.mark.parametrize(
    ("predicts", "schedule"),
    [
        *((p, "logsnr_linear") for p in ("categorical", "eps", "x0", "v")),
        *((p, "linear") for p in ("categorical", "eps")),
        *((p, "cosine") for p in ("x0", "v")),
    ],
)
def test_every_head_and_schedule_learns(tmp_path, predicts, schedule):
    """The bound of new codes falls well below that of the untrained network; the parts are the documented ones."""
    head = {"head": "categorical"} if predicts == "categorical" else {"head": "plain", "predicts": predicts}
    wanted = {"name": schedule, "T": 200} if schedule != "logsnr_linear" else {"name": schedule}
    settings = small(steps=100, batch_size=32, net={**head, "width": 32, "dropout": 0.0}, schedule=wanted, ema=0.5)
    examples, held_out = codes(200), codes(100, seed=3)
    model = train(examples, tmp_path, settings)
    decoder = NetworkCategorical if predicts == "categorical" else Categorical
    if schedule != "logsnr_linear":
        decoder = NetworkCategorical if predicts == "categorical" else DiscretizedGaussian
    assert type(model.decoder) is decoder and isinstance(model.schedule, Table) == (schedule != "logsnr_linear")
    assert model.steps == (8 if schedule == "logsnr_linear" else 200)
    assert model.domain.bins == BINS and model.domain.shape == (3, 3)
    before, after = bits(build_model(examples, check_config(settings)), held_out), bits(folder.load(tmp_path), held_out)
    assert after < before - 0.1, (before, after)


def test_simple_objective(tmp_path):
    settings = small(objective="simple", net={"head": "plain", "predicts": "eps"}, steps=60)
    train(codes(200), tmp_path, settings)
    log = log_of(tmp_path)
    assert set(log[0]) == {"step", "steps", "loss", "lr", "seconds"}
    assert log[0]["loss"] == pytest.approx(1.0, abs=0.4) and log[-1]["loss"] < 0.8 * log[0]["loss"]
    with pytest.raises(UsageError, match="is part of the network"):
        train(codes(), tmp_path / "other", small(objective="simple"))


def test_density_of_real_data(tmp_path):
    """On real data the bound is that of a density: above the truth's −log p on new draws, and not far above."""
    truth = GaussianData([0.3, -0.4], [[0.5, 0.4], [0.4, 0.5]])
    settings = small(
        steps=300,
        batch_size=64,
        levels=None,
        net={"head": "plain", "predicts": "eps", "width": 32, "dropout": 0.0},
        schedule={"logsnr_max": 8.0, "logsnr_min": -8.0},
        weight_decay=0.0,
        ema=0.9,
    )
    model = train(Examples(truth.sample(2000)), tmp_path, settings)
    assert isinstance(model.decoder, ContinuousGaussian) and not model.domain.discrete and model.steps is None
    new = truth.sample(4000)[2000:]
    bound = evaluate(model, new, per_example=True, estimator="stratified")
    assert bound.per_example is not None
    gap = bound.per_example.nats + truth.log_prob(new)
    error = float(gap.std()) / math.sqrt(len(gap))
    assert -4 * error < float(gap.mean()) < 0.5


def test_unet_in_the_loop(tmp_path):
    """A small U-Net trains on images with odd sides and with channels, is saved, and comes back the same."""
    for name, shape, net in (
        ("odd", (5, 7), {"patch": 1, "head": "categorical"}),
        ("channels", (2, 4, 6), {"head": "plain", "predicts": "v"}),
    ):
        settings = small(steps=3, batch_size=4)
        settings["net"] = {"name": "unet", "width": 8, "multipliers": [1, 2], **net}
        model = train(codes(12, shape), tmp_path / name, settings)
        back = folder.load(tmp_path / name)
        assert back.fingerprint() == model.fingerprint()
        assert bits(back, codes(3, shape, seed=4)) == bits(model, codes(3, shape, seed=4))


# ---------------------------------------------------------------- determinism


def test_seed_is_all_that_counts(tmp_path):
    """The same seed gives the same model whatever the global generator says, and leaves it as it was."""
    prints = []
    for k, seed in enumerate((0, 0, 1)):
        torch.manual_seed(100 + k)
        before = torch.random.get_rng_state()
        prints.append(train(codes(), tmp_path / str(k), small(seed=seed)).fingerprint())
        assert torch.equal(torch.random.get_rng_state(), before)
    assert prints[0] == prints[1] != prints[2]


def test_the_generator_is_left_alone_by_a_run_that_fails(tmp_path):
    def stop(record) -> None:
        raise KeyboardInterrupt

    before = torch.random.get_rng_state()
    with pytest.raises(Interrupted):
        train(codes(), tmp_path, small(), progress=stop)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_example_once_an_epoch(tmp_path, monkeypatch):
    """Batches walk through a fresh permutation an epoch, also where the batch size does not divide N."""
    from nelbo.training.criterion import Criterion

    seen: list[torch.Tensor] = []

    def spy(self, model, batch):
        seen.append(batch.target.clone())
        return forward(self, model, batch)

    forward = Criterion.forward
    monkeypatch.setattr(Criterion, "forward", spy)
    examples = codes(10)
    train(examples, tmp_path, small(batch_size=4, steps=5))
    rows = [[int((examples.data == e).flatten(1).all(1).nonzero()) for e in batch] for batch in seen]
    order = [r for batch in rows for r in batch]
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10)) and order[:10] != order[10:]


# ---------------------------------------------------------------- refusals and failures


def test_an_existing_model_is_not_overwritten(tmp_path):
    train(codes(), tmp_path, small())
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="already holds a model") as caught:
        train(codes(), tmp_path, small(seed=5))
    assert "--resume" in caught.value.hint
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("data", "settings", "error", "match"),
    [
        (Examples(torch.zeros(4, 3)), small(), UsageError, "categorical head .* real-valued"),
        (Examples(torch.zeros(4, 3)), small(bins=5), UsageError, "bins = 5"),
        (Examples(torch.full((4, 3), math.nan)), small(net={"head": "plain"}), DomainError, "NaN"),
        (Examples(torch.ones(4, 3, dtype=torch.int64)), small(), UsageError, "number of bins .* is not known"),
        (codes(), small(bins=3), DomainError, "codes from 0 to 4"),
        (codes(), small(net={"name": "mpl"}), UnknownNameError, "mpl"),
        (codes(), small(net={"wdth": 3}), UnknownNameError, "wdth"),
        (codes(), small(net={"width": "wide"}), UsageError, "wide"),
        (codes(), small(schedule={"logsnr_max": -7.0}), UsageError, "-7"),
        (codes(), {"net": {"name": "unet"}}, ShapeError, "patches of 2"),
        (codes(10, (9,)), {"net": {"name": "unet", "patch": 1}}, ShapeError, r"shape \(9,\)"),
    ],
)
def test_refusals(tmp_path, data, settings, error, match):
    out = tmp_path / "run"
    with pytest.raises(error, match=match):
        train(data, out, settings)
    assert not out.exists()


def test_a_loss_that_is_not_finite(tmp_path):
    """A learning rate beyond reason: an error with the step and the remedy, no model, the last checkpoint intact."""
    with pytest.raises(NumericalError, match=r"not finite at step \d+") as caught:
        train(codes(), tmp_path, small(lr=1e30, warmup=0, checkpoint_every=1, net={"head": "plain"}))
    assert "lr" in caught.value.hint
    assert not (tmp_path / "model.json").exists()
    files = sorted((tmp_path / "checkpoints").glob("*"))
    step = int(str(caught.value.message).rsplit(" ", 1)[1])
    assert step >= 2 and checkpoint(files[-1])["step"] == step - 1
    assert all(bool(torch.isfinite(v).all()) for v in checkpoint(files[-1])["net"].values())


def test_a_signal_waits_for_the_end_of_a_step(tmp_path):
    """SIGTERM in the middle of a step: the step is finished, saved, and the handlers are put back."""
    assert threading.current_thread() is threading.main_thread()
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]

    def kill(record) -> None:
        if record["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="after step 3 of 12"):
        train(codes(), tmp_path, small(), progress=kill)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    assert checkpoint(tmp_path / "checkpoints" / "step-00000003.pt")["step"] == 3
