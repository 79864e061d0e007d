"""Training of models of symbols: the loss is the bound, its gradient has little variance, a run goes on to the bit."""

from __future__ import annotations

import math

import pytest
import torch

import nelbo
from nelbo.errors import DomainError, UsageError
from nelbo.model.examples import Examples
from nelbo.model.tokens.model import TokenModel
from nelbo.process.tokens.survival import Linear
from nelbo.progress import Progress
from nelbo.training import train
from nelbo.training.batches import Batch, BatchPart
from nelbo.training.build import build_model
from nelbo.training.criterion import Criterion, make_criterion
from nelbo.training.settings import check_config
from nelbo.training.tokens.objective import TokenBound
from nelbo.typing import Json
from tests.codec.tokens.test_sequences import MODELS
from tests.expected import seen
from tests.model.tokens import checks
from tests.training.cases import log_of

V, L = 3, 12
DATA = checks.markov(L)
X = DATA.sample(60).to(torch.uint8)
NET: Json = {"name": "transformer", "width": 16, "blocks": 1, "heads": 2, "dropout": 0.2}
SMALL: Json = {
    "steps": 10, "batch_size": 8, "net": NET, "bins": V, "checkpoint_every": 3, "log_every": 2, "warmup": 2,
    "ema": 0.9,
}  # fmt: skip
KINDS: dict[str, Json] = {
    "counts": {},
    "share": {"time": "mask_fraction"},
    "times": {"time": "unit", "schedule": "cosine"},
    "uniform": {"kernel": "uniform", "time": "sigma"},
}


def small(kind: str = "counts", **changes) -> Json:
    return {**SMALL, "tokens": KINDS[kind], **changes}


EXACT = {
    "counts": DATA.model(),
    "times": MODELS["continuous"],
    "uniform": DATA.model(nelbo.tokens.uniform(), schedule=Linear()),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.filterwarnings("ignore:the network is worse than none")
def test_the_loss_is_the_bound(name):
    """In the mean over many steps, of one sequence; by z against the evaluation of the same model."""
    model, B = EXACT[name], 128
    x = nelbo.sample(model, 1, seed=1, **({"steps": 30} if name == "uniform" else {})).expand(B, -1)
    criterion = Criterion(TokenBound(first_share=1.0))
    losses = torch.stack([criterion(model, Batch(x, 5, step))["loss"].detach().double() for step in range(40)])
    bound = nelbo.evaluate(model, x, tolerance=0.02 if name == "counts" else 0.04)
    error = math.hypot(float(losses.std()) / math.sqrt(len(losses)), bound.standard_error.estimator)
    assert abs(float(losses.mean()) - bound.bits_per_dim) < 4 * error < 0.4


def test_parts_of_a_batch_add_up():
    """Whatever the number of processes and micro-batches, the loss of the parts is that of the whole."""
    criterion = make_criterion(check_config(small()))
    model, x = EXACT["counts"], X[:8]
    whole = criterion(model, Batch(x, 0, 3))["loss"]
    parts = [BatchPart(torch.arange(8)[k::2], 8) for k in (0, 1)]
    split = sum(criterion(model, Batch(x[p.positions], 0, 3, p))["loss"] for p in parts)
    assert float(split) == pytest.approx(float(whole), rel=1e-12)


def test_what_is_given_is_neither_hidden_nor_scored():
    seen = []

    def fn(z):
        seen.append(z.clone())
        return torch.zeros(*z.shape, V)

    model = nelbo.tokens.from_callable(fn, vocabulary=V, length=L, kernel=nelbo.tokens.absorbing(mask=V))
    scored = (torch.arange(L) >= 4).expand(16, -1)
    losses = Criterion(TokenBound())(model, Batch(X[:16], 0, 0, scored=scored, places=8.0))
    assert float(losses["loss"]) == pytest.approx(math.log2(V))
    assert torch.equal(seen[0][:, :4], X[:16, :4].long()) and bool((seen[0][:, 4:] == V).any())


def gradients(model: TokenModel, draw, steps: int = 60) -> torch.Tensor:
    """Gradients (steps, parameters) of losses that `draw(step)` returns."""
    out = []
    for step in range(steps):
        model.denoiser.zero_grad()
        draw(step).backward()
        out.append(torch.cat([p.grad.flatten() for p in model.denoiser.parameters() if p.grad is not None]))
    return torch.stack(out).double()


def test_the_variance_of_the_gradient():
    """Stratified counts against i.i.d. t, Bernoulli masks and the weight 1/t, t ≥ 10⁻³, on the same batch: the means
    agree, and the variance is less. (Of a trained network on text it is a fraction: benchmarks/tokens.py.)"""
    model = build_model(Examples(X), check_config(small(net={**NET, "dropout": 0.0})))
    assert isinstance(model, TokenModel)
    with torch.no_grad():  # of a network that says something
        model.denoiser.net.out.weight.normal_(generator=torch.Generator().manual_seed(0), std=0.2)
    x, criterion = X[:16], Criterion(TokenBound())
    generator = torch.Generator().manual_seed(1)

    def plain(step: int) -> torch.Tensor:
        t = 1e-3 + (1 - 1e-3) * torch.rand(len(x), 1, generator=generator)
        hidden = torch.rand(x.shape, generator=generator) < t
        z = x.long().masked_fill(hidden, V)
        each = -model.predict(z, hidden, None).gather(-1, x.long()[..., None])[..., 0]
        return (each * hidden / t).sum(1).mean() / L / math.log(2)

    stratified = gradients(model, lambda step: criterion(model, Batch(x, 0, step))["loss"])
    others = gradients(model, plain)
    ratio = float(stratified.var(0).sum() / others.var(0).sum())
    difference = (stratified.mean(0) - others.mean(0)).square().sum()
    assert float(difference) < 6 * float((stratified.var(0) + others.var(0)).sum()) / len(others)
    assert ratio < 0.85


@pytest.mark.parametrize("kind", ["counts", pytest.param("uniform", marks=pytest.mark.slow)])
def test_a_run_goes_on_to_the_bit(tmp_path, kind):
    settings = small(kind, optimizer="muon", validation={"every": 4, "examples": 10, "max_nfe": 600})
    train(Examples(X), tmp_path / "whole", settings)
    with pytest.raises(nelbo.errors.Interrupted):
        train(Examples(X), tmp_path / "cut", settings, progress=stop_after(5))
    train(Examples(X), tmp_path / "cut", settings, resume=True)
    one, two = (nelbo.load(tmp_path / name) for name in ("whole", "cut"))
    assert one.fingerprint() == two.fingerprint() and log_of(tmp_path / "whole") == log_of(tmp_path / "cut")
    assert one.provenance["validation"]["bound"] > 0


def stop_after(step: int):
    def progress(record: Json) -> None:
        if record["step"] == step:
            raise KeyboardInterrupt

    return progress


@pytest.mark.filterwarnings("ignore:52 of 52 examples are among those")
def test_a_text(tmp_path):
    """A trained text says what its symbols are, evaluates in bits a byte, is sampled and compressed."""
    (tmp_path / "a.txt").write_text("abracadabra é " * 60)
    spec = f"text:{tmp_path / 'a.txt'}#length=16#tokenizer=chars"
    told: list[Json] = []
    settings: Json = {"steps": 6, "batch_size": 8, "net": {"width": 16, "blocks": 1}}
    model = nelbo.train(spec, tmp_path / "run", settings, progress=told.append)
    assert {record["unit"] for record in told} == {"bits/char"}
    assert isinstance(model, TokenModel) and model.provenance["data"]["alphabet"] == "".join(sorted("abrcdé "))
    bar = Progress("evaluating")
    bound = nelbo.evaluate(tmp_path / "run", spec, tolerance=0.5, progress=bar, watch=bar.estimate)
    assert bar.note.endswith(" bits/char")
    assert {"bits_per_byte"} <= {u["name"] if isinstance(u, dict) else u for u in bound.to_dict()["units"]}
    assert nelbo.sample(tmp_path / "run", 2).shape == (2, 16)
    (tmp_path / "b.txt").write_text("abc " * 40)
    other = f"text:{tmp_path / 'b.txt'}#length=16#tokenizer=chars"
    with pytest.raises(UsageError, match="differ in their alphabet: 7 and 4 characters"):
        nelbo.evaluate(tmp_path / "run", other)
    assert nelbo.evaluate(tmp_path / "run", f"{other}#alphabet={tmp_path / 'a.txt'}", tolerance=0.5).nfe_total > 0


@seen
@pytest.mark.slow
def test_classes(tmp_path):
    """A network that is told the class of a sequence learns what differs."""
    y = torch.arange(64) % 2
    x = (torch.randint(0, 2, (64, 4), generator=torch.Generator().manual_seed(0)) + 2 * y[:, None]).to(torch.uint8)
    settings = small(bins=4, condition="y", steps=60, lr=0.03, net={**NET, "dropout": 0.0})
    model = train(Examples(x, labels=y), tmp_path / "run", settings)
    found = nelbo.contrast(model, Examples(x, labels=y), "y", limit=16)  # its own classes
    assert found.values == (0, 1) and found.accuracy == 1.0
    drawn = nelbo.sample(model, 40, condition={"y": torch.arange(40) % 2})
    assert float((drawn // 2 == (torch.arange(40) % 2)[:, None]).double().mean()) > 0.9


REFUSED = {
    "hybrid objective of masked": small(objective="hybrid"),
    "uniform noise": small(tokens={"kernel": "uniform"}),
    "objective 'simple'": small(objective="simple"),
    "learned schedule": small(schedule="learned"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_does_not_fit(words, tmp_path):
    with pytest.raises(UsageError, match=words):
        train(Examples(X), tmp_path / "run", REFUSED[words])


def test_data_that_are_no_sequences(tmp_path):
    with pytest.raises(UsageError, match="for sequences of symbols"):
        train(Examples(torch.zeros(20, 4, 4, dtype=torch.uint8)), tmp_path / "run", small())
    with pytest.raises(UsageError, match="number of symbols"):
        train(Examples(X.long()), tmp_path / "run", small(bins=None))
    with pytest.raises(DomainError, match="symbols from 0 to 2"):
        train(Examples(X), tmp_path / "run", small(bins=2))
