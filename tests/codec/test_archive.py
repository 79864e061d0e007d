"""The container: every byte counts, damage costs only its chunk, and all contents of a file are checked before use."""

from __future__ import annotations

import dataclasses
import importlib
import re
import zlib

import numpy as np
import pytest
import torch

import nelbo
from nelbo import codec
from nelbo.codec import archive
from nelbo.codec.bytestream import ByteReader, ByteWriter
from nelbo.codec.compress import compress
from nelbo.codec.decompress import decompress
from nelbo.codec.header import Header
from nelbo.codec.stack import Damaged
from nelbo.errors import ArchiveError, NelboError, UsageError
from nelbo.process import every_grid as grids
from tests.codec import models
from tests.codec.forging import Piece, apart, together


@pytest.fixture(scope="module")
def model():
    return models.exact(3)


@pytest.fixture(scope="module")
def file(model, tmp_path_factory) -> bytes:
    """180 images in chunks of 60."""
    path = tmp_path_factory.mktemp("codec") / "x.nelbo"
    compress(model, models.codes(180), path, chunk_size=60, few=True)
    return path.read_bytes()


def read(model, data: bytes, path):
    path.write_bytes(data)
    return decompress(model, path)


def places(file: bytes) -> list[int]:
    """Where the frames begin."""
    return [match.start() for match in re.finditer(re.escape(archive.MARK), file)]


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\xff" * 12, b"\x05abc", ByteWriter().varint(2**62).raw(b"x").data], ids=range(5)
)
def test_lengths_are_checked_before_use(data):
    with pytest.raises(Damaged):
        ByteReader(bytes(data)).block()


def test_a_block_that_inflates_beyond_its_length_is_stopped():
    bomb = zlib.compress(bytes(10**7), 9)[2:-4]
    reader = ByteReader(bytes(ByteWriter().varint(2 * 100 + 1).block(bomb).data))
    with pytest.raises(Damaged, match="another length"):
        reader.packed(1000)


def test_headers_come_back_and_are_small():
    header = Header("00112233aabbccdd", 1797, (8, 8), (400, *[256] * 19), chunk_size=500, settings={"steps": 20})
    assert Header.of(header.to_bytes(), "x") == (header, len(header.to_bytes()))
    plain = dataclasses.replace(header, settings={})
    assert len(plain.to_bytes()) < 64
    many = dataclasses.replace(plain, widths=(400, *[256] * 999), conditions=("y",), key="x_train", form="npz")
    assert Header.of(many.to_bytes(), "x")[0] == many and len(many.to_bytes()) < 160


def test_round_trip_and_inspection(model, file, tmp_path):
    assert torch.equal(read(model, file, tmp_path / "x.nelbo"), models.codes(180))
    facts = codec.inspect(tmp_path / "x.nelbo")
    assert facts["intact"] and facts["images"] == 180 and facts["chunks_intact"] == 3 and facts["bytes"] == len(file)


class Calls(list):
    """Calls of a progress, with what is known of the result at the time."""

    note = ""

    def result(self, text):
        self.note = text

    def __call__(self, done, planned):
        self.append((done, planned, self.note))


def test_progress_goes_on_within_a_chunk_and_counts_verification_as_half(model, tmp_path):
    seen, read = Calls(), Calls()
    written = compress(model, models.codes(180), tmp_path / "x.nelbo", chunk_size=60, few=True, progress=seen)
    decompress(model, tmp_path / "x.nelbo", progress=read)
    for calls in (seen, read):
        done = [c[0] for c in calls]
        assert done == sorted(done) and done[-1] == 180 and len(set(done)) > 3 * 3
        assert {c[1] for c in calls} == {180}
    assert {30, 60, 90, 120, 150} <= {c[0] for c in seen}
    assert seen[-1][2] == f"{written.net_bits_per_dim:.4f} bits/dim"
    plain = Calls()
    compress(model, models.codes(180), tmp_path / "y.nelbo", chunk_size=60, few=True, verify=False, progress=plain)
    assert [c[0] for c in plain if c[0] % 60 == 0] == [60, 120, 180]


def test_damage_costs_its_chunk_alone_and_is_named(model, file, tmp_path):
    images, begin = models.codes(180), places(file)
    assert len(begin) == 3
    for which in range(3):
        broken = bytearray(file)
        broken[begin[which] + 40] ^= 4
        with pytest.raises(ArchiveError, match=f"images {60 * which}–{60 * which + 59} ") as caught:
            read(model, bytes(broken), tmp_path / "x.nelbo")
        assert caught.value.lost == ((60 * which, 60 * which + 60),)
        spared = [i for i in range(180) if i // 60 != which]
        assert torch.equal(caught.value.recovered, images[spared])
    without = file[: begin[1]] + file[begin[2] :]
    with pytest.raises(ArchiveError) as caught:
        read(model, without, tmp_path / "x.nelbo")
    assert caught.value.lost == ((60, 120),)


def refusal(model, data: bytes, path) -> ArchiveError:
    with pytest.raises(ArchiveError) as caught:
        read(model, data, path)
    return caught.value


def test_chunks_go_to_their_place_and_a_file_that_was_altered_is_no_whole_one(model, file, tmp_path):
    """Inserted bytes, chunks in another order or twice, a wrong end: every image in its place, and status 2."""
    a, b, c = places(file)
    images = models.codes(180)
    for data, words in (
        (file[:b] + b"junk" + file[b:], "4 bytes from"),
        (file[:b] + archive.MARK + file[b:], "4 bytes from"),
        (file[:a] + file[b:c] + file[a:b] + file[c:], "chunk 0 stands behind chunk 1"),
        (file[:a] + file[c:-4] + file[b:c] + file[a:b] + file[a:b] + file[-4:], "chunk 1 stands behind chunk 2"),
        (file[:b] + file[a:], "chunk 0 is repeated"),
        (file[:-4] + b"abcd", "checksum at the end is wrong"),
        (file + b"\0", "1 from where its checksum begins"),
        (file[:-1], "from where its checksum begins"),
    ):
        error = refusal(model, data, tmp_path / "x.nelbo")
        assert words in error.message and error.lost == (), error.message
        assert torch.equal(error.recovered, images)
        facts = codec.inspect(tmp_path / "x.nelbo")
        assert not facts["intact"] and facts["flaws"] and not facts["images_lost"]


def test_a_header_that_does_not_fit_its_chunks_is_refused(model, file, tmp_path):
    """Every checksum is right, and the header says another type, shape, number or order than the codes have."""
    header, pieces = apart(file)
    assert together(header, pieces) == file
    codes = models.codes(180).long()

    def changed(**fields) -> bytes:
        return together(dataclasses.replace(header, **fields), pieces)

    for fields, words in (
        ({"shape": (4, 3)}, "shape"),
        ({"shape": (3, 4)}, "shape"),
        ({"shape": (12, 1)}, "shape"),
        ({"widths": header.widths[:-1]}, "levels"),
        ({"identity": 7}, "header is that of other images"),
        ({"seed": 1}, "do not decode"),
        ({"chunk_size": 59}, "do not decode"),
        ({"images": 179}, "images 120–178 "),
        ({"images": 240}, "images 180–239 "),
        ({"images": 120}, "from where its checksum begins"),
        ({"images": 2**62, "chunk_size": 2**20}, "damaged or missing|do not decode"),
    ):
        error = refusal(model, changed(**fields), tmp_path / "x.nelbo")
        assert re.search(words, error.message), (fields, error.message)
        assert error.recovered is None or torch.equal(error.recovered.long(), codes[: len(error.recovered)])
    swapped = [Piece(1 - p.index, p.body, p.codes) if p.index < 2 else p for p in pieces]
    assert refusal(model, together(header, swapped), tmp_path / "x.nelbo").lost == ((0, 120),)


def test_a_type_that_is_too_narrow_is_refused(tmp_path):
    model = nelbo.from_callable(
        lambda z, t: torch.zeros_like(z), schedule=nelbo.schedules.logsnr_linear(5.0, -6.0), predicts="x0",
        domain=nelbo.DataDomain((2, 2), 300), time="logsnr", decoder="categorical", grid=grids.even(2),
    )  # fmt: skip
    codes = models.images(model, 5).to(torch.int16)
    compress(model, codes, tmp_path / "x.nelbo", few=True)
    header, pieces = apart((tmp_path / "x.nelbo").read_bytes())
    narrow = together(dataclasses.replace(header, dtype="uint8"), pieces)
    assert "says that its images are uint8" in refusal(model, narrow, tmp_path / "x.nelbo").message
    wide = together(dataclasses.replace(header, dtype="int64", shape=(1, 2, 2)), pieces)
    assert torch.equal(read(model, wide, tmp_path / "x.nelbo")[:, 0], codes.long())


def test_a_chunk_of_another_archive_does_not_fit(model, file, tmp_path):
    compress(model, models.codes(180, seed=9), tmp_path / "y.nelbo", chunk_size=60, few=True)
    other = (tmp_path / "y.nelbo").read_bytes()
    spliced = file[: places(file)[1]] + other[places(other)[1] :]
    with pytest.raises(ArchiveError) as caught:
        read(model, spliced, tmp_path / "x.nelbo")
    assert caught.value.lost == ((60, 180),)


def test_another_model_is_refused(model, file, tmp_path):
    data = models.CategoricalData(models.DATA.probabilities.flip(1))
    other = dataclasses.replace(data.model(model.schedule, model.grid), prior=model.prior)
    for given in (other, model.with_grid(grids.even(4))):
        with pytest.raises(UsageError, match="was written by the model"):
            read(given, file, tmp_path / "x.nelbo")


def test_foreign_files_and_versions_are_refused(model, file, tmp_path):
    for data, words in (
        (b"", "no archive"),
        (b"PK\x03\x04", "no archive"),
        (file[:4] + b"\x02" + file[5:], "version 2"),
    ):
        with pytest.raises(ArchiveError, match=words):
            read(model, data, tmp_path / "x.nelbo")
    for cut in range(5, places(file)[0]):
        with pytest.raises(ArchiveError, match="damaged header"):
            read(model, file[:cut], tmp_path / "x.nelbo")


def corrupted(file: bytes, rng: np.random.Generator) -> bytes:
    """Flips, cuts, splices, repeats and zeros at random places."""
    data = bytearray(file)
    kind = rng.integers(6)
    a, b = sorted(rng.integers(0, len(data), 2))
    if kind == 0:
        for at in rng.integers(0, len(data), rng.integers(1, 8)):
            data[at] ^= 1 << rng.integers(8)
    elif kind == 1:
        del data[a:]
    elif kind == 2:
        del data[a:b]
    elif kind == 3:
        data[a:a] = rng.bytes(int(rng.integers(1, 50)))
    elif kind == 4:
        data[a : a + 16] = bytes(len(data[a : a + 16]))
    else:
        data[b:b] = data[a : a + 60]
    return bytes(data)


def survive(model, file: bytes, times: int, path, seed: int, images=None) -> None:
    """Every corruption ends in the images, in some of them and an error that names the others, or in an error."""
    rng, images = np.random.default_rng(seed), models.codes(180) if images is None else images
    outcomes = set()
    for _ in range(times):
        data = corrupted(file, rng)
        try:
            recovered, lost = read(model, data, path), ()
        except ArchiveError as error:
            recovered, lost = error.recovered, error.lost
        outcomes.add((recovered is None, bool(lost)))
        if recovered is not None:
            spared = [i for i in range(180) if not any(a <= i < b for a, b in lost)]
            assert torch.equal(recovered, images[spared])
    assert {(False, True), (True, False)} <= outcomes


def test_random_corruption(model, file, tmp_path):
    survive(model, file, 25, tmp_path / "x.nelbo", 0)


def look_up(monkeypatch) -> None:
    """Chunks that pass their checksums are decoded once each and looked up afterwards, since their bytes are equal."""
    module = importlib.import_module("nelbo.codec.decompress")  # the package's name for it is the function
    known, plain = {}, module.decoded

    def decoded(coder, header, index, body, told):
        key = (header.to_bytes(), index, body)
        if key not in known:
            known[key] = plain(coder, header, index, body)
        return known[key]

    monkeypatch.setattr(module, "decoded", decoded)


@pytest.mark.slow
def test_ten_thousand_corruptions(file, tmp_path, monkeypatch):
    look_up(monkeypatch)
    model = models.exact(3)
    survive(model, file, 10_000, tmp_path / "x.nelbo", 1)


def forged(file: bytes, rng: np.random.Generator) -> bytes:
    """Bodies with random changes under correct checksums, which only the decoder can notice."""
    header, pieces = apart(file)
    changed = []
    for piece in pieces:
        body = bytearray(piece.body)
        for at in rng.integers(0, len(body) if rng.random() < 0.5 else 24, rng.integers(1, 4)):
            body[at] = rng.integers(256)
        if rng.random() < 0.3:
            del body[rng.integers(len(body)) :]
        changed.append(piece._replace(body=bytes(body)))
    return together(header, changed)


@pytest.mark.parametrize("seed", range(6))
def test_forged_bodies_are_refused(model, file, tmp_path, seed):
    with pytest.raises(NelboError) as caught:
        read(model, forged(file, np.random.default_rng(seed)), tmp_path / "x.nelbo")
    assert isinstance(caught.value, ArchiveError) and caught.value.lost


def test_few_images_are_refused_with_their_cost_or_written_on_request(model, tmp_path):
    codes = models.codes(2)
    with pytest.raises(UsageError, match="2 images would take") as caught:
        compress(model, codes, tmp_path / "x.nelbo")
    assert "few=True" in caught.value.hint and not list(tmp_path.iterdir())
    for n in (1, 2, 3):
        written = compress(model, codes[:1].repeat(n, 1), tmp_path / "x.nelbo", few=True)
        assert written.overhead > 0.1 and written.bytes == (tmp_path / "x.nelbo").stat().st_size
        assert torch.equal(decompress(model, tmp_path / "x.nelbo"), codes[:1].repeat(n, 1))


def test_integer_types_come_back(model, tmp_path):
    codes = models.codes(30)
    for dtype in (torch.int16, torch.int64):
        compress(model, codes.to(dtype), tmp_path / "x.nelbo", few=True)
        back = decompress(model, tmp_path / "x.nelbo", batch_size=3)
        assert back.dtype == dtype and torch.equal(back, codes.to(dtype))


def test_conditions_are_kept_and_images_without_channels_come_back_so(tmp_path):
    """A network that needs a class per image: the classes are in the file."""
    model = nelbo.from_callable(
        lambda z, t, y: torch.zeros_like(z) + 0.3 * (y[:, None, None, None] - 1),
        schedule=nelbo.schedules.logsnr_linear(5.0, -6.0),
        predicts="x0",
        domain=nelbo.DataDomain((1, 4, 4), 4),
        time="logsnr",
        decoder="categorical",
        grid=grids.even(3),
    )
    codes = models.images(model, 50)[:, 0].to(torch.uint8)
    y = torch.arange(50) % 3
    made = compress(model, codes, tmp_path / "x.nelbo", condition={"y": y}, chunk_size=20, few=True)
    assert made.header.conditions == ("y",) and made.metadata > 0
    back = decompress(model, tmp_path / "x.nelbo")
    assert back.shape == (50, 4, 4) and torch.equal(back, codes)
    for wrong in ({"y": y[:9]}, {"y": y / 2}, "y"):
        with pytest.raises(NelboError, match="condition"):
            compress(model, codes, tmp_path / "y.nelbo", condition=wrong, few=True)


def test_bad_options_are_refused(model, tmp_path):
    for options in ({"chunk_size": 0}, {"bin_width": 5.0}, {"batch_size": 0}, {"seed": -1}, {"condition": "y"}):
        with pytest.raises(UsageError):
            compress(model, models.codes(100), tmp_path / "x.nelbo", **options)
