"""Numbers at the edge: those of numpy and torch are Python's, and what is no number is refused by name.

The public verbs and constructors are found by walking over `nelbo`; every parameter that is annotated as a number is
tried, so that a new one joins without a line here (or fails until it has an example of a call).
"""

from __future__ import annotations

import inspect
import math
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nelbo
from nelbo.arguments import numbers, plain
from nelbo.bound import estimators
from nelbo.bound.planned import adaptive
from nelbo.errors import NelboError, UsageError
from nelbo.likelihood import Hutchinson
from nelbo.model import clip, prior
from nelbo.model.decoder import ContinuousGaussian, DiscretizedGaussian, RangeSpread
from nelbo.parts import Part
from nelbo.training import TrainConfig, check_config
from tests.tables import refusals

CODES = nelbo.exact.CategoricalData(torch.tensor([[0.7, 0.2, 0.1]] * 4))
LAW = nelbo.schedules.logsnr_linear(6.0, -6.0)
EXACT = CODES.model(LAW, nelbo.grids.even(6))
REAL = nelbo.exact.GaussianData(torch.zeros(2), torch.eye(2)).model(LAW, nelbo.grids.even(4))
X = CODES.sample(64)
BOUND = nelbo.evaluate(EXACT, X[:8])
ARCHIVE: dict[str, Any] = {}


def zeros(z, t):
    return torch.zeros_like(z)


def letters(z):
    return torch.zeros(*z.shape, 3)


LETTERS = nelbo.tokens.from_callable(letters, vocabulary=3, length=4, kernel=nelbo.tokens.absorbing(mask=3))


def told(z, t, y):
    return torch.zeros_like(z) + 0.1 * y[:, None]


TOLD = nelbo.from_callable(told, schedule=LAW, domain=nelbo.DataDomain((4,), bins=3), predicts="x0", time="logsnr",
                           decoder="categorical", grid=nelbo.grids.even(4))  # fmt: skip


LATENT_X = torch.linspace(-1, 1, 8)[:, None].double()
LATENT = nelbo.LatentModel(
    nelbo.latent.DeterministicEncoder(torch.nn.Identity(), tau=0.1),
    torch.nn.Identity(),
    nelbo.exact.GaussianData(torch.zeros(1), torch.eye(1)).model(
        nelbo.schedules.logsnr_linear(5.0, -5.0), nelbo.grids.even(2)
    ),
    nelbo.latent.ScaledGaussian(0.5),
    nelbo.DataDomain((1,)),
)


def coded(net) -> nelbo.DiffusionModel:
    """The model of a network, which is evaluated once."""
    model = nelbo.from_callable(
        net, schedule=LAW, domain=nelbo.DataDomain((4,), bins=3), predicts="x0", time="logsnr", decoder="categorical",
        grid=nelbo.grids.even(2),
    )  # fmt: skip
    nelbo.sample(model, 1)
    return model


CODED = coded(zeros)


class Shifted(torch.nn.Module):
    """A network with a parameter."""

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(()))

    def forward(self, z, t):
        return torch.zeros_like(z) + self.shift


TRAINED = coded(Shifted())


def compress(**options):
    written = nelbo.codec.compress(CODED, X, ARCHIVE["path"], few=True, **options)
    return written.bytes


def trained(**settings):
    return check_config(settings).model_dump()


G, S, D = nelbo.grids, nelbo.schedules, nelbo.samplers
EXAMPLES: dict[Callable[..., Any], dict[str, Any]] = {
    nelbo.evaluate: dict(model=EXACT, data=X, tolerance=0.5, max_nfe=4000, limit=9, seed=3, batch_size=5),
    nelbo.compare: dict(
        model_a=EXACT, model_b=EXACT, data=X, tolerance=0.5, confidence=0.875, max_nfe=4000, limit=9, seed=3,
        batch_size=5,
    ),
    nelbo.contrast: dict(
        model=TOLD, data=X, condition="y", values=[0, 1], confidence=0.875, indifference=0.5, tolerance=50.0,
        posterior_tolerance=0.375, max_nfe=4000, prior=[0.5, 0.5], limit=9, seed=3, batch_size=5,
    ),
    nelbo.diagnose: dict(model=CODED, data=X, max_nfe=160, limit=9, seed=3, batch_size=5),
    nelbo.likelihood_profile: dict(
        model=TOLD, data=X, condition="y", values=[0.0, 0.5, 1.0, 1.5, 2.0], tolerance=0.5, max_nfe=4000, limit=5,
        seed=3, batch_size=50,
    ),
    nelbo.score: dict(
        model=TOLD, data=X, condition="y", at=0.5, step=0.5, tolerance=0.5, max_nfe=4000, limit=5, seed=3, batch_size=50
    ),
    nelbo.log_ratio: dict(
        model=CODED, reference=CODED, data=X, tolerance=0.5, max_nfe=4000, limit=5, seed=3, batch_size=50
    ),
    nelbo.surprisal: dict(model=LETTERS, data=X, sequences=4, strata=2, repeats=2, seed=3, batch_size=5),
    nelbo.ode_likelihood: dict(
        model=EXACT, data=X, steps=4, tolerance=5.0, max_steps=8, draws=2, importance=1, limit=4, seed=3, batch_size=3
    ),
    nelbo.data.read: dict(spec="digits:test", limit=9),
    nelbo.data.resolve: dict(data=X, limit=9),
    nelbo.Monitor: dict(model=EXACT, data=X, budget=128, seed=3, patience=2, errors=0.5, batch_size=20),
    nelbo.bound_loss: dict(model=CODED, x=X, reconstruction_share=0.5, seed=3, step=2),
    nelbo.RatioEstimator: dict(model=TRAINED, reference=CODED, data=X, seed=3),
    nelbo.monitoring.planned_times: dict(model=CODED, data=X, seed=3, cells=8),
    nelbo.tighten: dict(model=EXACT, data=X, steps=2, limit=40, seed=3, batch_size=20, first_level="own"),
    nelbo.sample: dict(model=CODED, n=3, steps=2, seed=3, batch_size=2),
    nelbo.samplers.encode: dict(model=EXACT, data=X[:3], steps=2, batch_size=2),
    nelbo.codec.compress: dict(limit=30, seed=3, batch_size=8, chunk_size=16, bin_width=0.25),
    nelbo.codec.decompress: dict(batch_size=8),
    nelbo.from_callable: dict(
        fn=zeros, schedule=S.linear(9), domain=nelbo.DataDomain((4,), bins=3), predicts="edm_F", sigma_data=0.5,
        first_level=2, clip=(-1.0, 1.0),
    ),
    nelbo.tokens.from_callable: dict(
        fn=letters, vocabulary=3, length=4, kernel=nelbo.tokens.absorbing(3), prior=None, remove_mask=False, block=2
    ),
    nelbo.tokens.absorbing: dict(mask=3),
    nelbo.tokens.gaussian: dict(vocabulary=5, betas=(0.25, 0.5)),
    nelbo.tokens.linear: dict(last=0.125),
    nelbo.tokens.geometric: dict(sigma_min=0.125, sigma_max=8.0),
    nelbo.exact.MarkovData: dict(initial=torch.ones(2) / 2, transition=torch.ones(2, 2) / 2, length=3),
    nelbo.latent.GaussianEncoder: dict(net=zeros, range=(-30.0, 20.0)),
    nelbo.latent.DeterministicEncoder: dict(net=zeros, tau=0.5),
    nelbo.latent.ScaledGaussian: dict(scale=0.5), nelbo.latent.ScaledLogistic: dict(scale=0.5),
    nelbo.latent.LatentUnits: dict(scale=0.5, shift=-0.25),
    nelbo.latent.fit_likelihood: dict(model=LATENT, data=LATENT_X, limit=7, seed=3),
    nelbo.DataDomain: dict(shape=(2, 3), bins=5, low=-2.0, high=3.0),
    nelbo.Examples: dict(data=X, bins=3),
    nelbo.Overrides: dict(bins=5, range=(-1.0, 1.0), clip=(-1.0, 1.0)),
    nelbo.Relative: dict(share=0.5),
    DiscretizedGaussian: dict(variance=0.5),
    ContinuousGaussian: dict(variance=0.5),
    RangeSpread: dict(low=0.5, high=0.75),
    nelbo.exact.CategoricalData: dict(probabilities=torch.ones(2, 3) / 3, low=-2.0, high=0.5),
    G.Full: dict(first=2), G.full: dict(first=2),
    G.Even: dict(steps=3, first=2), G.even: dict(steps=3, first=2),
    G.Quadratic: dict(steps=3, first=2), G.quadratic: dict(steps=3, first=2),
    G.LogSNRUniform: dict(steps=3, first=2), G.logsnr_uniform: dict(steps=3, first=2),
    G.Karras: dict(steps=3, rho=4.0, first=2), G.karras: dict(steps=3, rho=4.0, first=2),
    G.named: dict(name="even", steps=3, first=2),
    G.Density: dict(steps=3, edges=(2.0, 0.0, -2.0), shares=(1.0, 0.5), first=2),
    G.of_bound: dict(bound=BOUND, steps=3, even_share=0.5, first=2),
    G.Subset: dict(indices=(0, 2, 5)), G.Times: dict(times=(0.0, 0.5, 1.0)),
    G.Continuous: dict(t_first=0.25, t_last=0.75), G.continuous: dict(t_first=0.25, t_last=0.75),
    nelbo.likelihood.RK4: dict(steps=4), nelbo.likelihood.Heun: dict(steps=4), Hutchinson: dict(probes=2),
    D.DDIM: dict(eta=0.5),
    D.Euler: dict(churn=1.0, s_min=0.5, s_max=2.0, s_noise=1.5), D.Heun: dict(churn=1.0, s_min=0.5, s_max=2.0),
    S.linear: dict(T=5, beta_1=0.125, beta_T=0.25), S.cosine: dict(T=5, offset=0.125, beta_max=0.5),
    S.logsnr_linear: dict(logsnr_max=5.0, logsnr_min=-2.0), S.LogSNRLinear: dict(logsnr_max=5.0, logsnr_min=-2.0),
    S.flow: dict(t_min=0.25, t_max=0.5), S.Flow: dict(t_min=0.25, t_max=0.5),
    S.edm: dict(sigma_min=0.25, sigma_max=8.0, rho=2.0), S.EDM: dict(sigma_min=0.25, sigma_max=8.0, rho=2.0),
    S.learned: dict(logsnr_max=5.0, logsnr_min=-2.0, segments=4),
    nelbo.testing.check_model: dict(model=EXACT, data=X[:4], relative=0.5),
    estimators.Exhaustive: dict(draws=1, paired=8), estimators.Stratified: dict(strata=2, reconstruction_draws=2),
    adaptive.Adaptive: dict(tolerance=0.5, max_nfe=900, pilot=8, strata=2),
    clip.Clip: dict(low=-1.0, high=0.5), clip.Threshold: dict(ratio=0.5, maximum=2.0),
    prior.GaussianPrior: dict(mean=0.5, variance=0.25),
}  # fmt: skip
"""A call of everything public that takes a number; numbers are such that float32 has them exactly."""
STANDS_FOR = {
    nelbo.codec.compress: compress,
    nelbo.codec.decompress: lambda **o: ARCHIVE["restored"](**o),
    nelbo.Overrides: lambda **o: nelbo.Overrides(**o).apply(CODED),
    nelbo.Monitor: lambda **o: nelbo.Monitor(**o).update(0).value,
    nelbo.RatioEstimator: lambda **o: nelbo.RatioEstimator(**o)(X[:4], step=2, draws=2).tolist(),
}
RESULTS = {
    "Bound",
    "Reading",
    "Contrast",
    "OdeLikelihood",
    "Profile",
    "Compressed",
    "Decompressed",
    "SamplerStep",
    "Solver",
}
"""What verbs return or hand to a sampler, and an abstract class: nobody makes them."""
OTHERS = {
    nelbo.testing.as_network,
    nelbo.testing.check_adapter,
    nelbo.from_diffusers,
    nelbo.from_transformers,
    nelbo.samplers.sample,
    nelbo.monitoring.lightning_callback,
    nelbo.monitoring.torchmetrics_metric,
    nelbo.monitoring.transformers_callback,
    D.Ancestral,
}
"""Adapters are tried in tests/adapters/, what belongs to other libraries in tests/monitoring/; `samplers.sample` is
what `nelbo.sample` calls; `Ancestral` takes a policy."""
ANY_SIGN = {
    "at", "shift", "low", "high", "range", "clip", "logsnr_max", "logsnr_min",
    "mean", "edges", "guidance", "target", "offset",
}  # fmt: skip
EXTRA = [
    estimators.Exhaustive,
    estimators.Stratified,
    adaptive.Adaptive,
    clip.Clip,
    clip.Threshold,
    prior.GaussianPrior,
]


def public(module: types.ModuleType, seen: set[int]) -> Iterator[Callable[..., Any]]:
    for name in getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")]):
        value = getattr(module, name)
        if id(value) in seen or not getattr(value, "__module__", getattr(value, "__name__", "")).startswith("nelbo"):
            continue
        seen.add(id(value))
        if isinstance(value, types.ModuleType):
            yield from public(value, seen) if name in nelbo.__all__ else ()
        elif callable(value):
            yield value


def annotated(target: Callable[..., Any]) -> list[inspect.Parameter]:
    """Parameters of a number or of several."""
    parameters = inspect.signature(target).parameters.values()
    return [p for p in parameters if {"int", "float"} & set(_words(str(p.annotation))) and "Callable" not in str(p)]


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() or c == "_" else " " for c in text).split()


def test_every_public_number_is_tried():
    found = {f for f in [*public(nelbo, set()), *EXTRA] if annotated(f) and f.__name__ not in RESULTS} - OTHERS
    found = {f for f in found if not f.__module__.startswith(("nelbo.equations", "nelbo.maths"))}
    assert found == set(EXAMPLES)


def described(value: Any) -> Any:
    """What a call made, such that two of them can be compared."""
    if isinstance(value, tuple) and hasattr(value[-1], "details"):
        return value[0].fingerprint(), [stage.bound.bits_per_dim for stage in value[1].stages]
    if isinstance(value, nelbo.DiffusionModel):
        return value.describe()
    if isinstance(value, Part):
        return repr(value.to_config()), {k: v.tolist() for k, v in value.to_tensors().items()}
    if hasattr(value, "nfe_total"):
        return value.to_dict() | {"seconds": None}
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return repr({k: v for k, v in vars(value).items() if not isinstance(v, torch.Tensor)}) if vars(value) else value


def foreign(value: Any) -> Any:
    """A number as numpy has it, a whole one also as torch's; several of them as an array."""
    if isinstance(value, bool) or not isinstance(value, (int, float, tuple)):
        return value
    if isinstance(value, tuple):
        return tuple(foreign(v) for v in value)
    return np.int64(value) if isinstance(value, int) else np.float32(value)


def call(target: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return STANDS_FOR.get(target, target)(**arguments)


@pytest.fixture(scope="module", autouse=True)
def archive(tmp_path_factory):
    pytest.importorskip("numba")
    ARCHIVE["path"] = tmp_path_factory.mktemp("numbers") / "x.nelbo"
    whole = tmp_path_factory.mktemp("numbers") / "whole.nelbo"
    nelbo.codec.compress(CODED, X, whole, few=True)
    ARCHIVE["restored"] = lambda **options: nelbo.codec.decompress(CODED, whole, **options)


def name_of(target: Callable[..., Any]) -> str:
    return f"{target.__module__.split('.')[-1]}.{target.__name__}"


@pytest.mark.parametrize("target", EXAMPLES, ids=name_of)
def test_numbers_of_numpy_are_numbers(target):
    arguments = EXAMPLES[target]
    theirs = {name: foreign(value) for name, value in arguments.items()}
    assert theirs.keys() & {p.name for p in annotated(target)}
    one, other = (call(target, given) for given in (arguments, theirs))
    if not hasattr(one, "__dict__") and not isinstance(one, (tuple, torch.Tensor)):
        assert one == other
        return
    assert described(one) == described(other)
    assert "np." not in str(described(other))


BAD = {"a bool": True, "nan": math.nan, "infinity": -math.inf, "text": "seven", "negative": -3, "too large": 2**70}
CASES = [
    pytest.param(target, p.name, kind, id=f"{name_of(target)}-{p.name}-{kind}")
    for target in EXAMPLES
    for p in annotated(target)
    if p.name in EXAMPLES[target]
    for kind in BAD
    if not (kind == "a bool" and "bool" in str(p.annotation))
    and not (kind == "text" and {"str", "Literal"} & set(_words(str(p.annotation))))
    and not (kind == "negative" and p.name in ANY_SIGN)
    and not (kind == "too large" and "float" in str(p.annotation))
]


@pytest.mark.parametrize(("target", "name", "kind"), CASES)
def test_what_is_no_number_is_refused(target, name, kind):
    """One error of nelbo's, which names the argument or shows its value."""
    value, arguments = BAD[kind], EXAMPLES[target]
    several = isinstance(arguments[name], tuple)
    given = (value, *arguments[name][1:]) if several else value
    with pytest.raises(NelboError) as caught:
        call(target, arguments | {name: given})
    text = str(caught.value)
    assert name in text or str(value) in text or any(word in text for word in name.split("_")), text


FOLDER = Path(__file__).parent
WRONG: dict[str, tuple[Any, ...]] = {
    "device": ("cuda:63", "gpu", 3, torch.device("meta"), ["cpu"]),
    "log": (3,), "progress": ("bar", 3), "message": (True,), "watch": (True,),
    "state": (FOLDER, "", 3, "a\0"), "workers": (2, True, "auto"),
    "overrides": ({"clip": True}, nelbo.Overrides, "clip"),
    "precision": ("fp16", torch.float32, ["float32"]), "estimator": (3, ["auto"]), "grid": (3, ["even"]),
    "solver": (3, ["rk4"]), "trace": ("exact", Hutchinson), "sampler": (3, ["ddim"]), "decoder": (["categorical"],),
    "predicts": (["eps"],), "time": (["index"],),
    "start": (3, "x", np.zeros((2, 4)), torch.full((3, 4), math.nan), torch.zeros(3, 4, device="meta")),
    "data": (3, None, "nothing", torch.zeros(4, 4, device="meta"), X.numpy().astype(object)),
    "model": (3, None, "nothing", zeros, X), "model_a": (3,),
    "values": (3, "x", object(), [], {"a": 1}, [torch.zeros(3), 1]), "at": (None, "x", {"a": 1}, math.nan),
    "given": (3, {"z": torch.zeros(3)}),
    "condition": (True, {"y": torch.zeros(64, device="meta")}),
}  # fmt: skip
"""Arguments that are no numbers, and what is given for them by mistake."""


def flags(target: Callable[..., Any]) -> list[str]:
    return [p.name for p in inspect.signature(target).parameters.values() if p.annotation in ("bool", "bool | None")]


NOT_PARTS = [
    pytest.param(target, name, value, id=f"{name_of(target)}-{name}-{i}")
    for target in EXAMPLES
    for name, values in {**WRONG, **dict.fromkeys(flags(target), ("yes", 3))}.items()
    for i, value in enumerate(values)
    if name in inspect.signature(target).parameters
    and target is not G.named
    and not (target.__module__.startswith("nelbo.codec") and name in ("model", "few"))
]


@pytest.mark.parametrize(("target", "name", "value"), NOT_PARTS)
def test_what_is_no_such_thing_is_refused(target, name, value):
    """A device, a function, a file, a flag or a part: one error of nelbo's, with a remedy."""
    with pytest.raises(NelboError) as caught:
        call(target, EXAMPLES[target] | {name: value})
    assert "\nhint: " in str(caught.value)


TRAINED = dict(data=X, config={"steps": 1, "batch_size": 8, "bins": 3, "net": {"name": "mlp", "width": 8}})
test_training_and_files_that_are_none = refusals(
    *(
        (lambda name=name, value=value: nelbo.train(**TRAINED | {"out": FOLDER / "run", name: value}), f"{name}=")
        for name, values in {"out": (3, "", b"x", None), "resume": (3,), **WRONG}.items()
        for value in values
        if name in ("out", "resume", "device", "progress", "message", "workers")
    ),
    (lambda: nelbo.codec.compress(3, X, FOLDER / "x"), "class int"),
    (lambda: nelbo.codec.compress(CODED, X, FOLDER / "x", few=3), "few=3"),
    (lambda: nelbo.codec.compress(CODED, X, FOLDER), "is a folder"),
    (lambda: nelbo.codec.compress(CODED, X, ""), "path=''"),
    (lambda: nelbo.codec.decompress(CODED, 3), "path=3"),
    (lambda: nelbo.codec.decompress(CODED, ARCHIVE["path"], b"x"), "out=b'x'"),
    (lambda: nelbo.save_pretrained(EXACT, 3), "out=3"),
    (lambda: nelbo.tighten(EXACT, X, out=""), "out=''"),
)


def test_a_state_file_makes_its_folder(tmp_path):
    nelbo.evaluate(CODED, X, max_nfe=400, state=tmp_path / "new" / "state")
    assert (tmp_path / "new" / "state").stat().st_size > 0


ELSEWHERE = torch.nn.Linear(4, 4, device="meta")
test_networks_that_have_no_values = refusals(
    (lambda: coded(lambda z, t: torch.zeros_like(z, device="meta")), "returned one on meta"),
    (lambda: coded(lambda z, t: ELSEWHERE(z)), "the parameter weight is on the device meta|parameter .*weight"),
)


def test_settings_of_a_training_run():
    theirs = {"steps": np.int64(3), "lr": np.float32(0.5), "net": {"width": np.int32(8)}, "ema": torch.tensor(0.5)}
    ours = {"steps": 3, "lr": 0.5, "net": {"width": 8}, "ema": 0.5}
    assert check_config(theirs) == TrainConfig(**ours)
    assert type(check_config(theirs).net.settings["width"]) is int


test_settings_that_are_no_numbers = refusals(
    (lambda: check_config({"steps": True}), r"steps = True"),
    (lambda: check_config({"batch_size": np.float64(2.5)}), r"batch_size = 2\.5"),
    (lambda: check_config({"lr": math.nan}), r"lr = nan"),
    (lambda: check_config({"lr": math.inf}), r"lr = inf"),
    (lambda: check_config({"seed": -1}), r"seed = -1"),
)


def test_plain():
    value = {"a": [np.float64(0.5), (np.int8(3), torch.tensor(2))], "b": np.bool_(True), "c": "c", "d": None}
    assert repr(plain(value)) == "{'a': [0.5, (3, 2)], 'b': True, 'c': 'c', 'd': None}"


def test_python_s_own_numbers_stay_as_they_are():
    """A part writes its fields into its fingerprint, where 8 and 8.0 differ."""

    @numbers
    def f(a: int, b: float, c: tuple[float, ...] = (), d: float = math.inf, *, e: int | None = None, g: bool = False):
        return a, b, c, d, e, g

    big = 10**18 + 1
    assert repr(f(big, 8, (1, 2.0), e=None)) == f"({big}, 8, (1, 2.0), inf, None, False)"
    assert repr(f(np.uint8(7), np.float32(0.1), np.array([1.5]), e=torch.tensor(3), g=np.bool_(True))) == (
        "(7, 0.10000000149011612, (1.5,), inf, 3, True)"
    )
    with pytest.raises(UsageError, match="d=-inf is not finite"):
        f(1, 1.0, (), -math.inf)
    with pytest.raises(TypeError, match="unexpected keyword"):
        f(1, 1.0, h=3)
