"""The monitor in the loops of Lightning and transformers, the bound as a metric of torchmetrics: the real packages."""

from __future__ import annotations

import sys

import pytest
import torch

import nelbo
from nelbo.errors import UsageError
from nelbo.monitoring import lightning_callback, torchmetrics_metric, transformers_callback
from tests.monitoring.test_monitor import X, model_of, seeded
from tests.monitoring.test_scripts import without_statistics

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs


@pytest.mark.slow
def test_a_callback_of_lightning(tmp_path):
    """It reads at its steps, logs by name, stops the trainer, and its state is in the checkpoint."""
    lightning = pytest.importorskip("lightning")
    net = seeded()
    model = model_of(net)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net

        def training_step(self, batch, _):
            return nelbo.bound_loss(model, batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), 0.0)  # nothing changes, so that patience runs out

    seen = []

    class Log(lightning.pytorch.loggers.logger.DummyLogger):
        def log_metrics(self, metrics, step=None):
            seen.append((step, metrics))

    monitor = nelbo.Monitor(model, X, budget=64, patience=2)
    trainer = lightning.Trainer(
        max_steps=100, callbacks=[lightning_callback(monitor, every=3)], logger=Log(), accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), batch_size=16))
    steps = [reading.step for reading in monitor.readings]
    assert steps == [3, 6, 9] and trainer.global_step <= 12
    named = [(step, m) for step, m in seen if "nelbo/bits_per_dim" in m]
    assert [step for step, _ in named] == steps and named[0][1]["nelbo/bits_per_dim"] == monitor.readings[0].value
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=False)["callbacks"]["nelbo.Monitor"]
    other = nelbo.Monitor(model, X, budget=64, patience=2)
    lightning_callback(other).load_state_dict(state)
    assert [r.value for r in other.readings] == [r.value for r in monitor.readings]


@pytest.mark.slow
def test_a_callback_of_transformers(tmp_path):
    """It reads at its steps, logs by name, stops the trainer, and a resumed trainer goes on with its state."""
    transformers = pytest.importorskip("transformers")
    net = without_statistics()
    model = model_of(net)

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return {"loss": nelbo.bound_loss(model, x)}

    def trainer(patience, steps):
        monitor = nelbo.Monitor(model, X, budget=64, patience=patience)
        callback = transformers_callback(monitor, every=2)
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), max_steps=steps, per_device_train_batch_size=16, learning_rate=0.0, save_steps=4,
            report_to="none", use_cpu=True, disable_tqdm=True, remove_unused_columns=False, label_names=[],
            restore_callback_states_from_checkpoint=True,
        )  # fmt: skip
        made = transformers.Trainer(Module(), arguments, train_dataset=[{"x": x} for x in X], callbacks=[callback])
        callback.log = made.log
        return made, monitor

    first, whole = trainer(None, 4)
    first.train()
    assert [reading.step for reading in whole.readings] == [2, 4]
    logged = [entry for entry in first.state.log_history if "nelbo/bits_per_dim" in entry]
    assert [(e["step"], e["nelbo/bits_per_dim"]) for e in logged] == [(r.step, r.value) for r in whole.readings]
    second, monitor = trainer(2, 100)  # nothing changes: patience runs out
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert [reading.step for reading in monitor.readings] == [2, 4, 6] and second.state.global_step == 6
    assert monitor.readings[:2] == whole.readings
    assert monitor.readings[2].change == 0.0
    assert any("nelbo/change" in entry and entry["step"] == 6 for entry in second.state.log_history)


def test_a_metric_of_torchmetrics():
    """The mean over epochs of other seeds is the bound; an epoch of one seed is always the same; modes are kept."""
    pytest.importorskip("torchmetrics")
    net = seeded().train()
    model = model_of(net)
    truth = nelbo.evaluate(model, X, estimator="exhaustive")
    values = []
    for seed in range(24):
        metric = torchmetrics_metric(model, seed=seed)
        for _ in range(2 if seed == 0 else 1):
            metric.reset()
            for batch in X.split(24):
                metric.update(batch)
            values.append(float(metric.compute()))
    assert values[0] == values[1] and net.training
    values = torch.tensor(values[1:], dtype=torch.float64)
    spread = float(values.std()) / len(values) ** 0.5 + truth.standard_error.estimator
    assert abs(float(values.mean()) - truth.bits_per_dim) < 4 * spread


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("lightning", lightning_callback),
        ("transformers", transformers_callback),
        ("torchmetrics", torchmetrics_metric),
    ],
)
def test_a_package_that_is_missing(name, make, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=f"this needs {name}, which is not installed\nhint: pip install 'nelbo"):
        make(None)
