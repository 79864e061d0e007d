"""The learning rate; Muon: its updates are orthogonal, and its other groups are AdamW's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nelbo.errors import UsageError
from nelbo.nets import build, mlp, unet
from nelbo.training.optimizer import Muon, learning_rate_factor, make_optimizer, orthogonal
from nelbo.training.settings import check_config


def test_learning_rate():
    """Up in a straight line, down on a cosine to a hundredth."""
    assert learning_rate_factor(0, 10**6, 100) == pytest.approx(0.01)
    assert learning_rate_factor(49, 10**6, 100) == pytest.approx(0.5)
    assert learning_rate_factor(500, 1000, 100) == pytest.approx(0.505)
    assert learning_rate_factor(1000, 1000, 100) == pytest.approx(0.01)
    assert learning_rate_factor(0, 1000, 0) == 1.0


def spectrum(s: torch.Tensor) -> torch.Tensor:
    """What the rounds make of singular values of a matrix of Frobenius norm 1."""
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


@pytest.mark.parametrize("shape", [(12, 12), (8, 40), (40, 8), (3, 16, 9)], ids=str)
def test_orthogonal(shape):
    """The singular vectors stay, and the values become near 1, whatever the scale of the matrix."""
    X = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    U, s, Vh = torch.linalg.svd(X, full_matrices=False)
    expected = spectrum(s / s.norm(dim=-1, keepdim=True))
    for scale in (1.0, 1e-4):
        torch.testing.assert_close(orthogonal(scale * X), (U * expected[..., None, :]) @ Vh, rtol=0, atol=1e-8)
    assert ((expected > 0.5) & (expected < 1.3)).all(), "values that are not small come near 1"
    assert not orthogonal(torch.zeros(2, 3, 4)).any()


def test_a_step_is_its_formula():
    """Two steps of a convolution and a bias: the one by momentum, SVD and the scale, the other as AdamW makes it."""
    torch.manual_seed(0)
    weight, bias = nn.Parameter(torch.randn(6, 4, 3, 3).double()), nn.Parameter(torch.randn(5).double())
    other = nn.Parameter(bias.detach().clone())
    groups = [{"params": [weight], "weight_decay": 0.1, "orthogonal": True}, {"params": [bias], "weight_decay": 0.0}]
    optimizer, adamw = Muon(groups, 0.02, momentum=0.9), torch.optim.AdamW([other], 0.02, weight_decay=0.0)
    expected, momentum = weight.detach().reshape(6, 36).clone(), torch.zeros(6, 36).double()
    for _ in range(2):
        gradient = torch.randn_like(weight)
        weight.grad, bias.grad = gradient, torch.randn_like(bias)
        other.grad = bias.grad.clone()
        optimizer.step()
        adamw.step()
        flat = gradient.reshape(6, 36)
        momentum = 0.9 * momentum + 0.1 * flat
        U, s, Vh = torch.linalg.svd(0.1 * flat + 0.9 * momentum, full_matrices=False)
        expected = (1 - 0.02 * 0.1) * expected - 0.02 * 0.2 * 6.0 * (U * spectrum(s / s.norm())) @ Vh
        torch.testing.assert_close(weight.detach().reshape(6, 36), expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(bias, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("net", "inner"),
    [
        (unet.UNet((8, 8), None, 9.0, -7.0, width=8, multipliers=(1, 2), patch=1), "down.0.conv1.weight"),
        (mlp.ResidualMLP((8, 8), 17, 9.0, -7.0), "blocks.0.first.weight"),
    ],
    ids=["unet", "mlp"],
)
def test_groups_of_parameters(net, inner):
    """Every parameter is in one group; the inner matrices are Muon's, the layers at the ends and all biases are not."""

    class Denoiser(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

    optimizer = make_optimizer(Denoiser(), nn.Module(), check_config({"optimizer": "muon"}))
    names = {id(p): name for name, p in net.named_parameters()}
    groups = [[names.pop(id(p)) for p in group["params"]] for group in optimizer.param_groups]
    assert not names, "some parameters are not trained"
    orthogonalised, decayed, others = groups
    assert inner in orthogonalised
    assert all(n.split(".")[0] in net.hidden and n.endswith("weight") for n in orthogonalised)
    ends = ("stem", "out", "inner", "head", "embedding")
    assert decayed and all(n.startswith(ends) for n in decayed)
    assert all(n.endswith("bias") or "norm" in n for n in others)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.5, 0.5, 0.0]


def test_inner_layers_of_other_networks():
    """Those of diffusers' U-Net, and of a network with labels, exist."""
    pytest.importorskip("diffusers")
    ends = {"codes": None, "logsnr_max": 9.0, "logsnr_min": -7.0}
    settings = {"unet2d": {"block_out_channels": [8, 16]}, "unet": {"classes": 3, "width": 8, "multipliers": [1]}}
    for name, own in settings.items():
        net = build(name, own, shape=(1, 8, 8), **ends)
        inner = [n for n, p in net.named_parameters() if n.startswith(tuple(f"{h}." for h in net.hidden))]
        assert all(any(n.startswith(f"{h}.") for n in inner) for h in net.hidden), net.hidden
        assert not any("conv_in" in n or "conv_out" in n or "stem" in n or "embedding" in n for n in inner)


def test_a_network_that_names_no_inner_layers():
    with pytest.raises(UsageError, match="does not name its inner layers") as caught:
        make_optimizer(nn.Linear(2, 2), nn.Module(), check_config({"optimizer": "muon"}))
    assert "optimizer=adamw" in caught.value.hint
