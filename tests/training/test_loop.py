"""The loop: what it logs and saves, that every model learns, what it refuses, and what it leaves alone."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import warnings

import pytest
import torch

from nelbo import evaluate, runtime
from nelbo.bound.checks import NelboWarning
from nelbo.errors import DomainError, Interrupted, NumericalError, ShapeError, UnknownNameError, UsageError
from nelbo.model import folder
from nelbo.model.decoder import Categorical, DiscretizedGaussian, NetworkCategorical
from nelbo.model.examples import Examples
from nelbo.process.schedule import TRAINABLE, Table
from nelbo.training import TrainConfig, checkpoint, read_config, train
from nelbo.training.build import build_model
from nelbo.training.optimizer import learning_rate_factor
from nelbo.training.settings import check_config
from tests.training.cases import BINS, codes, log_of, small

PLAIN_UNET = {"name": "unet", "width": 8, "multipliers": [1], "patch": 1, "head": "plain"}


# ---------------------------------------------------------------- what a run leaves behind


def test_log_and_progress(tmp_path):
    records: list[dict] = []
    train(codes(), tmp_path, small(), progress=records.append)
    assert [r["step"] for r in records] == list(range(1, 13)) and all(r["steps"] == 12 for r in records)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {r.pop("unit") for r in records} == {"bits/dim"}
    assert log == [r for r in records if "loss" in r]
    assert [r["step"] for r in log] == [1, 5, 10, 12]
    for record in log:
        assert record["loss"] == pytest.approx(record["diffusion"] + record["reconstruction"] + record["prior"])
        assert all(math.isfinite(record[k]) and record[k] > 0 for k in ("diffusion", "reconstruction", "prior"))
        assert record["lr"] == pytest.approx(0.01 * learning_rate_factor(record["step"] - 1, 12, 2))
    assert [r["seconds"] for r in log] == sorted(r["seconds"] for r in log)


def test_the_average_is_what_is_saved(tmp_path):
    """The saved weights are the running average of every step's weights, recomputed here; not the last ones."""
    nets: dict[int, dict[str, torch.Tensor]] = {}

    def read(record=None) -> None:  # the checkpoint of a step is written after its progress call: this reads the others
        for path in (tmp_path / "checkpoints").glob("step-*.pt"):
            state = checkpoint.read(path)
            nets[state["step"]] = state["net"]

    saved = train(codes(), tmp_path, small(checkpoint_every=1, ema=0.8, steps=50), progress=read)
    read()
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


def test_files(tmp_path):
    """The two newest checkpoints, and the resolved configuration, which makes the same model again."""
    model = train(codes(), tmp_path / "a", small(checkpoint_every=3, ema=0.0, lr=0.02))
    assert sorted(p.name for p in (tmp_path / "a" / "checkpoints").iterdir()) == [
        "step-00000009.pt", "step-00000012.pt",
    ]  # fmt: skip
    files = {"checkpoints", "config.json", "log.jsonl", "model.json", "model.safetensors"}
    assert {p.name for p in (tmp_path / "a").iterdir()} == files
    last = checkpoint.read(tmp_path / "a" / "checkpoints" / "step-00000012.pt")["net"]
    assert all(torch.equal(v, last[k]) for k, v in model.denoiser.state_dict().items())  # ema = 0: no average
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["lr"] == 0.02 and config["batch_size"] == 16 and config == model.provenance["config"]
    again = train(codes(), tmp_path / "b", read_config(tmp_path / "a" / "config.json"))
    assert again.fingerprint() == model.fingerprint()


def test_provenance(tmp_path):
    examples = codes()
    train(examples, tmp_path, TrainConfig.model_validate(small(seed=7)))
    model = folder.load(tmp_path)
    assert model.provenance["config"] == check_config(small(seed=7)).model_dump(mode="json")
    assert model.provenance["data"] == {"name": "codes 1", "fingerprint": examples.fingerprint, "examples": 40}
    assert model.trained_on is not None and torch.equal(model.trained_on, examples.hashes)


# ---------------------------------------------------------------- it learns, with every head and schedule


def bits(model, data) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NelboWarning)
        return evaluate(model, data, estimator="stratified").bits_per_dim


@pytest.mark.parametrize(
    ("predicts", "schedule"),
    [
        ("categorical", "logsnr_linear"),
        ("categorical", "linear"),
        ("eps", "linear"),
        ("x0", "cosine"),
        ("v", "learned"),
    ],
)
def test_every_head_and_schedule_learns(tmp_path, predicts, schedule):
    """The bound of new codes falls well below that of the untrained network; the parts are the documented ones."""
    table = schedule in ("linear", "cosine")
    head = {"head": "categorical"} if predicts == "categorical" else {"head": "plain", "predicts": predicts}
    chosen = {"name": schedule, "T": 200} if table else {"name": schedule}
    settings = small(steps=60, batch_size=32, net={**head, "width": 32, "dropout": 0.0}, schedule=chosen, ema=0.5)
    examples, held_out = codes(200), codes(100, seed=3)
    model = train(examples, tmp_path, settings)
    decoder = NetworkCategorical if predicts == "categorical" else DiscretizedGaussian if table else Categorical
    assert type(model.decoder) is decoder and isinstance(model.schedule, Table) == table
    assert model.steps == (200 if table else 8)
    assert model.domain.bins == BINS and model.domain.shape == (3, 3)
    before, after = bits(build_model(examples, check_config(settings)), held_out), bits(folder.load(tmp_path), held_out)
    assert after < before - 0.1, (before, after)


def test_every_schedule_is_tried():
    (marks,) = (m for m in test_every_head_and_schedule_learns.pytestmark if m.name == "parametrize")
    assert {schedule for _, schedule in marks.args[1]} == set(TRAINABLE)


def test_simple_objective(tmp_path):
    settings = small(objective="simple", net={"head": "plain", "predicts": "eps"}, steps=60)
    train(codes(200), tmp_path, settings)
    log = log_of(tmp_path)
    assert set(log[0]) == {"step", "steps", "loss", "lr"}
    assert log[0]["loss"] == pytest.approx(1.0, abs=0.4) and log[-1]["loss"] < 0.8 * log[0]["loss"]


# ---------------------------------------------------------------- how a step is computed


def losses(out) -> list[list[float]]:
    return [[v for k, v in r.items() if k not in ("step", "steps", "lr")] for r in log_of(out)]


@pytest.mark.parametrize(
    ("data", "settings", "change", "rel"),
    [
        (codes(), small(log_every=1, net={"dropout": 0.0}, batch_size=18), {"accumulate": 4}, 1e-4),
        (codes(12, (2, 4, 6)), {**small(steps=6, batch_size=4), "net": PLAIN_UNET}, {"channels_last": True}, 1e-3),
        # one shape to compile for
        pytest.param(
            codes(), small(net={"dropout": 0.0}, reconstruction_share=1.0), {"compile": True}, 1e-3,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["micro-batches", "channels_last", "compile"],
)  # fmt: skip
def test_the_same_losses_to_rounding(tmp_path, data, settings, change, rel):
    if "compile" in change:
        pytest.importorskip("torch._inductor")
    train(data, tmp_path / "plain", settings)
    try:
        model = train(data, tmp_path / "changed", {**settings, **change})
    except Exception as error:
        if "compile" in change and any(word in str(error).lower() for word in ("compiler", "gcc", "g++")):
            pytest.skip(f"no compiler: {error}")
        raise
    for a, b in zip(losses(tmp_path / "plain"), losses(tmp_path / "changed"), strict=True):
        assert b == pytest.approx(a, rel=rel)
    assert folder.load(tmp_path / "changed").fingerprint() == model.fingerprint()
    assert all(m._compiled_call_impl is None for m in model.denoiser.modules())


def test_bf16(tmp_path):
    """The network computes in bf16 and learns as it does in float32; weights and average stay float32."""
    dtypes: set[torch.dtype] = set()
    settings = small(steps=60, net={"dropout": 0.0}, log_every=60)
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, _, out: dtypes.add(out.dtype) if isinstance(module, torch.nn.Linear) else None
    )
    try:
        model = train(codes(200), tmp_path / "bf16", {**settings, "precision": "bf16"})
    finally:
        handle.remove()
    assert dtypes == {torch.bfloat16}
    train(codes(200), tmp_path / "float32", settings)
    assert {v.dtype for v in model.denoiser.state_dict().values()} == {torch.float32}
    first, last = log_of(tmp_path / "bf16")
    assert last["loss"] < first["loss"] - 0.1
    assert last["loss"] == pytest.approx(log_of(tmp_path / "float32")[1]["loss"], abs=0.03)


def test_the_seed_decides(tmp_path):
    """The same seed gives the same model whatever the global generator is, and leaves it as it was, also on failure."""
    prints = []
    for k, seed in enumerate((0, 0, 1)):
        torch.manual_seed(100 + k)
        before = torch.random.get_rng_state()
        prints.append(train(codes(), tmp_path / str(k), small(seed=seed)).fingerprint())
        assert torch.equal(torch.random.get_rng_state(), before)
    assert prints[0] == prints[1] != prints[2]

    def stop(record) -> None:
        raise KeyboardInterrupt

    before = torch.random.get_rng_state()
    with pytest.raises(Interrupted):
        train(codes(), tmp_path / "stopped", small(), progress=stop)
    assert torch.equal(torch.random.get_rng_state(), before)


# ---------------------------------------------------------------- refusals and failures


def test_an_existing_model_is_not_overwritten(tmp_path):
    train(codes(), tmp_path, small())
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="already holds a model") as caught:
        train(codes(), tmp_path, small(seed=5))
    assert "resume=True" in caught.value.hint
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("data", "settings", "error", "match"),
    [
        (Examples(torch.zeros(4, 3)), small(net={"head": "mixture"}), UsageError, "mixture head .* real-valued"),
        (Examples(torch.zeros(4, 3)), small(bins=5), UsageError, "bins = 5"),
        (Examples(torch.full((4, 3), math.nan)), small(net={"head": "plain"}), DomainError, "NaN"),
        (Examples(torch.ones(4, 3, dtype=torch.int64)), small(), UsageError, "number of bins .* is not known"),
        (codes(), small(bins=3), DomainError, "codes from 0 to 4"),
        (codes(), small(objective="simple"), UsageError, "is part of the network"),
        (codes(), small(net={"name": "mpl"}), UnknownNameError, "mpl"),
        (codes(), small(net={"wdth": 3}), UnknownNameError, "wdth"),
        (codes(), small(net={"width": "wide"}), UsageError, "wide"),
        (codes(), small(schedule={"logsnr_max": -7.0}), UsageError, "-7"),
        (codes(), small(condition="y"), UsageError, "has none"),
        (codes(), small(condition="not a name"), UsageError, "not a name"),
        (codes(), small(standardise=True), UsageError, "integer codes"),
        (
            Examples(torch.tensor([[1.0, 2.0], [3.0, 2.0]])), small(net={"head": "plain"}, standardise=True),
            UsageError, "column 1 .* not vary",
        ),
        (codes(shape=(9,)), small(augment=["horizontal_flip"]), UsageError, "for images"),
        (codes(), {"net": {"name": "unet"}}, ShapeError, "patches of 2"),
        (codes(10, (9,)), {"net": {"name": "unet", "patch": 1}}, ShapeError, r"shape \(9,\)"),
    ],
)  # fmt: skip
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
    step = int(str(caught.value.message).rsplit(" ", 1)[1])
    state, unreadable = checkpoint.newest(tmp_path / "checkpoints")
    assert step >= 2 and state is not None and state["step"] == step - 1 and not unreadable
    assert all(bool(torch.isfinite(v).all()) for v in state["net"].values())


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
    assert checkpoint.read(tmp_path / "checkpoints" / "step-00000003.pt")["step"] == 3


# ---------------------------------------------------------------- trackers


class Recorded:
    """A tracker that keeps its calls."""

    requires_logging_directory = True
    made: list[Recorded] = []  # noqa: RUF012

    def __init__(self, run_name, logging_dir):
        self.run_name, self.logging_dir, self.values, self.config, self.done = run_name, logging_dir, {}, {}, False
        self.made.append(self)

    def store_init_configuration(self, values):
        assert all(isinstance(v, (bool, int, float, str)) for v in values.values())
        self.config = values

    def log(self, values, step):
        self.values.setdefault(step, {}).update(values)

    def finish(self):
        self.done = True


def test_trackers(tmp_path, monkeypatch):
    tracking = pytest.importorskip("accelerate.tracking")
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "recorded", Recorded)
    validation = {"every": 4, "examples": 10, "max_nfe": 600}
    train(codes(), tmp_path / "run", small(tracker="recorded", validation=validation))
    (tracker,) = Recorded.made
    assert (tracker.run_name, tracker.done, tracker.config["net.settings.width"]) == ("run", True, 16)
    for record in log_of(tmp_path / "run"):
        kept = {k: v for k, v in record.items() if k not in ("step", "steps")}
        assert kept.items() <= tracker.values[record["step"]].items()
    with pytest.raises(UnknownNameError, match="tensorbord") as caught:
        train(codes(), tmp_path / "other", small(tracker="tensorbord"))
    assert "'tensorboard'" in caught.value.hint
    for name in ("tensorboard", "torch.utils.tensorboard", "tensorboardX"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match="'tensorboard' needs a package") as caught:
        runtime.tracker("tensorboard", tmp_path, {})
    assert "log.jsonl" in caught.value.hint
