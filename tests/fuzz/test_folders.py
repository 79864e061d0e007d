"""Model folders with random changes: a model or a ModelFolderError, in little time and memory, and never another model
without a word."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from nelbo.errors import ModelFolderError
from nelbo.model import folder
from tests.folder_cases import make
from tests.fuzz.limits import check_words, limited, restart, tree
from tests.fuzz.mutations import changed_bytes, changed_json

NAMES = ("categorical head", "mixture beside eps", "provenance", "fitted, local, clipped", "context", "exact ends")


def sealed(description: dict, weights: bytes) -> str:
    """model.json whose checksums are made anew, as far as there are entries for them."""
    if isinstance(description, dict):
        if "sha256" in description:
            description["sha256"] = hashlib.sha256(weights).hexdigest()
        if "digest" in description:
            description["digest"] = folder.digest(description)
    return json.dumps(description)


def changed_weights(weights: bytes, rng: np.random.Generator) -> bytes:
    """Bytes, or the header of safetensors: names, types, shapes and places of tensors."""
    if rng.random() < 0.4:
        return changed_bytes(weights, rng)
    length = struct.unpack("<Q", weights[:8])[0]
    header = json.dumps(changed_json(json.loads(weights[8 : 8 + length]), rng)).encode()
    return struct.pack("<Q", len(header)) + header + weights[8 + length :]


def attempt(path: Path, model, rng: np.random.Generator) -> str:
    """One changed folder; what came of it."""
    text, weights = (path / "model.json").read_bytes(), (path / "model.safetensors").read_bytes()
    kind = rng.integers(4)
    try:
        if kind == 0:
            (path / "model.json").write_bytes(changed_bytes(text, rng))
        elif kind == 1:
            (path / "model.safetensors").write_bytes(changed_weights(weights, rng))
        elif kind == 2:
            description = changed_json(json.loads(text), rng)
            (path / "model.json").write_text(sealed(description, weights), errors="surrogatepass")
        else:
            new = changed_weights(weights, rng)
            (path / "model.safetensors").write_bytes(new)
            (path / "model.json").write_text(sealed(json.loads(text), new))
        before = tree(path)
        restart()
        try:
            again = folder.load(path)
        except ModelFolderError as error:
            check_words(error.message)
            assert str(path) in error.message and error.hint
            return "refused"
        finally:
            assert tree(path) == before
        if kind < 2:
            assert again.fingerprint() == model.fingerprint() and again.provenance == model.provenance
            assert (again.trained_on is None) == (model.trained_on is None)
        held = set(folder.load_tensors((path / "model.safetensors").read_bytes())) - {"trained_on"}
        assert held == set(again.tensors())
        return "the same" if kind < 2 else "another"
    finally:
        (path / "model.json").write_bytes(text)
        (path / "model.safetensors").write_bytes(weights)


def fuzz(path: Path, attempts: int, seed: int) -> dict[str, int]:
    outcomes: dict[str, int] = {}
    for number, name in enumerate(NAMES):
        model = make(name)
        folder.save(model, path / str(number))
        rng = np.random.default_rng((seed, number))
        with limited():
            for _ in range(-(-attempts // len(NAMES))):
                outcome = attempt(path / str(number), model, rng)
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
        assert torch.equal(folder.load(path / str(number)).schedule.logsnr(torch.ones(1).double()),
                           model.schedule.logsnr(torch.ones(1).double()))  # fmt: skip
    return outcomes


def test_a_hundred_changes(tmp_path):
    outcomes = fuzz(tmp_path, 100, 0)
    assert outcomes["refused"] > 60


@pytest.mark.slow
def test_five_thousand_changes(tmp_path):
    outcomes = fuzz(tmp_path, 5000, 1)
    assert outcomes["refused"] > 3000 and outcomes["another"] > 20
