"""`nelbo compress`, `nelbo decompress`, `nelbo info FILE.nelbo`: every form of images back, nothing half written."""

from __future__ import annotations

import errno
import gzip
import subprocess
import sys

import numpy as np
import pytest

from nelbo import files
from nelbo.data import readers


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return readers.read("digits:test", limit=40).data.numpy()


def test_arrays_come_back_as_they_were(nelbo, trained, digits, tmp_path):
    np.savez(tmp_path / "in.npz", x_test=digits.astype(np.int32), y_test=np.arange(40))
    given = f"{tmp_path / 'in.npz'}#x_test"
    made = nelbo("compress", trained, given, "--out", tmp_path / "a.nelbo", "--few", "--json")
    assert made.status == 0 and made.json["images"] == 40 and made.json["verified"]
    assert made.json["bytes"] == (tmp_path / "a.nelbo").stat().st_size
    archive = nelbo("info", tmp_path / "a.nelbo", "--json").json["archive"]
    assert archive["intact"] and archive["form"] == "npz" and archive["bytes"] == made.json["bytes"]
    assert "images_lost" in nelbo("info", tmp_path / "a.nelbo").out
    back = nelbo("decompress", trained, tmp_path / "a.nelbo", "--out", tmp_path / "out.npz", "--batch-size", "3")
    assert back.status == 0 and back.out.strip() == str(tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as back:
        assert back.files == ["x_test"] and back["x_test"].dtype == np.int32
        assert np.array_equal(back["x_test"], digits)
    for name in ("out.npy", "t-images-idx3-ubyte", "t-images-idx3-ubyte.gz"):
        if "ubyte" in name:
            np.save(tmp_path / "u8.npy", digits)
            nelbo("compress", trained, tmp_path / "u8.npy", "--out", tmp_path / "a.nelbo", "--few", "--no-verify")
        assert nelbo("decompress", trained, tmp_path / "a.nelbo", "--out", tmp_path / name).status == 0
        assert np.array_equal(readers.read(str(tmp_path / name)).data.numpy(), digits)
    assert gzip.decompress((tmp_path / name).read_bytes()) == (tmp_path / "t-images-idx3-ubyte").read_bytes()


def test_folders_come_back_by_name(nelbo, trained, digits, tmp_path):
    from PIL import Image

    names = ["b/9.png", "b/10.png", "a/ü x.bmp", "c.tif"]
    for name, codes in zip(names, digits, strict=False):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(codes).save(tmp_path / "in" / name)
    options = ("--out", tmp_path / "a.nelbo", "--few", "--no-verify")
    assert nelbo("compress", trained, tmp_path / "in", *options).status == 0
    assert nelbo("decompress", trained, tmp_path / "a.nelbo", "--out", tmp_path / "out").status == 0
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")) == sorted(names)
    for name in names:
        same = [np.asarray(Image.open(tmp_path / side / name)) for side in ("in", "out")]
        assert np.array_equal(*same)
    again = nelbo("decompress", trained, tmp_path / "a.nelbo", "--out", tmp_path / "out")
    assert "not an empty folder" in again.refused()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".nelbo")]


def test_the_file_remembers_its_flags_and_damage_is_status_two(nelbo, trained, digits, tmp_path):
    np.save(tmp_path / "in.npy", digits)
    options = ("--out", tmp_path / "a.nelbo", "--few", "--steps", "3", "--chunk", "15")
    assert nelbo("compress", trained, tmp_path / "in.npy", *options).status == 0
    data = bytearray((tmp_path / "a.nelbo").read_bytes())
    (tmp_path / "a.nelbo").write_bytes(data[: len(data) // 2])
    error = nelbo("decompress", trained, tmp_path / "a.nelbo", "--out", tmp_path / "out.npz").refused()
    assert "images 15–39 (25 of 40)" in error and "out.recovered.npz" in error
    with np.load(tmp_path / "out.recovered.npz") as recovered:
        assert np.array_equal(recovered["images"], digits[:15]) and recovered["index"].tolist() == list(range(15))
    assert not (tmp_path / "out.npz").exists()


def test_refusals_are_two_lines(nelbo, trained, tmp_path):
    assert "ends in '.zip'" in nelbo("compress", trained, "digits:test", "--out", tmp_path / "x.zip").refused()
    few = nelbo("compress", trained, "digits:test", "--limit", "1", "--out", tmp_path / "x.nelbo")
    assert "1 image would take" in few.refused() and "--few" in few.err
    (tmp_path / "y.nelbo").write_bytes(b"NELB\x01")
    for command in (
        ("decompress", trained, tmp_path / "y.nelbo", "--out", tmp_path / "z"),
        ("info", tmp_path / "y.nelbo"),
    ):
        assert "damaged header" in nelbo(*command).refused()
    assert "there is no file" in nelbo("decompress", trained, tmp_path / "n.nelbo", "--out", tmp_path / "z").refused()
    assert {p.name for p in tmp_path.iterdir()} == {"y.nelbo"}


def test_a_full_disk_says_so_and_leaves_nothing(nelbo, trained, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    done = nelbo("compress", trained, "digits:test", "--limit", "9", "--few", "--out", tmp_path / "x.nelbo")
    assert "x.nelbo: no space left on device" in done.refused() and "free some space" in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2"])
def test_killed_in_the_middle_leaves_no_file_and_a_fresh_process_decodes(trained, tmp_path, threads, nelbo):
    """SIGKILL after the first chunk; then what one process compressed another with other threads decompresses."""
    code = (
        "import os, signal, sys, nelbo\n"
        "def stop(done, planned):\n"
        "    if done > 10: os.kill(os.getpid(), signal.SIGKILL)\n"
        "model, out = sys.argv[1:]\n"
        "nelbo.codec.compress(model, 'digits:test', out, limit=30, chunk_size=10, few=True, progress=stop)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(trained), str(tmp_path / "x.nelbo")], check=False)
    assert done.returncode == -9 and not (tmp_path / "x.nelbo").exists()
    assert (
        nelbo("compress", trained, "digits:test", "--limit", "24", "--few", "--out", tmp_path / "y.nelbo").status == 0
    )
    code = (
        f"import sys, numpy, torch, nelbo\ntorch.set_num_threads({threads})\n"
        "for n in (1, 5, 64):\n"
        "    images = nelbo.codec.decompress(sys.argv[1], sys.argv[2], batch_size=n)\n"
        "    assert numpy.array_equal(images.numpy(), numpy.load(sys.argv[3]))\n"
    )
    np.save(tmp_path / "images.npy", readers.read("digits:test", limit=24).data.numpy())
    arguments = [str(trained), str(tmp_path / "y.nelbo"), str(tmp_path / "images.npy")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
