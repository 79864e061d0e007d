"""Folders of images: exact codes in a fixed order, or a refusal that names the picture."""

from __future__ import annotations

import numpy as np
import pytest

from nelbo.data import read
from nelbo.errors import DataError

Image = pytest.importorskip("PIL.Image")

GRAY = np.arange(4 * 6, dtype=np.uint8).reshape(4, 6)
RGB = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def save(array, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "tiff"])
@pytest.mark.parametrize("array", [GRAY, RGB], ids=["gray", "rgb"])
def test_lossless_formats_give_the_codes(tmp_path, ending, array):
    save(array, tmp_path / f"b.{ending}")
    save(array + 1, tmp_path / f"a.{ending.upper()}")
    data = read(str(tmp_path)).data.numpy()
    assert data.shape == ((2, 4, 6) if array.ndim == 2 else (2, 3, 4, 6))
    assert np.array_equal(data[1], array if array.ndim == 2 else array.transpose(2, 0, 1))
    assert np.array_equal(data[0], data[1] + 1)


def test_webp_and_jpeg_are_read(tmp_path):
    save(RGB, tmp_path / "a.webp", lossless=True)
    assert np.array_equal(read(str(tmp_path)).data[0].permute(1, 2, 0), RGB)
    (tmp_path / "a.webp").unlink()
    save(GRAY, tmp_path / "a.jpg")
    assert np.array_equal(read(str(tmp_path)).data[0], np.asarray(Image.open(tmp_path / "a.jpg")))


def test_black_and_white_is_two_codes(tmp_path):
    Image.fromarray(GRAY > 11).save(tmp_path / "a.png")
    examples = read(str(tmp_path))
    assert np.array_equal(examples.data[0], GRAY > 11)
    assert examples.bins == 2


def test_order_labels_limit_and_what_is_passed_over(tmp_path):
    for i, name in enumerate(["owl/2.png", "ant/1.png", "owl/10.png", "ant/deep/3.png"]):
        save(GRAY + i, tmp_path / name)
    (tmp_path / "README.txt").write_text("about")
    (tmp_path / "ant" / "._1.png").write_bytes(b"resource fork")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.png").write_bytes(b"")
    examples = read(str(tmp_path))
    assert examples.data[:, 0, 0].tolist() == [1, 3, 0, 2]  # ant/1, ant/deep/3, owl/2, owl/10
    assert examples.labels.tolist() == [0, 0, 1, 1] and examples.classes == ("ant", "owl")
    passed = examples.facts["passed_over"]
    assert passed["count"] == 3
    assert [(e["name"], e["reason"]) for e in passed["entries"]] == [
        (".cache", "hidden"),
        ("README.txt", "no picture"),
        ("ant/._1.png", "hidden"),
    ]
    (tmp_path / "owl" / "10.png").write_bytes(b"not opened")
    first = read(str(tmp_path), limit=3)
    assert first.data[:, 0, 0].tolist() == [1, 3, 0]
    assert first.labels.tolist() == [0, 0, 1]
    assert first.name == f"{tmp_path}[:3]"
    assert first.bins == 256


def test_pictures_beside_sub_folders_have_no_labels(tmp_path):
    save(GRAY, tmp_path / "a.png")
    save(GRAY, tmp_path / "owl" / "b.png")
    assert read(str(tmp_path)).labels is None


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([GRAY, GRAY, GRAY[:, :5], GRAY[:2]], r"0\.png is 6×4 gray, but 2\.png is 5×4 gray"),
        ([GRAY, RGB], r"0\.png is 6×4 gray, but 1\.png is 6×4 colour"),
        ([GRAY, GRAY > 3], r"but 1\.png is 6×4 black and white"),
    ],
    ids=["sizes", "colour", "black and white"],
)
def test_pictures_that_differ_are_named(tmp_path, pictures, message):
    for i, array in enumerate(pictures):
        save(array, tmp_path / f"{i}.png")
    with pytest.raises(DataError, match=message):
        read(str(tmp_path))


def palette():
    return Image.fromarray(RGB).quantize(4)


CONVERSIONS = {
    "palette": (palette, {}, "mode 'P'"),
    "alpha": (lambda: Image.fromarray(RGB).convert("RGBA"), {}, "drops transparency"),
    "16-bit gray": (lambda: Image.fromarray(GRAY.astype(np.uint16)), {}, "keeps 8 of its bits"),
    "transparent colour": (lambda: Image.fromarray(RGB), {"transparency": (0, 1, 2)}, "transparent colour"),
}


@pytest.mark.parametrize("case", CONVERSIONS)
def test_what_would_need_a_conversion_is_refused(tmp_path, case):
    make, options, message = CONVERSIONS[case]
    make().save(tmp_path / "a.png", **options)
    with pytest.raises(DataError, match=message):
        read(str(tmp_path))


def png(depth, colour, width=2, height=2):
    """A PNG by hand: Pillow cannot write these depths, and reads them by rescaling."""
    import struct
    import zlib

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    line = (width * depth * {0: 1, 2: 3}[colour] + 7) // 8
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress((b"\0" + bytes(range(1, line + 1))) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("depth", "colour"), [(2, 0), (4, 0), (16, 2)])
def test_depths_that_pillow_rescales_in_silence_are_refused(tmp_path, depth, colour):
    (tmp_path / "a.png").write_bytes(png(depth, colour))
    with pytest.raises(DataError, match="does not store 8 bits a channel"):
        read(str(tmp_path))
    (tmp_path / "a.png").write_bytes(png(8, colour))
    assert len(read(str(tmp_path))) == 1


def test_several_frames_are_refused(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(GRAY + 1)])
    with pytest.raises(DataError, match="2 frames"):
        read(str(tmp_path))


def test_folders_without_pictures_and_with_others(tmp_path):
    with pytest.raises(DataError, match="holds no pictures"):
        read(str(tmp_path))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"no pictures \(1 other files\)"):
        read(str(tmp_path))
    save(GRAY, tmp_path / "a.png")
    (tmp_path / "b.heic").write_bytes(b"0000ftypheic")
    with pytest.raises(DataError, match=r"format that is not read: b\.heic"):
        read(str(tmp_path))


def test_damaged_pictures_are_named(tmp_path):
    save(GRAY, tmp_path / "a.png")
    path = tmp_path / "b.png"
    save(np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8), path)
    whole = path.read_bytes()
    for content in (b"", b"nothing", whole[:20], whole[: len(whole) // 2], whole[:-16]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"b\.png"):
            read(str(tmp_path))
