"""A monitor in scripts of accelerate: shared by two processes, with averaged weights, and no trace of it in the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nelbo
from tests.monitoring.test_monitor import X, model_of, seeded
from tests.runtime.cases import TWO, environment

ROOT = Path(__file__).parents[2]
SCRIPT = """
import hashlib, sys
import torch
from accelerate import Accelerator
import nelbo
from tests.monitoring.test_monitor import DOMAIN, X, model_of
from tests.monitoring.test_scripts import without_statistics

monitored, folder = sys.argv[1] == "monitored", sys.argv[2]
accelerator = Accelerator()
net = without_statistics()
average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
if monitored:
    workers = nelbo.runtime.workers(signals=False)
    monitor = nelbo.Monitor(lambda: model_of(average), X, budget=64, batch_size=8, workers=workers,
                            out=folder + "/readings.jsonl")
torch.manual_seed(accelerator.process_index)
optimiser = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
clean = torch.utils.data.TensorDataset(DOMAIN.values(X).float())
loader = torch.utils.data.DataLoader(clean, batch_size=8, shuffle=True)
network, optimiser, loader = accelerator.prepare(net, optimiser, loader)
step = 0
for epoch in range(2):
    for (z,) in loader:
        eps = torch.randn_like(z)
        accelerator.backward(torch.nn.functional.mse_loss(network(z + eps, torch.randint(0, 40, (len(z),))), eps))
        optimiser.step()
        optimiser.zero_grad()
        average.update_parameters(net)
        step += 1
        if monitored and step % 4 == 0:
            monitor.update(step)
state = {**net.state_dict(), "random": torch.get_rng_state()}
digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in state.values())).hexdigest()
readings = [reading.value for reading in monitor.readings] if monitored else []
name = folder + "/" + sys.argv[1] + str(accelerator.process_index)
torch.save({"digest": digest, "readings": readings, "average": average.module.state_dict()}, name)
accelerator.end_training()
"""


def without_statistics() -> torch.nn.Module:
    """The network with dropout of the other tests; running statistics would differ between the processes."""
    net = seeded()
    net.layers[1] = torch.nn.LayerNorm(24)
    return net


def run(folder: Path, *command: str | Path) -> str:
    ran = subprocess.run(
        [sys.executable, *TWO, *map(str, command)], cwd=folder, capture_output=True, text=True, timeout=300,
        env={**environment(), "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


@pytest.mark.slow
def test_two_processes_of_accelerate(tmp_path):
    """Both ranks get the same readings, each of half of the work; the last is that of one process with these weights;
    weights and random states of either rank are, bit for bit, those of the run without a monitor."""
    pytest.importorskip("accelerate")
    (tmp_path / "script.py").write_text(SCRIPT)
    for name in ("monitored", "plain"):
        run(tmp_path, "script.py", name, tmp_path)
    ends = {path.name: torch.load(path) for path in tmp_path.iterdir() if path.name[-1] in "01"}
    for rank in "01":
        assert ends["monitored" + rank]["digest"] == ends["plain" + rank]["digest"]
    assert ends["monitored0"]["digest"] != ends["monitored1"]["digest"]  # of the random states, which are their own
    one, other = (ends["monitored" + rank]["readings"] for rank in "01")
    assert one == other and len(set(one)) == 2
    lines = [json.loads(line) for line in (tmp_path / "readings.jsonl").read_text().splitlines()]
    assert [line["value"] for line in lines] == one and [line["step"] for line in lines] == [4, 8]
    net = without_statistics()
    net.load_state_dict(ends["monitored0"]["average"])
    assert nelbo.Monitor(model_of(net), X, budget=64).update(8).value == pytest.approx(one[-1], abs=1e-6)


@pytest.mark.slow
def test_the_script_of_diffusers(tmp_path):
    """The example as it stands, on two processes: its curve falls, and it is told once."""
    pytest.importorskip("diffusers")
    example = ROOT / "examples" / "diffusers_script.py"
    said = run(tmp_path, example, "--steps", "40", "--every", "20", "--out", "curve.jsonl")
    readings = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [reading["step"] for reading in readings] == [20, 40] and said.count("step 40: ") == 1
    assert readings[1]["change"] < -5 * readings[1]["change_error"]
