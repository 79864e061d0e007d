"""The networks: shapes, starts, what their outputs depend on, and refusals by name."""

from __future__ import annotations

import pytest
import torch

from nelbo.errors import ShapeError, UnknownNameError, UsageError
from nelbo.nets import NETS, build
from nelbo.nets.embedding import LogSNREmbedding
from nelbo.nets.head import LogitHead, PixelLogitHead

ENDS = {"logsnr_max": 5.0, "logsnr_min": -6.0}
SMALL = {
    "mlp": {"width": 16, "embedding": 8, "blocks": 1},
    "unet": {"width": 8, "multipliers": [1, 2, 2]},
    "unet2d": {"block_out_channels": [8, 16]},
    "set": {"width": 16, "blocks": 2, "embedding": 8},
}
CASES = {
    "mlp (D,)": ("mlp", (5,), {}),
    "mlp (H, W)": ("mlp", (3, 4), {"blocks": 2}),
    "mlp (C, H, W)": ("mlp", (2, 3, 3), {"dropout": 0.0}),
    "unet (H, W)": ("unet", (8, 8), {}),
    "unet odd": ("unet", (7, 5), {"patch": 1}),
    "unet halves to odd": ("unet", (1, 14, 10), {}),
    "unet one row": ("unet", (1, 6), {"patch": 1, "blocks": 2}),
    "unet (C, H, W)": ("unet", (3, 8, 12), {"attention": False, "multipliers": [1, 2]}),
    "unet patch 3": ("unet", (2, 9, 6), {"patch": 3, "multipliers": [1]}),
    "unet in noise units": ("unet", (2, 10, 6), {"patch": 1, "shuffle": True, "noise_units": True}),
    "unet of other widths": ("unet", (9, 6), {"patch": 3, "width": 16, "multipliers": [1, 1.5, 2]}),
    "unet2d (H, W)": ("unet2d", (8, 8), {}),
    "unet2d (C, H, W)": ("unet2d", (3, 4, 8), {"layers_per_block": 2}),
    "set (n, F)": ("set", (5, 2), {}),
    "set (n,)": ("set", (4,), {"heads": 2}),
}
PLAIN = {"unet2d", "set"}
"""Networks without a categorical head."""


def make(name: str, codes: int | None, kicked: bool = False) -> torch.nn.Module:
    kind, shape, settings = CASES[name]
    if kind == "unet2d":
        pytest.importorskip("diffusers")
    net = build(kind, {**SMALL[kind], **settings}, shape=shape, codes=codes, **ENDS).eval()
    if kicked:
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.2 * torch.randn_like(p))
    return net


def inputs(name: str, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, *CASES[name][1]), torch.linspace(4.0, -5.0, batch)


def test_every_network_has_a_case():
    assert {kind for kind, _, _ in CASES.values()} == set(NETS)


@pytest.mark.parametrize("codes", [None, 6])
@pytest.mark.parametrize("name", CASES)
def test_laws(name, codes):
    """Shape; zero at the start; then a function of its own input and λ alone, with a gradient for every parameter."""
    if codes is not None and CASES[name][0] in PLAIN:
        with pytest.raises(UsageError, match=r"net\.head=plain"):
            make(name, codes)
        return
    z, logsnr = inputs(name)
    fresh = make(name, codes)(z, logsnr)
    assert fresh.shape == (z.shape if codes is None else (*z.shape, codes)) and bool((fresh == 0).all())

    net, z, logsnr = make(name, codes, kicked=True).double(), z.double(), logsnr.double()
    out = net(z, logsnr).detach()
    assert bool(torch.isfinite(out).all()) and out.dtype == torch.float64
    for i in range(len(z)):
        torch.testing.assert_close(net(z[i : i + 1], logsnr[i : i + 1]), out[i : i + 1], rtol=1e-9, atol=1e-10)
    assert float((net(z, logsnr + 1) - out).detach().abs().max()) > 1e-4, "λ does not reach the output"

    # Any input pixel reaches any output pixel: through attention, depth or, in the MLP, at once.
    z = z[:1].clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(z, logsnr[:1]).reshape(1, z.numel(), -1)[0, 0].sum(), z)
    assert bool((slope != 0).all())

    loss = net(z, logsnr[:1]).square().sum()
    loss.backward()
    for label, p in net.named_parameters():
        if name.startswith("unet2d") and label.endswith("to_k.bias"):
            continue  # of an attention: added to every key alike, which no softmax notices
        assert p.grad is not None and float(p.grad.abs().max()) > 0, label


@pytest.mark.parametrize("name", ["mlp (C, H, W)", "unet (C, H, W)", "unet (H, W)"])
def test_pixels_are_not_mixed_up(name):
    """Output element d answers for input element d: a network fitted to copy its input does so, element by element."""
    net = make(name, None)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(80):
        z = torch.randn(16, *CASES[name][1], generator=generator)
        loss = (net(z, torch.zeros(16)) - z).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    z = torch.randn(64, *CASES[name][1], generator=generator)
    out = net(z, torch.zeros(64))
    flat_in, flat_out = z.flatten(1), out.detach().flatten(1)
    correlation = (flat_in.T @ flat_out) / 64  # (D, D), near the identity where pixels stay in place
    assert bool((correlation.argmax(0) == torch.arange(flat_in.shape[1])).float().mean() > 0.9)


def test_a_set_has_no_order_and_no_padding():
    """Equivariant to permutations; what the padding holds changes no bit, and points in it change nothing; with labels,
    too."""
    for classes in (None, 3):
        torch.manual_seed(0)
        net = build("set", {"width": 16, "blocks": 2, "classes": classes}, shape=(6, 2), codes=None, **ENDS).double()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.2 * torch.randn_like(p))
        z, logsnr, order = torch.randn(2, 6, 2).double(), torch.tensor([3.0, -2.0]).double(), torch.randperm(6)
        told = {} if classes is None else {"y": torch.tensor([0, 2])}
        mask = torch.arange(6) < torch.tensor([[6], [4]])
        out = net(z, logsnr, mask=mask, **told)
        torch.testing.assert_close(net(z[:, order], logsnr, mask=mask[:, order], **told), out[:, order])
        other = torch.where(mask[..., None], z, torch.full_like(z, float("nan")))
        assert torch.equal(net(other, logsnr, mask=mask, **told)[mask], out[mask])
        alone = {name: rows[1:] for name, rows in told.items()}
        torch.testing.assert_close(net(z[1:, :4], logsnr[1:], **alone), out[1:, :4])


def test_start_of_the_logit_heads():
    """`start_at` makes the first softmax the given frequencies: per pixel, or averaged over the pixels of a channel."""
    p = torch.rand(2, 3, 4, 5).double() + 0.1
    p = p / p.sum(-1, keepdim=True)
    head = LogitHead(7, (2, 3, 4), 5, rank=2)
    head.start_at(p.log().float())
    torch.testing.assert_close(head(torch.randn(3, 7)).softmax(-1), p.float().expand(3, -1, -1, -1, -1))
    shared = PixelLogitHead((2, 3, 4), 5, rank=2)
    shared.start_at(p.log().float())
    out = shared(torch.zeros(3, 2 * 2, 3, 4)).softmax(-1)
    torch.testing.assert_close(out, p.mean((1, 2)).float()[:, None, None, :].expand(3, -1, 3, 4, -1))
    flat = PixelLogitHead((3, 4), 5, rank=2)
    flat.start_at(p[0].log().float())
    torch.testing.assert_close(flat(torch.zeros(1, 2, 3, 4)).softmax(-1)[0, 1, 2], p[0].mean((0, 1)).float())


def test_low_rank_logits_by_hand():
    """logits_dk = Σ_r a_dr b_rk + c_dk, channel by channel, for the head after a convolution too."""
    head = PixelLogitHead((2, 3, 4), 5, rank=3)
    with torch.no_grad():
        head.bias.normal_()
    coefficients = torch.randn(2, 2 * 3, 3, 4)
    out = head(coefficients)
    for b, c, i, j in ((0, 0, 0, 0), (1, 1, 2, 3), (0, 1, 1, 2)):
        a = coefficients[b, 3 * c : 3 * c + 3, i, j]
        torch.testing.assert_close(out[b, c, i, j], a @ head.basis + head.bias[c])


def test_embedding_tells_levels_apart():
    """sin and cos of u = (λ − λ_min)/(λ_max − λ_min) at 0.5 … 8: distinct everywhere on the chain, and beyond."""
    embedding = LogSNREmbedding(4, 5.0, -6.0)
    angle = (torch.tensor([1.2]) + 6.0) / 11.0 * torch.linspace(0.5, 8.0, 8)
    expected = embedding.layers(torch.cat([angle.sin(), angle.cos()])[None])
    torch.testing.assert_close(embedding(torch.tensor([1.2])), expected)
    assert not list(embedding.buffers()) or "frequency" not in embedding.state_dict()


def test_dropout_is_off_in_evaluation():
    net = make("mlp (D,)", None, kicked=True)
    z, logsnr = inputs("mlp (D,)")
    assert torch.equal(net(z, logsnr), net(z, logsnr))
    net.train()
    assert not torch.equal(net(z, logsnr), net(z, logsnr))


@pytest.mark.parametrize(
    ("name", "shape", "settings", "error", "match"),
    [
        ("unett", (4, 4), {}, UnknownNameError, "mlp, set, unet"),
        ("unet2d", (4,), {}, ShapeError, r"\(4,\)"),
        ("unet2d", (8, 8), {"widths": 3}, UnknownNameError, "block_out_channels"),
        ("unet2d", (8, 8), {"block_out_channels": [7]}, UsageError, "unet2d"),
        ("mlp", (4,), {"depth": 3}, UnknownNameError, "blocks"),
        ("mlp", (4,), {"width": "wide"}, UsageError, "width"),
        ("mlp", (4,), {"width": -3}, UsageError, "-3"),
        ("mlp", (4,), {"dropout": 1.5}, UsageError, r"1\.5"),
        ("mlp", (4,), {"shape": (3,)}, UnknownNameError, "shape"),
        ("unet", (7, 8), {}, ShapeError, r"patches of 2 × 2 .* \(7, 8\)"),
        ("unet", (16,), {"patch": 1}, ShapeError, r"\(16,\)"),
        ("unet", (2, 2, 2, 2), {"patch": 1}, ShapeError, r"\(2, 2, 2, 2\)"),
        ("unet", (8, 8), {"width": 12}, UsageError, "12"),
        ("unet", (8, 8), {"patch": 0}, UsageError, "patch"),
        ("unet", (8, 8), {"size": "huge"}, UnknownNameError, "tiny"),
        ("unet2d", (8, 8), {"size": "tiny"}, UsageError, "no sizes"),
    ],
)
def test_refusals(name, shape, settings, error, match):
    with pytest.raises(error, match=match):
        build(name, settings, shape=shape, codes=None, **ENDS)


def test_outputs_and_features():
    """Several numbers an element stand map after map on axis 1; Fourier features have the period of their code."""
    z, logsnr = torch.randn(2, 3, 8, 8), torch.zeros(2)
    net = build("unet", {"width": 8, "multipliers": [1], "outputs": 4}, shape=(3, 8, 8), codes=None, **ENDS)
    net.head.start_at(torch.arange(4.0))
    out = net(z, logsnr).unflatten(1, (4, 3))
    assert bool((out == torch.arange(4.0).reshape(1, 4, 1, 1, 1)).all())
    vector = build("mlp", {"width": 8, "outputs": 2}, shape=(5,), codes=None, **ENDS)
    assert vector(torch.randn(2, 5), logsnr).shape == (2, 10)
    planar = build("unet", {"width": 8, "multipliers": [1], "outputs": 2}, shape=(8, 8), codes=None, **ENDS)
    assert planar(z[:, 0], logsnr).shape == (2, 16, 8)

    step = 2 / 15
    seen = build("unet", {"width": 8, "multipliers": [1], "fourier": [1, 2, 4], "step": step}, shape=(1, 4, 4),
                 codes=None, **ENDS)  # fmt: skip
    code = torch.arange(16.0).reshape(1, 1, 4, 4)
    feature = seen._waves(-1 + step * code)
    assert feature.shape == (1, 7, 4, 4)
    for k, period in enumerate((1, 2, 4)):  # the same again after a period of codes, and at half of one turned round
        for row in (feature[0, 1 + k].flatten(), feature[0, 4 + k].flatten()):
            torch.testing.assert_close(row[period:], row[:-period], rtol=0, atol=2e-5)
            if period > 1:
                torch.testing.assert_close(row[period // 2 :], -row[: -(period // 2)], rtol=0, atol=2e-5)
    assert float(feature[0, 2].square().mean() + feature[0, 5].square().mean()) == pytest.approx(1, abs=1e-4)


def test_sizes():
    """`size` stands for settings, which the recipe then holds themselves; others come on top."""
    net = build("mlp", {"size": "tiny", "width": 16}, shape=(4,), codes=None, **ENDS)
    assert net.recipe["settings"] == {"width": 16, "blocks": 2}
    for name in ("mlp", "unet"):
        count = [
            sum(p.numel() for p in build(name, {"size": s}, shape=(1, 8, 8), codes=None, **ENDS).parameters())
            for s in ("tiny", "small")
        ]
        assert count[0] < count[1] / 2
