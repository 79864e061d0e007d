"""Grids: the right pixel in the right place, read back by Pillow, which knows nothing of the encoder."""

from __future__ import annotations

import io

import numpy as np
import pytest

from nelbo.errors import ShapeError, UsageError
from nelbo.report import grid

Image = pytest.importorskip("PIL.Image")


def opened(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    image.load()
    return np.asarray(image)


def test_gray_codes_land_where_they_belong():
    images = np.arange(5 * 2 * 3).reshape(5, 2, 3)
    pixels = opened(grid(images, 0, 29, columns=3, scale=1))
    assert pixels.shape == (2 + 1 + 2, 3 * 3 + 2, 2)
    expected = np.rint(images / 29 * 255)
    for i in range(5):
        top, left = i // 3 * 3, i % 3 * 4
        assert np.array_equal(pixels[top : top + 2, left : left + 3, 0], expected[i])
        assert (pixels[top : top + 2, left : left + 3, 1] == 255).all()
    assert pixels[..., 1].sum() == 255 * images.size  # gaps and the empty place are transparent


def test_colour_and_scale():
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 6))
    pixels = opened(grid(images, 0, 255, columns=2, scale=3))
    assert pixels.shape[2] == 4
    tile = pixels[: 5 * 3, : 6 * 3]
    assert np.array_equal(tile[::3, ::3, :3], images[0].transpose(1, 2, 0))
    assert np.array_equal(tile[2::3, 1::3, :3], images[0].transpose(1, 2, 0))


def test_other_channels_are_laid_side_by_side():
    images = np.random.default_rng(0).integers(0, 256, (1, 4, 5, 6))
    pixels = opened(grid(images, 0, 255, scale=1))
    assert np.array_equal(pixels[..., 0], np.concatenate(images[0], axis=1))
    assert opened(grid(images[:, :1], 0, 255, scale=1)).shape == (5, 6, 2)


def test_vectors_are_strips():
    assert opened(grid(np.arange(12).reshape(2, 6), 0, 11, columns=1, scale=1))[0, :, 0].tolist() == [
        *np.rint(np.arange(6) / 11 * 255).astype(int)
    ]


def test_real_values_beyond_the_ends_are_the_ends():
    pixels = opened(grid(np.array([[[-9.0, -1.0, 0.0, 1.0, 9.0, np.nan, np.inf]]]), -1, 1, scale=1))
    assert pixels[0, :, 0].tolist() == [0, 0, 128, 255, 255, 128, 255]


def test_small_pictures_are_enlarged_large_ones_are_not():
    assert opened(grid(np.zeros((1, 8, 8)), 0, 1)).shape[:2] == (48, 48)
    assert opened(grid(np.zeros((1, 64, 64)), 0, 1)).shape[:2] == (64, 64)


@pytest.mark.parametrize("shape", [(0, 8, 8), (4,), (), (2, 3, 0, 4), (1, 2, 3, 4, 5)])
def test_shapes_that_are_no_pictures(shape):
    with pytest.raises(ShapeError, match="pictures were asked of"):
        grid(np.zeros(shape), 0, 1)


@pytest.mark.parametrize("ends", [(1, 1), (2, 1), (float("nan"), 1), (0, float("inf"))])
def test_scales_that_mean_nothing(ends):
    with pytest.raises(UsageError, match="gray scale"):
        grid(np.zeros((1, 2, 2)), *ends)


@pytest.mark.parametrize("options", [{"columns": 0}, {"scale": 0}])
def test_layouts_that_mean_nothing(options):
    with pytest.raises(UsageError, match="whole numbers"):
        grid(np.zeros((1, 2, 2)), 0, 1, **options)
