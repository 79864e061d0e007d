"""Archives with random changes, most of them under checksums that were made anew: every image in its place, or an
ArchiveError that names what is missing, in little time and memory."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import nelbo
from nelbo import codec
from nelbo.codec.archive import Chunk
from nelbo.codec.bytestream import ByteWriter
from nelbo.codec.compress import compress
from nelbo.codec.decompress import decompress
from nelbo.codec.header import DTYPES, FORMS, Header
from nelbo.errors import ArchiveError, UsageError
from nelbo.process import every_grid as grids
from tests.codec import models
from tests.codec.forging import Piece, apart, together
from tests.fuzz.limits import check_words, limited, restart, tree
from tests.fuzz.mutations import ODD, changed_bytes

N, CHUNK = 6, 2
Archive = tuple[Header, list[Piece]]


def pick(rng: np.random.Generator, values):
    return values[int(rng.integers(len(values)))]


def changed_header(header: Header, rng: np.random.Generator) -> Header:
    """Another value of a field; those that `to_bytes` cannot write are left as they are."""
    numbers = [0, 1, 2, 3, 5, 9, 11, 63, 4095, 4096, 2**20, 2**31, 2**62]
    fields: dict[str, Callable] = {
        "images": lambda: pick(rng, numbers),
        "chunk_size": lambda: pick(rng, numbers),
        "group_size": lambda: pick(rng, numbers),
        "tau": lambda: int(rng.integers(0, 61)),
        "r": lambda: int(rng.integers(1, 129)),
        "seed": lambda: pick(rng, numbers),
        "identity": lambda: int(rng.integers(2**32)),
        "shape": lambda: pick(rng, [(12,), (1, 12), (12, 1), (3, 4), (4,), (2**20,), (1,) * 16, (13,)]),
        "widths": lambda: pick(rng, [header.widths[:-1], (*header.widths, 256), tuple(w + 1 for w in header.widths)]),
        "dtype": lambda: pick(rng, DTYPES),
        "form": lambda: pick(rng, FORMS),
        "key": lambda: pick(rng, ["x", "../../evil", "", "\n", "a/b"]),
        "fingerprint": lambda: "00" * 8,
        "settings": lambda: {pick(rng, ["steps", "clip", "bins", "x"]): pick(rng, ODD[:20])},
        "conditions": lambda: pick(rng, [("y",), ("y", "y"), ("a b",)]),
    }
    name = pick(rng, list(fields))
    return dataclasses.replace(header, **{name: fields[name]()})


def changed_pieces(pieces: list[Piece], rng: np.random.Generator) -> list[Piece]:
    """Chunks moved, repeated, dropped, renumbered, or with another body."""
    new, kind = list(pieces), rng.integers(8)
    i, j = (int(v) for v in rng.integers(0, len(new), 2))
    if kind == 0:
        new[i], new[j] = new[j], new[i]
    elif kind == 1:
        new.insert(j, new[i])
    elif kind == 2:
        del new[i]
    elif kind == 3:
        new[i] = new[i]._replace(index=int(rng.integers(0, 4)))
    elif kind == 4:
        new[i] = new[i]._replace(codes=new[j].codes)
    elif kind == 5:
        new[i] = new[i]._replace(body=new[j].body)
    elif kind == 6:
        chunk = Chunk.of(new[i].body)
        field = pick(rng, ["growth", "borrowed", "state", "metadata", "words", "exceptions"])
        value = {
            "growth": int(rng.integers(256)),
            "borrowed": int(rng.integers(len(chunk.words) + 2)),
            "state": chunk.state ^ (1 << int(rng.integers(63))),
            "metadata": rng.bytes(int(rng.integers(1, 30))),
            "words": chunk.words[: int(rng.integers(len(chunk.words) + 1))],
            "exceptions": ((int(rng.integers(40)), int(rng.integers(60)), 1),),
        }[field]
        new[i] = new[i]._replace(body=dataclasses.replace(chunk, **{field: value}).to_bytes())
    else:
        new[i] = new[i]._replace(body=changed_bytes(new[i].body, rng))
    return new


def forged(file: bytes, parts: Archive, rng: np.random.Generator) -> bytes:
    header, pieces = parts
    kind = rng.integers(10)
    if kind < 3:
        return together(changed_header(header, rng), pieces)
    if kind < 7:
        return together(header, changed_pieces(pieces, rng))
    if kind == 7:
        return together(header, pieces, [rng.bytes(int(rng.integers(0, 20))) if rng.random() < 0.4 else b""] * 3)
    if kind == 8:
        inner = header.to_bytes()[6:-4]
        return together(changed_bytes(inner, rng), pieces)
    return changed_bytes(file, rng)


def attempt(model, path: Path, data: bytes, images: torch.Tensor) -> str:
    """What came of a changed archive; the images are right, each in its place, or named as lost."""
    path.write_bytes(data)
    restart()
    try:
        recovered, lost, outcome = decompress(model, path), (), "whole"
    except ArchiveError as error:
        check_words(error.message)
        recovered, lost, outcome = error.recovered, error.lost, "refused" if error.recovered is None else "in part"
    except UsageError as error:
        assert "was written by the model" in error.message or "fingerprint" in error.message
        return "another model"
    if recovered is not None:
        spared = [i for i in range(N) if not any(a <= i < b for a, b in lost)]
        assert torch.equal(recovered.reshape(len(recovered), -1).long(), images[spared[: len(recovered)]])
    if outcome == "whole":
        assert len(recovered) == N and codec.inspect(path)["intact"]
    return outcome


def remember(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode the same body of the same archive once: most changes leave most chunks as they are."""
    module = importlib.import_module("nelbo.codec.decompress")  # the package's name for it is the function
    known, plain = {}, module.decoded

    def decoded(coder, header, index, body, progress):
        key = (header.to_bytes(), index, body)
        if key not in known:
            known[key] = plain(coder, header, index, body, progress)
        return known[key]

    monkeypatch.setattr(module, "decoded", decoded)


def fuzz(tmp_path: Path, attempts: int, seed: int) -> dict[str, int]:
    model, images = models.exact(2), models.codes(N)
    path = tmp_path / "x.nelbo"
    compress(model, images, path, chunk_size=CHUNK, few=True)
    file = path.read_bytes()
    parts, rng = apart(file), np.random.default_rng(seed)
    assert attempt(model, path, together(*parts), images.long()) == "whole"
    outcomes: dict[str, int] = {}
    with limited():
        for _ in range(attempts):
            outcome = attempt(model, path, forged(file, parts, rng), images.long())
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.nelbo"]
    return outcomes


def test_a_hundred_changes(tmp_path):
    outcomes = fuzz(tmp_path, 100, 0)
    assert outcomes["in part"] > 30 and outcomes["refused"] > 10


@pytest.mark.slow
def test_five_thousand_changes(tmp_path, monkeypatch):
    remember(monkeypatch)
    outcomes = fuzz(tmp_path, 5000, 1)
    assert outcomes["in part"] > 1500 and outcomes["refused"] > 500 and outcomes["another model"] > 10


def write_under_names(tmp_path: Path, attempts: int, seed: int) -> set[str]:
    """Pictures under names of random bytes: written below their folder, or refused with nothing left."""
    model = nelbo.from_callable(
        lambda z, t: torch.zeros_like(z), schedule=nelbo.schedules.logsnr_linear(9.0, -6.0), predicts="x0",
        domain=nelbo.DataDomain((2, 2), 256), time="logsnr", decoder="categorical", grid=grids.even(1),
    )  # fmt: skip
    compress(model, models.images(model, 3).to(torch.uint8), tmp_path / "x.nelbo", few=True)
    header, (piece,) = apart((tmp_path / "x.nelbo").read_bytes())
    rng, outcomes = np.random.default_rng(seed), set()
    for number in range(attempts):
        names = [bytes(rng.choice(list(b"abcdefgh./\\%~:\xe9"), int(rng.integers(1, 7))).tolist()) for _ in range(3)]
        metadata = bytes(ByteWriter().packed(b"\n".join(names)).data)
        body = dataclasses.replace(Chunk.of(piece.body), metadata=metadata).to_bytes()
        (tmp_path / "x.nelbo").write_bytes(together(header, [piece._replace(body=body)]))
        out = tmp_path / str(number) / "inner" / "out"
        try:
            decompress(model, tmp_path / "x.nelbo", out)
            assert len([p for p in out.rglob("*") if p.is_file()]) == 3
            outcomes.add("written")
        except ArchiveError as error:
            check_words(error.message)
            assert not out.exists()
            outcomes.add("refused")
        assert [p for p in tree(tmp_path / str(number)) if not p.startswith("inner")] == []
        assert all(p == "inner/out" or p.startswith("inner/out/") for p in tree(tmp_path / str(number)) if p != "inner")
    assert {p.name for p in tmp_path.iterdir()} == {"x.nelbo", *map(str, range(attempts))}
    return outcomes


def test_pictures_are_written_below_their_folder_alone(tmp_path):
    assert write_under_names(tmp_path, 30, 0) == {"written", "refused"}
