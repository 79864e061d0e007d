"""Squared norms in tiles: those of the rows, and differentiable."""

import torch

from nelbo.maths import random, tiles


def test_a_squared_norm_is_that_of_its_rows(monkeypatch):
    a, b = random.normal(0, torch.arange(50), 0, 0, (3, 7)), random.normal(0, torch.arange(50), 1, 0, (3, 7))
    expected = (a - b).square().sum((1, 2))
    for near in (1, 100, 1 << 16):
        monkeypatch.setattr(tiles, "NEAR", near)
        assert torch.allclose(tiles.squared_norm(a, b), expected, rtol=1e-14)
    assert tiles.squared_norm(a[:0], b[:0]).shape == (0,)
    a.requires_grad_()
    (slope,) = torch.autograd.grad(tiles.squared_norm(a, b).sum(), a)
    assert torch.allclose(slope, 2 * (a.detach() - b))
