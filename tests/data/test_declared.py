"""What a file declares is looked at before memory is taken, and no more is read than is asked for."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

import nelbo
from nelbo.data import numpy_files, read
from nelbo.errors import DataError

ROWS = (100_000, 100, 100)  # 1 GB


def header(shape, dtype="|u1"):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": tuple(shape)})
    return out.getvalue()


def big_npz(path, shape=ROWS, key="images"):
    """An archive of zeros, a thousandth of what it declares; made of pieces, so that this takes no memory."""
    left = int(np.prod(shape))
    archive = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6)
    with archive, archive.open(f"{key}.npy", "w", force_zip64=True) as member:
        member.write(header(shape))
        while left:
            left -= member.write(bytes(min(left, 1 << 24)))
    return str(path)


def claimed_npz(path, shape, dtype="|u1"):
    """An archive whose directory says that a member of a hundred bytes is as long as its header declares."""
    content = header(shape, dtype)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", content + bytes(64))
    raw = bytearray(path.read_bytes())
    place = raw.rindex(b"PK\x01\x02") + 24
    size = len(content) + int(np.prod([int(n) for n in shape], dtype=object)) * np.dtype(dtype).itemsize
    raw[place : place + 4] = struct.pack("<I", size)
    path.write_bytes(raw)
    return str(path)


def peak(call):
    """Bytes that Python and numpy took at most."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_more_of_an_npz_is_read_than_is_asked_for(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (2000, 64, 64), np.uint8)
    np.savez_compressed(tmp_path / "x.npz", images=x, labels=np.arange(2000))
    examples = read(str(tmp_path / "x.npz"), limit=3)
    assert np.array_equal(examples.data, x[:3]) and examples.labels.tolist() == [0, 1, 2]
    assert examples.name == f"{tmp_path / 'x.npz'}[:3]"
    assert peak(lambda: read(str(tmp_path / "x.npz"), limit=3)) < x.nbytes / 4
    asfortran = np.asfortranarray(x[:50])
    np.savez(tmp_path / "f.npz", images=asfortran)
    assert np.array_equal(read(str(tmp_path / "f.npz"), limit=3).data, x[:3])
    assert np.array_equal(read(str(tmp_path / "f.npz")).data, x[:50])


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_no_more_of_an_idx_file_is_read_than_is_asked_for(tmp_path, ending):
    x = np.random.default_rng(0).integers(0, 256, (2000, 64, 64), np.uint8)
    raw = struct.pack(">BBBB3I", 0, 0, 8, 3, *x.shape) + x.tobytes()
    path = tmp_path / f"x-images-idx3-ubyte{ending}"
    path.write_bytes(gzip.compress(raw, 1) if ending else raw)
    labels = struct.pack(">BBBBI", 0, 0, 8, 1, 2000) + bytes(range(250)) * 8
    (tmp_path / "x-labels-idx1-ubyte").write_bytes(labels)
    examples = read(str(path), limit=3)
    assert np.array_equal(examples.data, x[:3]) and examples.labels.tolist() == [0, 1, 2]
    assert examples.name == f"{path}[:3]"
    assert peak(lambda: read(str(path), limit=3)) < x.nbytes / 4


def test_unused_arrays_of_an_npz_are_not_read(tmp_path):
    """As of dSprites, whose metadata are pickled."""
    np.savez(tmp_path / "x.npz", imgs=np.zeros((2, 4, 4), np.uint8), metadata=np.array([{}], object), allow_pickle=True)
    assert read(f"{tmp_path / 'x.npz'}#imgs").data.shape == (2, 4, 4)
    with pytest.raises(DataError, match="Python objects"):
        read(f"{tmp_path / 'x.npz'}#metadata")


@pytest.mark.parametrize("shape", [(10**6, 1000), (2**31, 1)])
def test_a_member_that_declares_far_more_than_it_holds(tmp_path, shape):
    spec = claimed_npz(tmp_path / "x.npz", shape)
    for limit in (None, 10**6):
        with pytest.raises(DataError, match=r"declares \d+ bytes of data|not a readable"):
            read(spec, limit=limit)
    with pytest.raises(DataError, match="not a readable numpy"):
        read(spec, limit=500)  # as many as the file might hold, and it does not


DECLARED = {
    "more axes than numpy has": header((1,) * 70),
    "a negative axis": header((4, 4)).replace(b"(4, 4)", b"(4,-4)"),
    "an axis that is true": header((4, 4)).replace(b"(4, 4)", b"(True,)"),
    "far more than there is": header((10**15, 8)),
    "no bytes an element": header((4, 4), "|S0"),
    "a header of its own": b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + b"(" * 118,
    "a version to come": b"\x93NUMPY\x09\x00" + header((4, 4))[8:],
}


@pytest.mark.parametrize("case", DECLARED)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_headers_of_numpy_that_mean_nothing(tmp_path, case, ending):
    path = tmp_path / f"x.{ending}"
    content = DECLARED[case] + bytes(16)
    if ending == "npy":
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", content)
    with pytest.raises(DataError, match=r"not a readable numpy|\|S0"):
        read(str(path))


def test_other_zip_archives(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 2), np.uint8))
    content = (tmp_path / "x.npy").read_bytes()
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):  # whose memory their own headers name
        with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
            archive.writestr("x.npy", content)
        with pytest.raises(DataError, match="a method that numpy does not write"):
            read(str(tmp_path / "x.npz"))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", content)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.npy", content)
    with pytest.raises(DataError, match="two arrays are called 'x'"):
        read(str(tmp_path / "x.npz"))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", content)
        archive.writestr("README", "text")
    examples = read(str(tmp_path / "x.npz"))
    assert examples.facts["passed_over"] == {"count": 1, "entries": [{"name": "README", "reason": "no array"}]}


def test_an_npy_file_with_more_behind_its_array(tmp_path):
    with (tmp_path / "x.npy").open("wb") as file:
        np.save(file, np.zeros((2, 2), np.uint8))
        np.save(file, np.ones((2, 2), np.uint8))
    with pytest.raises(DataError, match="declares uint8"):
        read(str(tmp_path / "x.npy"))


@pytest.mark.parametrize("axes", [65, 255])
def test_an_idx_file_of_too_many_axes(tmp_path, axes):
    path = tmp_path / "x-ubyte"
    path.write_bytes(bytes([0, 0, 8, axes]) + struct.pack(f">{axes}I", *[1] * axes) + b"\0")
    with pytest.raises(DataError, match=f"declares {axes} axes"):
        read(str(path))


def test_a_packed_idx_file_that_declares_far_more(tmp_path):
    path = tmp_path / "x-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">BBBB3I", 0, 0, 8, 3, 2**31, 100, 100) + bytes(1000)))
    with pytest.raises(DataError, match=r"declares \d+ bytes of data, \d+ times the"):
        read(str(path))
    with pytest.raises(DataError, match="bytes follow"):
        read(str(path), limit=1)


def test_a_part_of_a_large_mapped_file(tmp_path, monkeypatch):
    monkeypatch.setattr(numpy_files, "MAPPED", 0)
    x = np.arange(60, dtype=np.float32).reshape(5, 12)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "f.npy", np.asfortranarray(x))
    for name in ("x", "f"):
        assert np.array_equal(read(str(tmp_path / f"{name}.npy"), limit=2).data, x[:2])
        assert np.array_equal(read(str(tmp_path / f"{name}.npy")).data, x)


def test_a_mapped_file_that_grows(tmp_path, monkeypatch):
    """Its pages are those of the mapping: what was scored so far is of other data than what follows."""
    monkeypatch.setattr(numpy_files, "MAPPED", 0)
    np.save(tmp_path / "x.npy", np.zeros((5, 12), np.float32))
    examples = read(str(tmp_path / "x.npy"))
    assert examples.fingerprint
    with (tmp_path / "x.npy").open("ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match="changed while it was used"):
        list(examples.chunks())
    (tmp_path / "y.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-4])
    (tmp_path / "y.npy").replace(tmp_path / "x.npy")  # another file: the mapping keeps the first
    list(examples.chunks())


@pytest.mark.slow
def test_a_gigabyte_of_zeros(tmp_path):
    """In a process that may take 2.5 GB: the first example is read, and the whole is refused."""
    spec = big_npz(tmp_path / "x.npz")
    idx = tmp_path / "x-ubyte.gz"
    with gzip.open(idx, "wb", compresslevel=6) as file:
        file.write(struct.pack(">BBBB3I", 0, 0, 8, 3, *ROWS))
        for _ in range(1_000):
            file.write(bytes(1_000_000))
    script = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import nelbo.data
from nelbo.errors import DataError
resource.setrlimit(resource.RLIMIT_AS, (2_500_000_000, 2_500_000_000))
for spec in sys.argv[2:]:
    print(tuple(nelbo.data.read(spec, limit=1).data.shape))
    try:
        nelbo.data.read(spec)
    except DataError as error:
        print("refused", "bytes of data" in error.message)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # ru_maxrss is the parent's, too
print(int(peak.split()[1]) < 700_000)
"""
    source = str(Path(nelbo.__file__).parents[1])
    out = subprocess.run([sys.executable, "-c", script, source, spec, str(idx)], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout.splitlines() == ["(1, 100, 100)", "refused True"] * 2 + ["True"]
