"""The monitor in Lightning's loop and the bound as a metric of torchmetrics, with the real packages."""

from __future__ import annotations

import sys

import pytest
import torch

import nelbo
from nelbo.errors import UsageError
from nelbo.monitoring import lightning_callback, torchmetrics_metric
from tests.monitoring.test_monitor import X, model_of, seeded

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


@pytest.mark.parametrize(("name", "make"), [("lightning", lightning_callback), ("torchmetrics", torchmetrics_metric)])
def test_a_package_that_is_missing(name, make, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=f"this needs {name}, which is not installed\nhint: pip install 'nelbo"):
        make(None)
