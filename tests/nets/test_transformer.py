"""The transformer over symbols: its start, what its outputs depend on, its places, and refusals by name."""

from __future__ import annotations

import pytest
import torch

from nelbo.errors import UnknownNameError, UsageError
from nelbo.nets import TOKEN_NETS, build_for_tokens
from nelbo.nets.build import SIZES
from nelbo.nets.transformer import _turned, _turns

V = 5
SMALL = {"width": 8, "blocks": 2, "heads": 2}
CASES = {
    "plain": ("none", {}),
    "without convolution": ("none", {"reach": 0}),
    "count": ("count", {}),
    "fraction": ("mask_fraction", {"dropout": 0.1}),
    "unit": ("unit", {}),
    "sigma": ("sigma", {}),
    "classes": ("none", {"classes": 3}),
    "time and classes": ("unit", {"classes": 3, "keyword": "label"}),
}
TIMES = {"count": torch.tensor([1, 4, 7]), "sigma": torch.tensor([0.0, 0.7, 9.0])}


def make(name: str, kicked: bool = True) -> torch.nn.Module:
    time, settings = CASES[name]
    net = build_for_tokens("transformer", {**SMALL, **settings}, vocabulary=V, time=time).eval()
    if kicked:
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.3 * torch.randn_like(p))
    return net.double()


def call(
    name: str, net: torch.nn.Module, z: torch.Tensor, shift: float = 0.0, label: int = 0, **more: torch.Tensor
) -> torch.Tensor:
    time, settings = CASES[name]
    given = () if time == "none" else (TIMES.get(time, torch.tensor([0.1, 0.5, 1.0]))[: len(z)].double() + shift,)
    y = (torch.arange(len(z)) + label) % 3
    return net(z, *given, **more, **({settings.get("keyword", "y"): y} if "classes" in settings else {}))


@pytest.mark.parametrize("name", CASES)
def test_laws(name):
    """Zero at the start; then a function of its own sequence, time and label alone, every place of every place, with a
    gradient for every parameter, for sequences of any length."""
    z = torch.randint(V + 1, (3, 7))
    z[:, 0] = V
    assert bool((call(name, make(name, kicked=False), z) == 0).all())
    net = make(name)
    out = call(name, net, z)
    assert out.shape == (3, 7, V) and out.dtype == torch.float64
    for i in range(3):
        torch.testing.assert_close(call(name, net, z[[i] * 3])[i], out[i], rtol=1e-9, atol=1e-10)
    chosen = z > 2
    assert torch.equal(call(name, net, z, places=chosen), out[chosen])
    for place in (1, 6):
        changed = z.clone()
        changed[:, place] = (z[:, place] + 1) % V
        assert bool(((call(name, net, changed) - out).abs().amax(-1) > 1e-9).all())
    time, settings = CASES[name]
    if time != "none":
        assert float((call(name, net, z, shift=0.3) - out).detach().abs().max()) > 1e-4
    if "classes" in settings:
        assert float((call(name, net, z, label=1) - out).detach().abs().max()) > 1e-4
    out.square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in net.parameters())
    assert call(name, net, z[:, :2]).shape == (3, 2, V)


def test_queries_and_keys_meet_by_distance():
    """A query at one place and a key at another have a product that depends on their distance alone."""
    turn = _turns(6, 4, torch.zeros(1, dtype=torch.float64))
    q, k = (_turned(v.expand(6, 4), turn) for v in torch.randn(2, 1, 4, dtype=torch.float64))
    scores = q @ k.T
    for distance in range(-4, 5):
        along = scores.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along))
    assert float((scores[0] - scores[0, 0]).abs().max()) > 1e-3


def test_sizes_hold_their_numbers():
    for size in SIZES["transformer"]:
        with torch.device("meta"):
            net = build_for_tokens("transformer", {"size": size}, vocabulary=V)
        assert net.recipe == {"name": "transformer", "settings": SIZES["transformer"][size]}
    assert set(TOKEN_NETS) == {"transformer"}


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"width": 10, "heads": 4}, UsageError, "multiple of twice the heads"),
        ({"blocks": 0}, UsageError, "a block at least"),
        ({"dropout": 1.0}, UsageError, "dropout"),
        ({"depth": 3}, UnknownNameError, "depth"),
        ({"width": "wide"}, UsageError, "width is a whole number"),
        ({"vocabulary": 9}, UnknownNameError, "vocabulary"),
    ],
)
def test_settings_are_refused(settings, error, words):
    with pytest.raises(error, match=words):
        build_for_tokens("transformer", settings, vocabulary=V)


def test_calls_are_refused():
    z = torch.zeros(3, 2, dtype=torch.long)
    for name, arguments, condition, words in (
        ("plain", (torch.zeros(3),), {}, "time is 'none'"),
        ("unit", (), {}, "time is 'unit', called without"),
        ("plain", (), {"y": torch.zeros(3)}, "without classes"),
        ("classes", (), {}, "conditional on 'y'"),
        ("classes", (), {"y": torch.tensor([0, 1, 3])}, "labels from 0 to 3"),
    ):
        with pytest.raises(UsageError, match=words):
            make(name)(z, *arguments, **condition)
    with pytest.raises(UnknownNameError, match="transformer"):
        build_for_tokens("unet", {}, vocabulary=V)
