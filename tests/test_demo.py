"""The demo's number, recomputed from its files by a short loop that knows nothing of nelbo.

Read are model.json and model.safetensors, nothing else; the network is written out layer by layer in numpy, the
levels are a straight line in log-SNR, and the terms are those of Kingma et al. 2021 with a categorical posterior
p(k | z) ∝ exp(logits_k) N(z; α x_k, σ²):

    α² = sigmoid(λ),  prior ½ Σ (σ² + α² x² − 1 − ln σ²),  a step ½ (SNR_s − SNR_t) ‖x − x̂(z_t)‖²,  −log p(x | z_1).
"""

from __future__ import annotations

import json
import math
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load_file

import nelbo
from nelbo.bound.estimators import Exhaustive

sklearn_datasets = pytest.importorskip("sklearn.datasets")
from sklearn.model_selection import train_test_split  # noqa: E402

TERMS = ("prior", "diffusion", "reconstruction")


def test_images() -> np.ndarray:
    """The 360 test images by the documented split, codes 0..16, (360, 64)."""
    X, y = sklearn_datasets.load_digits(return_X_y=True)
    _, X_test = train_test_split(X, test_size=360, random_state=0, stratify=y)
    return X_test.astype(np.int64)


test_images.__test__ = False


class Network:
    """The residual MLP with the low-rank logit head, from its tensors by name."""

    def __init__(self, w: dict[str, np.ndarray], logsnr_max: float, logsnr_min: float):
        self.w = {k.removeprefix("net."): v.astype(np.float64) for k, v in w.items()}
        self.ends = logsnr_max, logsnr_min
        self.blocks = 1 + max(int(k.split(".")[1]) for k in self.w if k.startswith("blocks."))

    def linear(self, name: str, h: np.ndarray) -> np.ndarray:
        return h @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, name: str, h: np.ndarray) -> np.ndarray:
        centred = h - h.mean(-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return centred / spread * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def logits(self, z: np.ndarray, logsnr: float) -> np.ndarray:
        u = (logsnr - self.ends[1]) / (self.ends[0] - self.ends[1])
        angle = u * np.linspace(0.5, 8, 8)
        e = silu(self.linear("embedding.layers.0", np.concatenate([np.sin(angle), np.cos(angle)])[None]))
        e = silu(self.linear("embedding.layers.2", e))
        h = self.linear("inner", z)
        for b in range(self.blocks):
            inner = self.linear(f"blocks.{b}.first", silu(self.norm(f"blocks.{b}.norm", h)))
            h = h + self.linear(f"blocks.{b}.second", silu(inner + self.linear(f"blocks.{b}.condition", e)))
        basis = self.w["head.basis"]
        a = self.linear("head.out", self.norm("norm", h)).reshape(len(z), -1, len(basis))
        return a @ basis + self.w["head.bias"].reshape(-1, basis.shape[1])


def silu(h: np.ndarray) -> np.ndarray:
    return h / (1 + np.exp(-h))


class Recomputed(NamedTuple):
    """Each term and the whole in bits/dim, with the standard error of this recomputation's own noise."""

    terms: dict[str, float]
    errors: dict[str, float]
    total: float
    error: float


def recompute(folder: Path, codes: np.ndarray, draws: int = 2, seed: int = 1) -> Recomputed:
    """The bound of the model in `folder` on `codes` (N, D), with noise of its own."""
    told = json.loads((folder / "model.json").read_text())
    assert told["schedule"]["kind"] == "logsnr_linear" and told["schedule"]["path_name"] == "vp"
    assert told["decoder"]["kind"] == "network_categorical" and told["denoiser"]["kind"] == "categorical"
    assert told["reverse"] == {"kind": "gaussian", "variance": {"kind": "beta_tilde"}, "clip": None}
    assert told["grid"]["kind"] == "even" and told["prior"] == {"kind": "gaussian", "mean": 0.0, "variance": 1.0}
    high, low = told["schedule"]["logsnr_max"], told["schedule"]["logsnr_min"]
    net = Network(load_file(folder / "model.safetensors"), high, low)
    bins = told["domain"]["bins"]
    lattice = np.linspace(-1, 1, bins)
    x = lattice[codes]
    logsnr = np.linspace(high, low, told["grid"]["steps"])  # T evaluations: T − 1 steps and the decoder
    rng = np.random.default_rng(seed)

    def posterior(level: float) -> np.ndarray:
        """log p̂(k | z) at a fresh z of every example, (N, D, K)."""
        alpha, sigma = math.sqrt(1 / (1 + math.exp(-level))), math.sqrt(1 / (1 + math.exp(level)))
        z = alpha * x + sigma * rng.normal(size=x.shape)
        logits = net.logits(z, level) - 0.5 * ((z[..., None] - alpha * lattice) / sigma) ** 2
        logits -= logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def reconstruction() -> np.ndarray:
        return -np.take_along_axis(posterior(high), codes[..., None], -1).sum((1, 2))

    def step(s: float, t: float) -> np.ndarray:
        x_hat = np.exp(posterior(t)) @ lattice
        return 0.5 * (math.exp(s) - math.exp(t)) * ((x - x_hat) ** 2).sum(1)

    alpha2 = 1 / (1 + math.exp(-low))
    prior = 0.5 * ((1 - alpha2) + alpha2 * x**2 - 1 - math.log(1 - alpha2)).sum(1)
    parts = {
        "diffusion": [np.stack([step(s, t) for _ in range(draws)]) for s, t in pairwise(logsnr)],
        "reconstruction": [np.stack([reconstruction() for _ in range(max(draws, 8))])],
    }
    unit = x.shape[1] * math.log(2)
    means, errors = {"prior": prior.mean() / unit}, {"prior": 0.0}
    for name, rows in parts.items():
        means[name] = sum(r.mean() for r in rows) / unit
        errors[name] = math.sqrt(sum((r.var(0, ddof=1) / len(r)).mean() / len(x) for r in rows)) / unit
    return Recomputed(means, errors, sum(means.values()), math.hypot(*errors.values()))


def assert_agree(bound: dict[str, Any], mine: Recomputed) -> None:
    """Term by term and in all: within 4 combined standard errors; the prior has no noise and agrees to 1e-9."""
    assert bound["terms"]["prior"]["bits_per_dim"] == pytest.approx(mine.terms["prior"], rel=1e-9)
    for name in ("diffusion", "reconstruction"):
        term = bound["terms"][name]
        error = math.hypot(term["standard_error"], mine.errors[name])
        assert abs(term["bits_per_dim"] - mine.terms[name]) < 4 * error, name
    error = math.hypot(bound["standard_error"]["estimator"], mine.error)
    assert abs(bound["bits_per_dim"] - mine.total) < 4 * error


def test_a_small_model_recomputed(tmp_path):
    """The recomputation on a model of 30 steps; and it notices a bound that is off by 6 errors, or by a tenth."""
    settings = {"steps": 30, "levels": 12, "net": {"width": 32, "embedding": 16, "blocks": 2}, "lr": 0.01, "warmup": 5}
    nelbo.train("digits:train", tmp_path, settings)
    codes = test_images()
    bound = nelbo.evaluate(tmp_path, codes.reshape(-1, 8, 8), estimator=Exhaustive(10), precision="float64").to_dict()
    mine = recompute(tmp_path, codes, draws=10)
    assert_agree(bound, mine)
    assert mine.error < 0.005 * mine.total
    with pytest.raises(AssertionError):
        assert_agree(
            bound, mine._replace(total=mine.total - 6 * math.hypot(mine.error, bound["standard_error"]["estimator"]))
        )
    with pytest.raises(AssertionError):
        assert_agree({**bound, "bits_per_dim": 1.1 * bound["bits_per_dim"]}, mine)


@pytest.fixture(scope="module")
def demo(tmp_path_factory, run_nelbo) -> Path:
    """`nelbo demo`, whole, in a process of its own."""
    out = tmp_path_factory.mktemp("demo") / "out"
    done = run_nelbo("demo", "--out", out, timeout=1800)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_the_demo(demo):
    bound = json.loads((demo / "bound.json").read_text())
    assert bound["bits_per_dim"] + 4 * bound["standard_error"]["estimator"] < 2.20
    assert bound["grid"]["steps"] >= 250 and bound["warnings"] == []
    assert bound["bits_per_dim"] == pytest.approx(sum(bound["terms"][name]["bits_per_dim"] for name in TERMS))
    report = (demo / "report.html").read_text()
    assert f"{bound['bits_per_dim']:.2f}" in report and "JPEG XL" in report
    data = nelbo.load(demo / "model").provenance["data"]
    assert data["name"] == "digits:train" and data["examples"] == 1437


@pytest.mark.slow
def test_the_demo_recomputed(demo):
    mine = recompute(demo / "model", test_images())
    assert_agree(json.loads((demo / "bound.json").read_text()), mine)
    assert mine.total + 4 * mine.error < 2.20


@pytest.mark.slow
def test_the_demo_was_not_trained_on_the_test_images(demo):
    """No warning on the test images, one on the training images; which score better, as they should."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        test = nelbo.evaluate(demo / "model", "digits:test", limit=100, estimator="stratified")
    with pytest.warns(UserWarning, match="100 of 100 examples"):
        train = nelbo.evaluate(demo / "model", "digits:train", limit=100, estimator="stratified")
    assert train.bits_per_dim < test.bits_per_dim
