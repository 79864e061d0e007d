"""Somebody else's model on the command line: a function in a module, what it leaves open, and conditions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import nelbo as library
from nelbo.adapters.choices import Overrides
from nelbo.data import read
from nelbo.errors import NelboError, UnknownNameError, UsageError
from nelbo.model.decoder import Categorical, ContinuousGaussian, DiscretizedGaussian
from nelbo.model.reverse import Beta, LearnedRange
from tests.expected import early_end, untrained

pytestmark = untrained

PLUGIN = """
import torch
import nelbo
from nelbo.data import read

def network(z, t, y=None):
    shift = 0 if y is None else 0.1 * y[:, None, None]
    return 0.9 * torch.tanh(z + 0.001 * t[:, None, None] + shift)

def model(**options):
    schedule = nelbo.schedules.linear(12, 1e-3, 0.4)
    return nelbo.from_callable(network, schedule=schedule, domain=nelbo.DataDomain((8, 8), bins=17), **options)

def both(z, t):
    return torch.cat([network(z, t), torch.tanh(z)], 1)

def learned():
    schedule = nelbo.schedules.linear(12, 1e-3, 0.4)
    domain = nelbo.DataDomain((8, 8), bins=17)
    return nelbo.from_callable(both, schedule=schedule, domain=domain, variance="learned_range")

def seen():
    return model(trained_on=read("digits:test").data[:3])
"""
TWO = ("--data", "digits:test", "--limit", "6", "--estimator", "stratified")


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The module `theirs` in the current directory."""
    (tmp_path / "theirs.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "theirs", raising=False)
    return tmp_path


def test_what_it_leaves_open_is_said_and_recorded(nelbo, plugin):
    plain = nelbo("evaluate", "theirs:model", *TWO, "--json").json
    assert plain["overrides"] == {} and plain["variance"]["kind"] == "beta_tilde" and plain["clipping"] is None
    result = nelbo("evaluate", "theirs:model", *TWO, "--variance", "beta", "--clip", "--json").json
    assert result["overrides"] == {"variance": "beta", "clip": True}
    assert result["variance"]["kind"] == "beta" and result["clipping"] == {"kind": "range", "low": -1.0, "high": 1.0}
    assert result["decoder"]["variance"] == pytest.approx(1e-3, rel=1e-9)  # β_1: the decoder follows the policy
    assert result["bits_per_dim"] != plain["bits_per_dim"]
    assert result["model"]["fingerprint"] != plain["model"]["fingerprint"]
    wide = nelbo("evaluate", "theirs:model", *TWO, "--range", "0", "1", "--bins", "256", "--json").json
    assert wide["domain"]["low"] == 0.0 and wide["domain"]["high"] == 1.0 and wide["domain"]["bins"] == 256
    named = nelbo("evaluate", "theirs:model", *TWO, "--decoder", "categorical", "--no-clip", "--json").json
    assert named["decoder"]["kind"] == "categorical" and named["overrides"] == {"decoder": "categorical", "clip": False}
    table = nelbo("evaluate", "theirs:model", *TWO, "--variance", "beta").out
    assert "chosen        variance beta" in table


@early_end
def test_the_number_is_that_of_the_model_built_so(nelbo, plugin):
    """The flags give what from_callable gives when it is given the same, to the last bit."""
    import importlib

    theirs = importlib.import_module("theirs")
    result = nelbo("evaluate", "theirs:model", *TWO, "--variance", "beta", "--clip", "--json").json
    built = library.evaluate(theirs.model(variance="beta", clip=True), "digits:test", limit=6, estimator="stratified")
    assert result["bits_per_dim"] == built.bits_per_dim
    fixed = nelbo("evaluate", "theirs:learned", *TWO, "--variance", "beta_tilde", "--json").json
    assert fixed["decoder"]["spread"] is None and fixed["overrides"] == {"variance": "beta_tilde"}


def test_compare_and_sample_take_the_same_flags(nelbo, plugin):
    result = nelbo(
        "compare", "theirs:model", "theirs:learned", "--data", "digits:test", "--limit", "8", "--tolerance", "5",
        "--variance", "beta", "--json",
    ).json  # fmt: skip
    assert result["overrides"] == {"variance": "beta"}
    assert {m["variance"]["kind"] for m in result["models"].values()} == {"beta"}
    two = ("sample", "theirs:model", "-n", "2", "--variance", "beta")
    drawn = nelbo(*two, "--condition", "y=3", "--out", "a.npz", "--json")
    assert drawn.json["overrides"] == {"variance": "beta"} and drawn.json["condition"] == "y=3"
    nelbo(*two, "--out", "b.npz")
    assert not np.array_equal(np.load("a.npz")["samples"], np.load("b.npz")["samples"])


@early_end
def test_conditions_come_from_the_labels(nelbo, plugin):
    """--condition y hands each example its own label: the bound of each is that of its class alone."""
    images = read("digits:test", limit=6)
    result = nelbo("evaluate", "theirs:model", *TWO, "--condition", "y", "--per-example", "rows.npz", "--json").json
    assert result["nats_per_example"] is not None
    by_hand = library.evaluate(
        library.load("theirs:model"), images, condition={"y": images.labels}, estimator="stratified", per_example=True
    )
    assert result["nats_per_example"] == by_hand.per_example.nats.tolist()
    other = library.evaluate(library.load("theirs:model"), images, estimator="stratified", per_example=True)
    assert not torch.equal(other.per_example.nats, by_hand.per_example.nats)
    assert torch.equal(other.per_example.nats[images.labels == 0], by_hand.per_example.nats[images.labels == 0])


def test_training_examples_are_noticed(nelbo, plugin):
    result = nelbo("evaluate", "theirs:seen", *TWO, "--json")
    assert any(w.startswith("3 of 6 examples are among those") for w in result.json["warnings"])
    assert "warning: 3 of 6 examples" in result.err


REFUSED = [
    (("evaluate", "theirs:model", "--variance", "betas"), "unknown variance policy 'betas'"),
    (("compare", "theirs:model", "theirs:model", "--variance", "betas"), "unknown variance policy 'betas'"),
    (("evaluate", "theirs:model", "--variance", "learned_range"), "takes what a network says"),
    (("evaluate", "theirs:model", "--condition", "9"), "the condition '9'"),
    (("evaluate", "theirs:model", "--condition", "z"), "cannot be called with (z, time) and condition 'z'"),
    (("evaluate", "theirs:model", "--data", "plain.npy", "--condition", "y"), "takes the labels of the data"),
]


@pytest.mark.parametrize(("arguments", "says"), REFUSED, ids=[" ".join(a) for a, _ in REFUSED])
def test_nonsense_is_refused_with_the_remedy(nelbo, plugin, arguments, says):
    np.save("plain.npy", np.zeros((3, 8, 8), np.uint8))
    data = () if "--data" in arguments else ("--data", "digits:test")
    assert says in nelbo(*arguments, *data).refused()


@pytest.mark.parametrize("condition", ["y", "=3", "y=", "y=a", "1=2"])
def test_a_class_to_draw(nelbo, plugin, condition):
    result = nelbo("sample", "theirs:model", "-n", "1", "--out", "a.npz", "--condition", condition)
    assert f"--condition {condition}" in result.refused()


# ---------------------------------------------------------------- Overrides in Python

DOMAIN = library.DataDomain((3,), 16)
TABLE = library.schedules.linear(12, 1e-3, 0.4)


def made(**options):
    return library.from_callable(lambda z, t: z, schedule=TABLE, domain=DOMAIN, **options)


def test_nothing_chosen_is_the_model_itself():
    model = made()
    assert Overrides().apply(model) is model and not Overrides() and Overrides(clip=False)
    assert Overrides(range=(0.0, 1.0), variance=Beta()).to_json() == {"range": [0.0, 1.0], "variance": {"kind": "beta"}}
    assert json.dumps(Overrides(decoder=Categorical(), bins=3).to_json())


def test_a_decoder_follows_only_where_it_followed():
    usual, own = made(), made(decoder=DiscretizedGaussian(0.5))
    assert Overrides(variance="beta").apply(usual).decoder.variance == pytest.approx(1e-3)
    assert Overrides(variance="beta").apply(own).decoder.variance == 0.5
    named = Overrides(variance="beta", decoder="discretized_gaussian").apply(own)
    assert named.decoder.variance == pytest.approx(1e-3)
    late = Overrides(variance="beta").apply(made(first_level=3))
    assert late.decoder.variance == pytest.approx(float(TABLE.at_index(3).sigma ** 2))
    real = library.from_callable(lambda z, t: z, schedule=TABLE, domain=library.DataDomain((3,)))
    assert isinstance(real.decoder, ContinuousGaussian)
    pixels = Overrides(bins=8, range=(0, 1), decoder="discretized_gaussian", clip=True).apply(real)
    assert pixels.domain.bins == 8 and pixels.reverse.clip.high == 1.0
    assert Overrides(clip=False).apply(pixels).reverse.clip is None


@pytest.mark.parametrize(
    ("chosen", "error", "match"),
    [
        (Overrides(variance="betas"), UnknownNameError, "beta, beta_tilde"),
        (Overrides(variance=LearnedRange()), UsageError, "twice the channels"),
        (Overrides(decoder="continuous_gaussian"), UsageError, "gives a density"),
        (Overrides(clip=(1.0,)), UsageError, "a pair"),
        (Overrides(range=(1.0, 0.0)), NelboError, "from 1.0 to 0.0"),
        (Overrides(bins=1), UsageError, "1 bins"),
    ],
)
def test_refused_in_python(chosen, error, match):
    with pytest.raises(error, match=match):
        chosen.apply(made())
