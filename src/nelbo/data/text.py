"""`text:FILE`: texts as sequences of symbols, cut into windows or by documents.

    text:FILE[,FILE…]|FOLDER [#length=L] [#stride=S] [#documents=blank|lines|files|SEPARATOR]
                             [#tokenizer=bytes|chars|FILE.json] [#alphabet=FILE] [#pad=NUMBER]

Files may be compressed (.gz); of a folder its .txt files are read. A symbol is a byte, a character (number k is the
k-th of the characters that the texts have, or those of `alphabet`, in the order of their code points), or a token of a
tokenizer's file. `windows.py` says how they are cut. The facts of the examples say what was cut, left over or empty.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from pathlib import Path

from nelbo.data import places
from nelbo.data.arrays import passed_over
from nelbo.data.places import Place
from nelbo.data.symbols import NAMES, Bytes, Characters, Symbols, TokenizerFile
from nelbo.data.windows import Cut, Windows, windows
from nelbo.errors import DataError, UnknownNameError
from nelbo.model.examples import Examples
from nelbo.typing import Json

PREFIX = "text:"
LENGTH = 128
"""Symbols of a sequence, where `#length` does not say it."""
OPTIONS = ("length", "stride", "documents", "tokenizer", "alphabet", "pad")
_SPLITS = {"blank": rb"\r?\n(?:[ \t]*\r?\n)+", "lines": rb"\r?\n"}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


def read_text(spec: str, limit: int | None) -> Examples:
    """The sequences of texts, at most `limit`; see the module. Errors: DataError, UnknownNameError."""
    place = Place.of(spec)
    options = place.checked(OPTIONS)
    cut = cut_of(options)
    names, facts = _files(place)
    pieces, facts_of_pieces = _pieces([_read(name) for name in names], options.get("documents"))
    symbols = _symbols(options, pieces, str(place.path))
    streams = [stream for raw in pieces if len(stream := symbols.stream(raw, str(place.path)))]
    cut = Cut(cut.length, cut.stride, cut.documents, symbols.pad if cut.pad is None else cut.pad)
    made = windows(streams, cut, limit, str(place.path))
    facts |= {**symbols.facts(), **made.facts, **described_cut(cut, made)}
    if limit is None or len(made.data) < limit:
        empty = facts_of_pieces.pop("empty", 0) + len(pieces) - len(streams)
        facts |= {**facts_of_pieces, **({"empty": empty} if empty else {})}
    assert made.bytes is not None  # of a text they are known
    scored = made.bytes if made.prompt is None else made.bytes.masked_fill(made.prompt, 0)
    facts["bytes"] = int(scored.sum())
    return Examples(
        made.data,
        name=f"{PREFIX}{place.path}",
        facts=facts,
        prompt=made.prompt,
        mask=made.mask,
        place_bytes=made.bytes,
    )


def cut_of(options: dict[str, str]) -> Cut:
    """How `length`, `stride`, `documents` and `pad` say that streams are cut. Errors: DataError."""
    length = _number(options, "length", 1) or LENGTH
    stride = _number(options, "stride", 1)
    if stride is not None and stride > length:
        raise DataError(
            f"windows of {length} symbols that end {stride} apart: some would be in none",
            f"give a #stride from 1 to {length}",
        )
    return Cut(length, stride, "documents" in options, _number(options, "pad", 0))


def described_cut(cut: Cut, made: Windows) -> Json:
    """How windows roll and what pads them, as facts."""
    rolling = {} if cut.stride is None else {"stride": cut.stride}
    return rolling | ({} if made.mask is None else {"pad": cut.pad})


def _number(options: dict[str, str], name: str, least: int) -> int | None:
    text = options.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()) or not least <= int(text) < 1 << 31:
        what = {"length": "sequences of", "stride": "windows of", "pad": "padding of"}[name]
        raise DataError(f"{what} {name}={text}", f"give a whole number ≥ {least}, such as #{name}={max(least, LENGTH)}")
    return int(text)


def _files(place: Place) -> tuple[list[Path], Json]:
    """The files: one, several with commas between, or the .txt files of a folder by name; what a folder has besides
    is passed over."""
    path = place.path
    if places.is_folder(path):
        every = sorted(p for p in path.rglob("*") if not places.is_folder(p))
        texts = [p for p in every if p.suffix.lower() == ".txt"]
        if not texts:
            raise DataError(f"the folder {path} has no .txt file", "name the files: text:A.md,B.md")
        others = [(places.printable(str(p.relative_to(path))), "no .txt file") for p in every if p not in texts]
        return texts, passed_over(others)
    if not places.is_file(path) and "," in str(path):
        return [places.path_of(name) for name in str(path).split(",")], {}
    return [path], {}


def _read(path: Path) -> bytes:
    with places.opened(path) as file:
        raw = file.read()
    return _unpacked(raw, path) if raw.startswith(b"\x1f\x8b") and path.suffix.lower() == ".gz" else raw


def _unpacked(raw: bytes, path: Path) -> bytes:
    """The text of a gzip file, which is known to be no longer than its bytes may stand for before it is in memory."""
    pieces, total = [], 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
            while piece := file.read(1 << 22):
                pieces.append(piece)
                total += len(piece)
                places.check_inflated(total, len(raw), str(path))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is no readable gzip file: {error}", "it is truncated or altered") from None
    return b"".join(pieces)


def _pieces(texts: list[bytes], documents: str | None) -> tuple[list[bytes], Json]:
    """The documents of the texts, or the texts; how many were empty, and how many bytes separate them."""
    if documents is None or documents == "files":
        return [raw for raw in texts if raw], {"empty": sum(not raw for raw in texts)}
    if not documents:
        raise DataError("documents= without a separator", "give blank, lines, files or the text that separates them")
    pattern = re.compile(_SPLITS.get(documents, re.escape(_unescaped(documents).encode())))
    pieces = []
    for raw in texts:
        whole = re.sub(rb"(\r?\n)+\Z", b"", raw) if documents in _SPLITS else raw  # the end of the last line is none
        pieces += pattern.split(whole)
    kept = [piece for piece in pieces if piece.strip()]
    between = sum(map(len, texts)) - sum(map(len, pieces))
    return kept, {"empty": len(pieces) - len(kept), "separators": {"bytes": between}}


def _unescaped(text: str) -> str:
    r"""With \n, \t, \r, \\ and \xHH as what they stand for."""
    return re.sub(r"\\(x[0-9a-fA-F]{2}|[ntr\\])", lambda m: _ESCAPES.get(m[1]) or chr(int(m[1][1:], 16)), text)


def _symbols(options: dict[str, str], pieces: list[bytes], where: str) -> Symbols:
    name = options.get("tokenizer", "bytes")
    if "alphabet" in options and name != "chars":
        raise DataError(f"an alphabet for tokenizer={name}", "it is for #tokenizer=chars; leave it out")
    if name == "bytes":
        return Bytes()
    if name == "chars":
        given = options.get("alphabet")
        return Characters.of(pieces if given is None else [_read(places.path_of(given))], where)
    path = places.path_of(name)
    if not path.exists() and "/" not in name and not name.endswith(".json"):
        raise UnknownNameError.of("tokenizer of text", name, (*NAMES, "a path of tokenizer.json"))
    return TokenizerFile(path)
