"""A network that is a function is opened: what is inside counts as its own, on every verb."""

from __future__ import annotations

import functools
import io
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nelbo
from nelbo.data import read
from nelbo.errors import UsageError
from nelbo.model.closure import look
from nelbo.model.opened import OpenedFunction, opened
from tests.expected import early_end, untrained

pytestmark = [untrained, early_end]

DOMAIN = nelbo.DataDomain((1, 8, 8), bins=17)
CODES = torch.randint(0, 17, (8, 1, 8, 8), generator=torch.Generator().manual_seed(0))


def model(network: Callable[..., Any], **more: Any) -> nelbo.DiffusionModel:
    schedule = nelbo.schedules.linear(8, 1e-2, 0.7)
    return nelbo.from_callable(network, schedule=schedule, domain=DOMAIN, **more)


def conv(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Conv2d(1, 1, 3, padding=1)


class Holder:
    """An object that calls the network it holds."""

    def __init__(self, net: nn.Module):
        self.net = net

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        return self.net(z)

    def method(self, z: Tensor, t: Tensor) -> Tensor:
        return self.net(z)


class Slotted:
    """The same without a dictionary."""

    __slots__ = ("net",)

    def __init__(self, net: nn.Module):
        self.net = net

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        return self.net(z)


class Hidden(nn.Module):
    """A module that keeps another where torch does not look."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.nets = [net]

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.nets[0](z)


class First(nn.Module):
    """A network that takes the time, as `DataParallel` hands it on."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.net(z)


def in_a_dict(net: nn.Module) -> Callable[..., Tensor]:
    held = {"a": [net]}
    return lambda z, t: held["a"][0](z)


def through_another(net: nn.Module) -> Callable[..., Tensor]:
    def inner(z: Tensor) -> Tensor:
        return net(z)

    return lambda z, t: inner(z)


def by_weights(net: nn.Module) -> Callable[..., Tensor]:
    w, b = net.weight, net.bias
    return lambda z, t: functional.conv2d(z, w, b, padding=1)


WRAPPED: dict[str, Callable[[nn.Module], Callable[..., Tensor]]] = {
    "a module": First,
    "a lambda": lambda net: lambda z, t: net(z),
    "a default": lambda net: lambda z, t, net=net: net(z),
    "a partial": lambda net: functools.partial(lambda net, z, t: net(z), net),
    "an object": Holder,
    "slots": Slotted,
    "a bound method": lambda net: Holder(net).method,
    "a dict of lists": in_a_dict,
    "a nested function": through_another,
    "no_grad": lambda net: torch.no_grad()(lambda z, t: net(z)),
    "a list of a module": Hidden,
    "data parallel": lambda net: nn.DataParallel(First(net)),
    "an average": lambda net: torch.optim.swa_utils.AveragedModel(First(net)),
    "a cache": lambda net: functools.lru_cache(maxsize=0)(lambda z, t: net(z)),
    "weights alone": by_weights,
}


@pytest.mark.filterwarnings("ignore:bf16 shifts the value")
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_the_network_inside_is_the_models_own(wrap):
    """Counted, fingerprinted, and computed in every precision as where the module is given."""
    first, again, other = (model(wrap(conv(seed))) for seed in (0, 0, 1))
    assert first.parameters == 10
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    for precision in ("float32", "float64", "bf16"):
        seen = nelbo.evaluate(first, CODES, estimator="exhaustive", precision=precision).bits_per_dim
        plain = nelbo.evaluate(model(First(conv(0))), CODES, estimator="exhaustive", precision=precision).bits_per_dim
        assert seen == plain
    assert nelbo.sample(first, 2).shape == (2, 1, 8, 8)
    assert next(p.dtype for p in first.denoiser.parameters()) == torch.float32  # left as it was


def test_a_compiled_network_is_opened():
    net = First(conv(0))
    compiled = torch.compile(net)
    inside = look(lambda z, t: compiled(z, t))
    assert list(inside.modules.values()) == [net]


def test_a_float64_network_in_a_closure():
    net = conv(0).double()
    double = model(lambda z, t: net(z))
    single = nelbo.evaluate(double, CODES, estimator="exhaustive").bits_per_dim
    assert abs(single - nelbo.evaluate(model(First(conv(0))), CODES, estimator="exhaustive").bits_per_dim) < 1e-5
    assert net.weight.dtype == torch.float64


def test_state_of_other_weights_is_refused(tmp_path):
    a, b = (model(WRAPPED["a lambda"](conv(seed))) for seed in (0, 1))
    state = tmp_path / "s"
    nelbo.evaluate(a, CODES, tolerance=1.0, state=state)
    with pytest.raises(UsageError, match="state"):
        nelbo.evaluate(b, CODES, tolerance=1.0, state=state)


@pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")
def test_two_closures_of_one_text(tmp_path):
    """Digits under two networks behind the same lambda: 15.87 and 18.04 bits/dim. Both were 15.87 with one state."""

    def make(seed: int) -> nelbo.DiffusionModel:
        torch.manual_seed(seed)
        net = nn.Conv2d(1, 1, 3, padding=1)
        law = nelbo.schedules.linear(50, 1e-3, 0.2)
        return nelbo.from_callable(lambda z, t: net(z), schedule=law, domain=DOMAIN)

    x = read("digits:test").data.reshape(-1, 1, 8, 8)
    a, b = make(0), make(1)
    assert a.fingerprint() != b.fingerprint() and a.parameters == b.parameters == 10
    for model_of, right in ((a, 15.87), (b, 18.04)):
        bound = nelbo.evaluate(model_of, x, tolerance=0.4, state=tmp_path / str(right))
        assert abs(bound.bits_per_dim - right) < 4 * 0.4
    with pytest.raises(UsageError, match="state of another evaluation"):
        nelbo.evaluate(b, x, tolerance=0.4, state=tmp_path / "15.87")


FROM_A_FILE = """
import torch, nelbo
def make():
    net = torch.nn.Conv2d(1, 1, 3, padding=1)
    net.load_state_dict(torch.load("weights.pt", weights_only=True))
    return nelbo.from_callable(lambda z, t: net(z), schedule=nelbo.schedules.linear(8, 1e-3, 0.2),
                               domain=nelbo.DataDomain((1, 8, 8), bins=17))
"""


@pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")
def test_a_function_whose_checkpoint_changed(tmp_path, monkeypatch):
    """The name is the same, the model is another: its value is its own, and what began with the first is refused."""
    pytest.importorskip("numba")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "from_a_file.py").write_text(FROM_A_FILE)
    name, values = "from_a_file:make", []
    for seed in (0, 1):
        torch.save(conv(seed).state_dict(), "weights.pt")
        values.append(nelbo.evaluate(name, CODES, estimator="exhaustive").bits_per_dim)
        net, law = First(conv(seed)), nelbo.schedules.linear(8, 1e-3, 0.2)
        own = nelbo.from_callable(net, schedule=law, domain=DOMAIN)
        assert values[-1] == nelbo.evaluate(own, CODES, estimator="exhaustive").bits_per_dim
        if seed == 0:
            nelbo.evaluate(name, CODES, tolerance=2.0, state="s")
            nelbo.codec.compress(name, CODES, "x.nelbo", few=True)
            assert torch.equal(nelbo.codec.decompress(name, "x.nelbo"), CODES)
    assert abs(values[0] - values[1]) > 0.1
    with pytest.raises(UsageError, match="state of another evaluation"):
        nelbo.evaluate(name, CODES, tolerance=2.0, state="s")
    with pytest.raises(UsageError, match="was written by the model"):
        nelbo.codec.decompress(name, "x.nelbo")


def test_code_and_plain_values_count():
    def scaled(scale: float, settings: dict[str, float]) -> Callable[..., Tensor]:
        return lambda z, t: scale * settings["gain"] * z

    one, two = (model(scaled(s, {"gain": 1.0})).fingerprint() for s in (0.5, 0.25))
    gain = model(scaled(0.5, {"gain": 2.0})).fingerprint()
    assert len({one, two, gain, model(lambda z, t: z + 1).fingerprint(), model(lambda z, t: z - 1).fingerprint()}) == 5
    assert model(scaled(0.5, {"gain": 1.0})).fingerprint() == one
    slopes = (model(nn.Sequential(nn.LeakyReLU(s))).fingerprint() for s in (0.1, 0.2))
    assert len(set(slopes)) == 2  # no weights, and another function


class Normalised(nn.Module):
    """A network whose answers depend on its mode: dropout, and statistics that training would change."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv(0), nn.BatchNorm2d(1), nn.Dropout(0.5))

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


def test_evaluation_mode_for_the_time_of_the_call():
    """Right: 3 equal values at any batch size, statistics untouched. Without: 17.105, 17.174, 17.112."""
    net = Normalised()
    net.train()
    before = {name: b.clone() for name, b in net.named_buffers()}
    wrapped = model(lambda z, t: net(z))
    values = [nelbo.evaluate(wrapped, CODES, estimator="exhaustive", batch_size=b).bits_per_dim for b in (40, 4, 1)]
    assert max(values) - min(values) < 1e-6
    assert all(m.training for m in net.modules())
    assert all(torch.equal(b, before[name]) for name, b in net.named_buffers())


def from_a_file() -> Callable[..., Tensor]:
    held = io.BytesIO()
    torch.save(conv(0).state_dict(), held)

    def network(z: Tensor, t: Tensor) -> Tensor:
        held.seek(0)
        w = torch.load(held, weights_only=True)
        return functional.conv2d(z, w["weight"].to(z.dtype), w["bias"].to(z.dtype), padding=1)

    return network


def test_an_unknown_fingerprint_is_printed_and_refused_where_it_is_needed(tmp_path):
    unknown = model(from_a_file())
    assert unknown.fingerprint() is None
    bound = nelbo.evaluate(unknown, CODES, estimator="exhaustive")
    assert bound.to_dict()["model"]["fingerprint"] is None
    assert "model unknown" in str(bound)
    with pytest.raises(UsageError, match=r"fingerprint is unknown.*BytesIO") as caught:
        nelbo.evaluate(unknown, CODES, state=tmp_path / "s")
    assert "modules=[net]" in caught.value.hint
    with pytest.raises(UsageError, match="fingerprint is unknown"):
        nelbo.codec.compress(unknown, CODES, tmp_path / "x.nelbo")
    net = conv(0)
    opaque = random.Random(0)
    known = model(lambda z, t: (opaque, net)[1](z), modules=[net])
    reads = look(lambda z, t: torch.load("weights.pt")(z))
    assert reads.digest is None and "calls load(…)" in reads.opaque[0]
    assert model(lambda z, t: (opaque, net)[1](z)).fingerprint() is None
    assert known.fingerprint() is not None and known.parameters == 10
    with pytest.raises(UsageError, match="modules holds a str"):
        model(lambda z, t: z, modules=["net"])


def test_a_module_of_a_library_is_left_as_it_is():
    net = First(conv(0))
    assert opened(net) is net
    assert isinstance(opened(Hidden(conv(0))), OpenedFunction)


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def coarse_products() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


AMBIENT = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "a default device": lambda: torch.device("meta"),
    "a default dtype": default_dtype,
    "deterministic algorithms": deterministic,
    "coarse products": coarse_products,
}
REAL_TIMES = nelbo.schedules.logsnr_linear(4.0, -4.0)
MANY = torch.cat([(CODES + shift) % 17 for shift in range(4)])


def smooth(net: nn.Module) -> nelbo.DiffusionModel:
    return nelbo.from_callable(
        lambda z, t: net(z) * t[:, None, None, None].tanh(), schedule=REAL_TIMES, time="logsnr", domain=DOMAIN,
        decoder="categorical", grid=nelbo.grids.even(2),
    )  # fmt: skip


def trained(out: Path) -> list[float]:
    settings = {"steps": 2, "batch_size": 4, "levels": 3, "net": {"name": "mlp", "width": 4}}
    net = nelbo.train(CODES[:, 0], out / f"run{len(list(out.iterdir()))}", {**settings, "bins": 17}).denoiser
    return [float(p.detach().double().sum()) for p in net.parameters()]


OTHER = smooth(conv(1))
VALUES: dict[str, Callable[[nelbo.DiffusionModel, Path], Any]] = {
    "evaluate": lambda m, out: nelbo.evaluate(m, CODES, estimator="exhaustive").to_dict() | {"seconds": 0},
    "compare": lambda m, out: nelbo.compare(m, OTHER, CODES, tolerance=9.0).difference,
    "ode": lambda m, out: nelbo.ode_likelihood(m, CODES[:2], steps=2, probes=1).bits_per_dim,
    "sample": lambda m, out: nelbo.sample(m, 2).tolist(),
    "encode": lambda m, out: nelbo.samplers.encode(m, CODES[:2], steps=2).tolist(),
    "tighten": lambda m, out: nelbo.tighten(m, MANY, 2, first_level="own")[1].after.bits_per_dim,
    "compress": lambda m, out: nelbo.codec.compress(m, CODES, out / "x.nelbo", few=True, verify=False).net_bits,
    "train": lambda m, out: trained(out),
}


@pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")
@pytest.mark.parametrize("verb", VALUES)
def test_settings_around_a_call_change_nothing(verb, tmp_path):
    """Every verb gives the number that it gives without them, and leaves the settings as they are."""
    if verb == "compress":
        pytest.importorskip("numba")
    value, net = VALUES[verb], smooth(conv(0))
    plain = value(net, tmp_path)
    for name, around in AMBIENT.items():
        if verb == "tighten" and name not in ("autocast", "a default dtype"):
            continue  # every one costs as much as all others of the other verbs
        with around():
            assert value(net, tmp_path) == plain, name


def test_default_dtype_changes_nothing():
    plain = nelbo.evaluate(model(WRAPPED["a lambda"](conv(0))), CODES, estimator="exhaustive").bits_per_dim
    net = conv(0)
    with default_dtype():
        assert nelbo.evaluate(model(lambda z, t: net(z)), CODES, estimator="exhaustive").bits_per_dim == plain


def test_a_function_of_no_module():
    """As `exec` makes one in a namespace without a name."""
    names: dict = {"torch": torch}
    exec("def network(z, t):\n    return torch.zeros_like(z)", names)
    del names["__builtins__"]
    model = nelbo.from_callable(
        names["network"], schedule=nelbo.schedules.linear(1000), domain=nelbo.DataDomain((2,)), predicts="x0"
    )
    assert names["network"].__module__ is None or names["network"].__module__ == "builtins"
    assert nelbo.evaluate(model, torch.zeros(2, 2), max_nfe=100).nfe_total > 0
