"""Every verb on a device: the numbers of the CPU, and no tensor that was left behind there (see `standin.py`)."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.one_time import OneTime

import nelbo
from nelbo.bound.checks import NelboWarning
from nelbo.bound.estimators import Exhaustive, Stratified
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.likelihood import Dequantisation, dequantisation
from nelbo.tightening import covariance
from nelbo.tightening.families import Family
from nelbo.training import TrainConfig
from nelbo.training.build import build_model
from nelbo.training.trainer import Trainer
from nelbo.workers import Run
from tests import standin
from tests.folder_cases import CASES, data_for, make
from tests.standin import Elsewhere
from tests.training.cases import codes, small

SHAPE, BINS, CLASSES = (1, 4, 4), 8, 3
DATA = torch.randint(0, BINS, (40, *SHAPE), generator=torch.Generator().manual_seed(1))


class Net(torch.nn.Module):
    """A small convolution with classes and dropout."""

    def __init__(self, channels: int = 1):
        super().__init__()
        self.classes = torch.nn.Embedding(CLASSES, 4)
        self.inner = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.out = torch.nn.Conv2d(4, channels, 3, padding=1)
        self.dropout = torch.nn.Dropout(0.2)

    def forward(self, z, t, y=None):
        h = torch.tanh(self.inner(z) + t.to(z)[:, None, None, None] / 100)
        if y is not None:
            h = h + self.classes(y)[..., None, None]
        return self.out(self.dropout(h))


def table(variance: str = "beta_tilde") -> nelbo.DiffusionModel:
    """A model of DATA on a table of twelve levels."""
    torch.manual_seed(0)
    net, schedule = Net(2 if variance.startswith("learned") else 1), nelbo.schedules.linear(12, 1e-2, 0.4)
    return nelbo.from_callable(net, schedule=schedule, domain=nelbo.DataDomain(SHAPE, bins=BINS), variance=variance)


def law() -> nelbo.DiffusionModel:
    """A model of DATA on a continuous grid."""
    torch.manual_seed(0)
    return nelbo.from_callable(
        Net(),
        schedule=nelbo.schedules.logsnr_linear(6.0, -6.0),
        domain=nelbo.DataDomain(SHAPE, bins=BINS),
        predicts="v",
        time="logsnr",
        grid=nelbo.grids.continuous(),
    )


def alike(verb: Callable[..., Any], *args: Any, **options: Any) -> None:
    """The verb says on the device what it says on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NelboWarning)
        torch.manual_seed(0)
        expected = verb(*args, device="cpu", **options)
        torch.manual_seed(0)
        with standin.present() as there:
            found = verb(*args, device=there, **options)
    same(found, expected)


def same(found: Any, expected: Any) -> None:
    """Equal to the last bit, and on the CPU; how long it took may differ."""
    if isinstance(expected, torch.Tensor):
        assert type(found) in (torch.Tensor, torch.nn.Parameter)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected)
    elif dataclasses.is_dataclass(expected):
        same(vars(found), vars(expected))
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected.keys() - {"seconds"}:
            same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            same(*pair)
    else:
        assert found == expected or (math.isnan(found) and math.isnan(expected))


# ------------------------------------------------------------------------------------------------- the stand-in itself


@pytest.fixture
def device() -> Iterator[torch.device]:
    with standin.present() as there:
        yield there


def test_what_a_gpu_refuses_is_refused(device):
    there, here = torch.tensor([1.0, 2.0], device=device), torch.ones(2)
    for mixed in (
        lambda: there + here,
        lambda: here * there,
        lambda: torch.cat([there, here]),
        lambda: torch.stack([there[0], here[0]]),
        lambda: here[there.long()],
        lambda: torch.zeros(()).add_(there[0]),
        lambda: torch.add(there, there, out=torch.zeros(2)),
        lambda: torch.searchsorted(there, here[0]),
        lambda: here.index_put_((torch.tensor([0, 1]),), there),
        lambda: torch.nn.functional.linear(there, here),
        lambda: torch._foreach_add([there], [here]),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    for reader in (there.numpy, lambda: np.asarray(there), there.data_ptr):
        with pytest.raises((TypeError, RuntimeError), match=r"numpy|memory"):
            reader()
    assert isinstance(there + here[0], Elsewhere) and isinstance(there[torch.tensor([1])], Elsewhere)
    here[:1] = there[1:]
    assert here.tolist() == [2.0, 1.0] and there.tolist() == [1.0, 2.0] and float(there.sum()) == 3.0


def test_gradients_and_fused_optimisers_work(device):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    (x.to(device).square() * torch.tensor([3.0, 4.0], device=device)).sum().cpu().backward()
    assert x.grad is not None and x.grad.tolist() == [6.0, 16.0]
    here, there = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).to(device)
    there.load_state_dict(here.state_dict())
    for layer in (here, there):
        optimizer = torch.optim.AdamW(layer.parameters(), 0.1, fused=True)
        layer(torch.ones(3, 2).to(layer.weight.device)).square().sum().backward()
        optimizer.step()
    assert isinstance(there.weight.detach(), Elsewhere)
    same(there.weight.detach().cpu(), here.weight.detach())


def test_a_tensor_that_stays_on_the_cpu_is_noticed(device):
    schedule, domain = nelbo.schedules.linear(3, 0.1, 0.999), nelbo.DataDomain(SHAPE, bins=BINS)
    model = nelbo.from_callable(lambda z, t: z * torch.ones(SHAPE), schedule=schedule, domain=domain)
    nelbo.evaluate(model, DATA[:4], estimator=Exhaustive(2))
    with pytest.raises(nelbo.NelboError, match="same device"):
        nelbo.evaluate(model, DATA[:4], estimator=Exhaustive(2), device=device)


# ----------------------------------------------------------------------------------------------------------- the verbs


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_part(name):
    model = make(name)
    alike(nelbo.evaluate, model, data_for(model), estimator=Stratified(2, 2), per_example=True)
    if name not in ("mixture ends", "code mixture"):  # their priors score, and do not sample
        alike(nelbo.sample, model, 2, steps=4 if model.grid.continuous else None)


ESTIMATORS = {
    "exhaustive": Exhaustive(2),
    "paired": Exhaustive(1, paired=8),
    "stratified": Stratified(3, 2),
    **{kind: OneTime(kind, passes=2) for kind in ("uniform", "low_discrepancy", "importance")},
    "pooled": Adaptive(design="pooled", tolerance=0.5, max_nfe=1500),
    "per_example": Adaptive(design="per_example", tolerance=0.5, max_nfe=800),
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimators(estimator):
    alike(nelbo.evaluate, table(), DATA, estimator=ESTIMATORS[estimator])


EVALUATED = {
    "float64": {"precision": "float64"},
    "bf16": {"precision": "bf16"},
    "condition": {"condition": {"y": torch.arange(40) % CLASSES}, "per_example": True},
    "grid": {"grid": nelbo.grids.even(4)},
    "batches": {"seed": 3, "batch_size": 16},
}


@pytest.mark.parametrize("name", EVALUATED)
def test_evaluate(name):
    alike(nelbo.evaluate, table("learned_range"), DATA, tolerance=0.5, max_nfe=800, **EVALUATED[name])


@pytest.mark.parametrize("estimator", [Stratified(2, 2), Adaptive(tolerance=0.5, max_nfe=800)])
def test_continuous_grids(estimator):
    alike(nelbo.evaluate, law(), DATA, estimator=estimator)


def test_compare():
    alike(nelbo.compare, table(), table("beta"), DATA, tolerance=0.5, max_nfe=1200)


def test_contrast():
    alike(nelbo.contrast, law(), DATA[:6], "y", [0, 1, 2], confidence=0.9, indifference=20.0, max_nfe=2000)


SOLVED = {
    "heun": {"solver": "heun", "exact_trace": True},
    "rk4": {"solver": "rk4", "probes": 2},
    "importance": {"importance": 2},
    "tolerance": {"tolerance": 1e-4, "max_steps": 4, "precision": "float64"},
    **{d.value: {"dequantisation": d.value} for d in Dequantisation if d is not Dequantisation.NONE},
}


@pytest.mark.parametrize("name", SOLVED)
def test_ode_likelihood(name, monkeypatch):
    monkeypatch.setattr(dequantisation, "STEPS", 2)
    model = make("continuous")
    alike(nelbo.ode_likelihood, model, data_for(model), steps=2, **SOLVED[name])


@pytest.mark.parametrize("name", ["exact ends", "mixture ends", "code mixture"])
def test_ode_likelihood_to_exact_priors(name):
    model = make(name)
    kind = "uniform" if model.domain.discrete else "none"
    alike(nelbo.ode_likelihood, model, data_for(model), steps=2, dequantisation=kind)


def test_ode_likelihood_under_a_condition():
    alike(nelbo.ode_likelihood, law(), DATA[:3], steps=2, probes=1, condition={"y": torch.arange(3)})


@pytest.mark.parametrize("name", ["eps, index time", "continuous"])
def test_tighten(name):
    data = torch.randint(0, 4, (32, 2), generator=torch.Generator().manual_seed(2))

    def tightened(device) -> Any:
        model, certificate = nelbo.tighten(make(name), data, steps=4, device=device)
        return certificate.to_dict(), vars(model.reverse), vars(model.decoder)

    alike(tightened)


def test_covariances():
    model = dataclasses.replace(table("learned_range"), domain=nelbo.DataDomain((1, 8, 8), bins=BINS))
    images, families = DATA.repeat(1, 1, 2, 2), [family.value for family in Family]
    alike(lambda device: covariance.measure(model, images, families=families, nodes=5, run=Run(device)))


@pytest.mark.parametrize("sampler", nelbo.samplers.NAMED)
def test_sample(sampler):
    alike(nelbo.sample, law(), 3, sampler=sampler, steps=4)
    alike(nelbo.sample, law(), 3, sampler=sampler, steps=4, codes=False, trajectory=True)


def test_guidance_and_encode():
    guided = {
        "guidance": 2.0,
        "null_condition": {"y": torch.tensor(0)},
        "condition": {"y": torch.arange(3)},
        "steps": 3,
    }
    alike(nelbo.sample, law(), 3, **guided)
    alike(nelbo.samplers.encode, law(), DATA[:3], sampler="heun", **guided)


TRAINED = {
    "bound": {},
    "learned decoder": {"net": {"head": "plain"}, "decoder": "mixture", "objective": {"name": "sigmoid"}},
    "simple": {"net": {"head": "plain"}, "objective": {"name": "min_snr", "t": "uniform"}},
    "learned variance": {
        "net": {"head": "plain"},
        "variance": "learned_range",
        "objective": {"name": "hybrid"},
        "schedule": {"name": "linear", "T": 20},
    },
    "learned schedule": {"schedule": {"name": "learned"}},
    "importance": {"objective": {"t": "importance"}},
    "muon": {"optimizer": "muon", "net": {"blocks": 2}},
    "parts": {"accumulate": 2, "augment": ("horizontal_flip",)},
}


@pytest.mark.parametrize("name", TRAINED)
def test_steps_of_training(name):
    def trained(device) -> Any:
        settings, examples = TrainConfig(**small(log_every=1, **TRAINED[name])), codes()
        trainer = Trainer.alone(build_model(examples, settings), examples, settings, device)
        records = [trainer.advance() for _ in range(3)]
        return records, [p.detach().cpu() for p in trainer.ema.module.parameters()]

    alike(trained)


def test_train_validates_and_resumes(tmp_path):
    def trained(device) -> Any:
        out = tmp_path / str(device)
        config = small(validation={"examples": 10, "every": 12, "max_nfe": 600})
        nelbo.train(codes(), out=out, config=config, device=device)
        (out / "checkpoints" / "step-00000012.pt").unlink()  # so that four steps are left
        model = nelbo.train(codes(), out=out, config=config, device=device, resume=True)
        assert nelbo.load(out).fingerprint() == model.fingerprint()
        return list(model.denoiser.parameters())

    alike(trained)


def test_a_model_that_lives_on_the_device_is_saved_and_compressed(tmp_path):
    """An archive's bits are made on the CPU, on every machine alike; compress therefore takes no device."""

    def archived(device) -> Any:
        model = make("as it is").in_precision(torch.float32, device)
        nelbo.codec.compress(model, data_for(model), tmp_path / "a.nelbo", few=True)
        return model.fingerprint(), (tmp_path / "a.nelbo").read_bytes()

    alike(archived)
    with pytest.raises(TypeError, match="device"):
        alike(nelbo.codec.compress, make("as it is"), data_for(make("as it is")), tmp_path / "a.nelbo")
