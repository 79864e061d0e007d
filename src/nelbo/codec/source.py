"""Where images come from: their codes, the form they had, and the names and conditions that go with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo.codec.bytestream import ByteReader, ByteWriter
from nelbo.codec.header import DTYPES, MAX_CONDITIONS, OF_FILE
from nelbo.codec.names import LONGEST, MOST, Restored, Unusable, packed, unpacked
from nelbo.codec.stack import Damaged
from nelbo.data import classes, idx, numpy_files, places, readers, symbols
from nelbo.data.folder import is_folder
from nelbo.data.places import Place
from nelbo.data.text import PREFIX
from nelbo.errors import DataError, UsageError
from nelbo.model.calling import condition_rows
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.model.tokens.model import TokenModel
from nelbo.typing import Condition, Json


@dataclass(frozen=True, eq=False)
class Source:
    """Images to compress. data: codes (N, *shape) of the model's domain; shape, dtype, form, key: as they were given;
    names: of the files of a folder; condition: the network's keywords, one integer per image; text: as of `Header`."""

    data: Tensor
    shape: tuple[int, ...]
    dtype: str
    form: str
    key: str = ""
    names: tuple[str, ...] = ()
    condition: Condition | None = None
    facts: Json = field(default_factory=dict)
    text: Json = field(default_factory=dict)

    def codes(self, first: int, last: int) -> Tensor:
        """Some images as int64 (n, *shape of the domain)."""
        return self.data[first:last].to(torch.int64)

    def metadata(self, first: int, last: int) -> bytes:
        """Names and conditions of some images, for their chunk."""
        if not self.names and self.condition is None:
            return b""
        out = ByteWriter().packed(packed(self.names[first:last]))
        for _, values in sorted((self.condition or {}).items()):
            out.packed(values[first:last].numpy().astype("<i4").tobytes())
        return bytes(out.data)


def parse_metadata(metadata: bytes, n: int, conditions: tuple[str, ...]) -> tuple[list[str], Condition | None]:
    """Names and conditions of n images. Errors: `Damaged`."""
    if not metadata:
        if conditions:
            raise Damaged("images without their conditions")
        return [], None
    reader = ByteReader(metadata)
    names = unpacked(reader.packed(min(MOST, (LONGEST + 1) * n + 100)), n)
    condition = {}
    for name in conditions:
        rows = np.frombuffer(reader.packed(4 * n), "<i4")
        if len(rows) != n:
            raise Damaged("conditions of another number of images")
        condition[name] = torch.from_numpy(rows.astype(np.int64))
    if reader.remaining:
        raise Damaged("more than names and conditions")
    return names, condition or None


def source(
    images: Any, model: DiffusionModel | TokenModel, limit: int | None, condition: Condition | str | None
) -> Source:
    """The images, or sequences, that `compress` is given. Errors: DataError, DomainError, ShapeError, UsageError."""
    if isinstance(model, TokenModel) and isinstance(images, str) and images.startswith(PREFIX):
        return text_source(images, model, limit, condition)
    examples = images if isinstance(images, Examples) else readers.resolve(images, limit=limit)
    examples = examples.first(limit)
    if not isinstance(model, TokenModel):
        examples.check_whole("compression", "an archive holds images of one shape, and no sizes")
    if isinstance(model, TokenModel):
        data = model.domain.checked(torch.as_tensor(examples.data))
        model.check_symbols(data, torch.ones_like(data, dtype=torch.bool))
    else:
        if isinstance(condition, str):
            examples = classes.of_model(examples, model, condition)
        data = model.domain.checked(examples.data, examples.name, examples.release)
    form, key, names = "array", "", ()
    if isinstance(images, (str, Path)):
        form, key = form_of(str(images))
    if form == "folder":
        names = examples.names
        check_names(names, str(images))
    dtype = str(examples.data.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise UsageError(f"codes of the type {dtype}", f"give one of the types {', '.join(DTYPES)}")
    rows = condition_of(condition, examples)
    return Source(data, tuple(examples.data.shape[1:]), dtype, form, key, names, rows, examples.facts)


def text_source(spec: str, model: TokenModel, limit: int | None, condition: Condition | str | None) -> Source:
    """A text, every byte of it: `text:FILE`, read by the symbols of the model's own training where it has some, in
    sequences of the model's length, the last of which may be shorter. Errors: DataError, DomainError, UsageError."""
    place = Place.of(spec.removeprefix(PREFIX))
    options = place.checked(("length", "tokenizer"))
    chosen = symbols_of(model)
    name = options.get("tokenizer", "bytes" if chosen is None else chosen.facts()["tokenizer"])
    with places.opened(place.path) as file:
        raw = file.read()
    if chosen is None:
        chosen = symbols.Bytes() if name == "bytes" else symbols.Characters.of([raw], str(place.path))
    facts = chosen.facts()
    if name != facts["tokenizer"]:
        raise UsageError(
            f"a text by the tokenizer {name}, and a model of {facts['tokenizer']}",
            "leave #tokenizer out: a text is written in the symbols of the model's training, or else in bytes or chars",
        )
    if condition is not None:
        raise UsageError("a condition of a text, which is one example", "give sequences as integers with their rows")
    if not raw:
        raise DataError(f"{place.path} is empty", "give a text")
    L = model.domain.length
    stream = chosen.stream(raw, str(place.path))
    if isinstance(chosen, symbols.TokenizerFile):
        if chosen.text(stream.symbols) != raw:
            raise UsageError(
                f"{place.path}, which does not come back from the tokens of {facts['tokenizer']}",
                "give a text that it leaves as it is, or a model of bytes or chars, which bring every byte back",
            )
        facts = {"tokenizer": OF_FILE, "fingerprint": chosen.digest}
    some = slice(None if limit is None else limit * L)
    codes = stream.symbols[some]
    n, tail = -(-len(codes) // L), (len(codes) - 1) % L + 1
    rows = np.zeros((n, L), np.int32)
    rows.reshape(-1)[: len(codes)] = codes
    data = model.domain.checked(torch.from_numpy(rows))
    assert stream.bytes is not None  # of a text they are known
    read = int(stream.bytes[some].sum(dtype=np.int64))
    return Source(data, (L,), "int32", "array", facts={"bytes": read}, text={**facts, "tail": tail})


def symbols_of(model: DiffusionModel | TokenModel) -> symbols.Symbols | None:
    """The symbols of the text that a model was trained on, None where it was none. Errors: DataError where they are of
    a tokenizer's file that is no longer there, or another one."""
    return symbols.of_facts(model.provenance.get("data", {}))


def check_names(names: Sequence[str], where: str) -> None:
    """Errors: DataError for names that could not be restored, each in a place of its own."""
    places = Restored()
    for name in names:
        try:
            places.enter(name)
        except Unusable as error:
            raise DataError(
                f"the pictures of {where} cannot be restored by their names: {error}",
                "rename these files, or give the images as one .npz file",
            ) from None


def form_of(spec: str) -> tuple[str, str]:
    """The form of a DATA string, and the key of the array in an npz file."""
    if is_folder(spec):
        return "folder", ""
    place = Place.of(spec)
    if place.path.suffix.lower() == ".npz":
        keys = place.words or numpy_files.keys(place.path)
        return "npz", keys[0] if len(keys) == 1 else ""
    if place.path.suffix.lower() == ".npy":
        return "npy", ""
    return ("idx", "") if idx.is_idx(place.path) else ("array", "")


def condition_of(condition: Condition | str | None, examples: Examples) -> Condition | None:
    """A condition as integers, one per image; a name stands for the labels of the data. Errors: UsageError."""
    if condition is None:
        return None
    if isinstance(condition, str):
        if examples.labels is None:
            raise UsageError(
                f"condition={condition!r}, but {examples.name} has no labels", "give data with labels, or no condition"
            )
        condition = {condition: examples.labels}
    rows = condition_rows(condition, len(examples), "images")
    if len(rows) > MAX_CONDITIONS:
        raise UsageError(f"{len(rows)} conditions", f"an archive keeps {MAX_CONDITIONS} at most")
    for name, values in rows.items():
        if values.shape != (len(examples),) or values.is_floating_point() or int(values.abs().max()) >= 2**31:
            raise UsageError(
                f"the condition {name!r} has the shape {tuple(values.shape)} and the type {values.dtype}",
                "only conditions of one integer per image can be kept in the file",
            )
    return {name: values.to(torch.int64) for name, values in rows.items()}
