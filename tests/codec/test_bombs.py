"""Small files that declare much: nothing is believed before it was compared with the file, and scanning is linear."""

from __future__ import annotations

import dataclasses
import io
import json
import zlib

import numpy as np
import pytest

from nelbo.codec import archive
from nelbo.codec.bytestream import ByteWriter
from nelbo.codec.compress import compress
from nelbo.codec.decompress import decompress
from nelbo.codec.header import MAX_CONDITIONS, Header
from nelbo.codec.settings import check_settings
from nelbo.codec.stack import Damaged
from nelbo.errors import ArchiveError, UsageError
from tests.codec import models
from tests.codec.forging import Piece, apart, together

HEADER = Header("00112233aabbccdd", 2**60, (8, 8), (256,) * 4, chunk_size=2**20)


class Counted(io.BytesIO):
    """Counts the bytes that are read."""

    count = 0

    def read(self, n: int | None = -1) -> bytes:
        data = super().read(n)
        self.count += len(data)
        return data


def false_frame(length: int) -> bytes:
    """A mark and what follows it, with the right checksum of its own, of a body that is none."""
    start = archive.checksum_start(HEADER)
    head = bytes(ByteWriter().varint(5).varint(length).raw(bytes(4)).data)
    return archive.MARK + head + (zlib.crc32(head, start) & 0xFFFF).to_bytes(2, "little")


@pytest.mark.parametrize("piece", [archive.MARK, archive.MARK[:3], false_frame(40_000), false_frame(100), b"\0"])
def test_scanning_is_linear(piece):
    """The bytes that are read are a small multiple of those of the file."""
    for size in (50_000, 400_000):
        data = together(HEADER, [Piece(3, b"body", 1)], [piece * (size // len(piece))])
        file = Counted(data)
        archive.read_header(file, "x")
        seen = archive.survey(file, HEADER)
        assert file.count < 8 * len(data) + 2 * archive._WINDOW
        assert set(seen.frames) <= {3} and seen.flaws
    assert len(piece) > 4 or set(seen.frames) == {3}  # accidents do not cost what comes after them


def test_settings_are_checked_before_they_are_applied():
    check_settings({"steps": 4, "clip": True, "range": [0, 1.0], "bins": 16, "variance": "beta", "decoder": "x"}, 4)
    check_settings({"steps": 3, "clip": [-1.0, 1.0]}, 4)
    for settings in (
        {"steps": 10**8}, {"steps": 5}, {"steps": 2}, {"steps": True}, {"steps": 4.0}, {"steps": None}, {"kind": "x"},
        {"clip": "yes"}, {"clip": 1}, {"range": [0]}, {"range": ["a", "b"]}, {"bins": "9"}, {"variance": {"kind": "x"}},
    ):  # fmt: skip
        with pytest.raises(ArchiveError, match="setting"):
            check_settings(settings, 4)


@pytest.mark.parametrize(
    "extra",
    [
        {"settings": 1},
        {"settings": {}, "more": 1},
        {"conditions": "y"},
        {"conditions": [1]},
        {"conditions": ["y", "y"]},
        {"conditions": ["a b"]},
        {"conditions": [f"y{i}" for i in range(MAX_CONDITIONS + 1)]},
        [],
        3,
        "x",
    ],
)
def test_headers_that_mean_nothing_are_damaged(extra):
    """Two conditions of one name, unknown entries, wrong types: each by the error of a damaged header."""
    text = json.dumps(extra).encode()
    plain = dataclasses.replace(HEADER, settings={"steps": 4}).to_bytes()
    usual = bytes(ByteWriter().packed(b'{"conditions": [], "settings": {"steps": 4}}').data)
    assert usual in plain
    data = plain[: plain.index(usual)] + bytes(ByteWriter().packed(text).data)
    inner = data[len(b"NELB") + 2 :]
    with pytest.raises(ArchiveError, match="damaged header"):
        Header.of(together(inner, []), "x")


@pytest.mark.parametrize("text", [b'{"settings": {"a": 1, "a": 2}}', b'{"settings": {"a": NaN}}', b"[" * 5000])
def test_json_that_says_two_things_is_damaged(text):
    plain = dataclasses.replace(HEADER, settings={"steps": 4}).to_bytes()
    usual = bytes(ByteWriter().packed(b'{"conditions": [], "settings": {"steps": 4}}').data)
    inner = (plain[: plain.index(usual)] + bytes(ByteWriter().packed(text).data))[len(b"NELB") + 2 :]
    with pytest.raises(ArchiveError, match="damaged header"):
        Header.of(together(inner, []), "x")


def test_a_group_that_is_larger_than_its_bits_allow_is_refused_before_memory_is_taken(tmp_path):
    model = models.exact(3)
    compress(model, models.codes(4), tmp_path / "x.nelbo", few=True)
    header, pieces = apart((tmp_path / "x.nelbo").read_bytes())
    from nelbo.codec import bitswap, groups

    coder = bitswap.Coder(model, header.bin_width, 8, header.widths)
    chunk = dataclasses.replace(archive.Chunk.of(pieces[0].body), growth=255)
    wide = dataclasses.replace(model.domain, shape=(4096, 4096))
    coder.model = dataclasses.replace(model, domain=wide)
    with pytest.raises(Damaged, match="too few bits"):
        groups.decode(coder, dataclasses.replace(header, images=4096, group_size=4096), chunk, 4096, None)


def test_more_conditions_than_a_file_keeps_are_refused(tmp_path):
    rows = {f"y{i}": np.zeros(4, np.int64) for i in range(MAX_CONDITIONS + 1)}
    with pytest.raises(UsageError, match="conditions"):
        compress(models.exact(3), models.codes(4), tmp_path / "x.nelbo", few=True, condition=rows)


def test_an_archive_of_many_images_and_few_bytes_names_what_is_missing(tmp_path):
    model = models.exact(3)
    compress(model, models.codes(4), tmp_path / "x.nelbo", few=True)
    header, pieces = apart((tmp_path / "x.nelbo").read_bytes())
    (tmp_path / "x.nelbo").write_bytes(together(dataclasses.replace(header, images=2**62), pieces))
    with pytest.raises(ArchiveError, match=r"damaged or missing|do not decode") as caught:
        decompress(model, tmp_path / "x.nelbo")
    assert caught.value.lost[-1][1] == 2**62
