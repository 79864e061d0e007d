"""The verbs of the library: what may stand for a model and for data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import nelbo
from nelbo.errors import ModelFolderError, UsageError
from nelbo.model.exact import CategoricalData
from tests.training.cases import codes, small

CODES = CategoricalData([[0.1, 0.2, 0.6, 0.1], [0.4, 0.1, 0.1, 0.4]])
PLUGIN = """
import nelbo
from nelbo.model.exact import CategoricalData

def model():
    data = CategoricalData([[0.1, 0.2, 0.6, 0.1], [0.4, 0.1, 0.1, 0.4]])
    return data.model(nelbo.schedules.logsnr_linear(5.0, -6.0), nelbo.grids.even(5))

def raises():
    return 1 / 0

def wants(argument):
    return model()

def optional(argument=None):
    return model()

def other():
    return 3

value = 3
"""


def exact() -> nelbo.DiffusionModel:
    return CODES.model(nelbo.schedules.logsnr_linear(5.0, -6.0), nelbo.grids.even(5))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current directory with a module of its own name, importable as the contract says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    name = f"plugin_{abs(hash(str(tmp_path))):x}"
    (tmp_path / f"{name}.py").write_text(PLUGIN)
    (tmp_path / f"{name}_broken.py").write_text("import a_package_that_is_not_there\n")
    return name


def test_a_model_is_itself():
    model = exact()
    assert nelbo.load(model) is model


def test_a_folder(tmp_path):
    model = nelbo.train(codes(), tmp_path / "run", small())
    for path in (tmp_path / "run", str(tmp_path / "run")):
        assert nelbo.load(path).fingerprint() == model.fingerprint()
    new = codes(20, seed=2).data
    assert nelbo.evaluate(str(tmp_path / "run"), new).bits_per_dim == nelbo.evaluate(model, new).bits_per_dim
    assert torch.equal(nelbo.sample(tmp_path / "run", 3), nelbo.sample(model, 3))


def test_a_folder_with_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = nelbo.train(codes(), "a:b", small())
    assert nelbo.load("a:b").fingerprint() == model.fingerprint()


@pytest.mark.parametrize("function", ["model", "optional"])
def test_a_function_in_a_module(here, function):
    data = CODES.sample(8)
    assert nelbo.load(f"{here}:{function}").fingerprint() == exact().fingerprint()
    assert nelbo.evaluate(f"{here}:model", data).bits_per_dim == nelbo.evaluate(exact(), data).bits_per_dim


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("{here}:mode", UsageError, "no function 'mode'"),
        ("{here}:value", UsageError, "no function 'value'"),
        ("{here}:", UsageError, "no function ''"),
        ("{here}:wants", UsageError, "without arguments"),
        ("{here}:other", UsageError, "returned a int"),
        ("{here}:raises", UsageError, "raised ZeroDivisionError: division by zero"),
        ("{here}_missing:model", ModelFolderError, "neither a folder nor importable"),
        ("{here}_broken:model", ModelFolderError, "a_package_that_is_not_there"),
        (":model", ModelFolderError, "neither a folder"),
        (".relative:model", ModelFolderError, "neither a folder"),
        ("some/path:model", ModelFolderError, "neither a folder"),
        ("nothing/here", ModelFolderError, "there is no folder nothing/here"),
    ],
)
def test_models_that_are_none(here, text, error, match):
    with pytest.raises(error, match=match) as caught:
        nelbo.load(text.format(here=here))
    assert caught.value.hint


def test_data_in_every_form(tmp_path):
    """Array, tensor, Examples, torch Dataset and DATA strings of the same codes: one bound."""
    data = CODES.sample(12)
    np.save(tmp_path / "codes.npy", data.numpy())
    np.savez(tmp_path / "codes.npz", train=data.numpy()[:1], test=data.numpy())
    pairs = torch.utils.data.TensorDataset(data, torch.zeros(12))
    forms = [
        data,
        data.numpy(),
        data.to(torch.uint8),
        nelbo.Examples(data),
        pairs,
        str(tmp_path / "codes.npy"),
        tmp_path / "codes.npy",
        f"{tmp_path / 'codes.npz'}#test",
    ]
    bounds = [nelbo.evaluate(exact(), form, seed=4) for form in forms]
    assert len({b.bits_per_dim for b in bounds}) == 1
    assert len({b.data["fingerprint"] for b in bounds}) == 1


def test_limit_is_the_first_examples():
    data = CODES.sample(12)
    bound = nelbo.evaluate(exact(), data, limit=5, estimator="exhaustive", per_example=True)
    whole = nelbo.evaluate(exact(), data, estimator="exhaustive", per_example=True)
    assert bound.examples == 5
    torch.testing.assert_close(bound.per_example.nats, whole.per_example.nats[:5])


def test_errors_say_both_sentences():
    """In Python the text of an exception holds the message and the hint."""
    with pytest.raises(nelbo.NelboError) as caught:
        nelbo.load("nothing/here")
    assert str(caught.value) == f"{caught.value.message}\nhint: {caught.value.hint}"


def test_digits_have_17_codes(tmp_path):
    """Training on the digits without a word about bins is training on codes 0..16, not on bytes."""
    settings = small(steps=1, net={"width": 8})
    assert nelbo.train("digits:train", tmp_path / "run", settings).domain.bins == 17
    bytes_ = torch.randint(0, 100, (8, 3), dtype=torch.uint8)
    assert nelbo.train(bytes_, tmp_path / "bytes", settings).domain.bins == 256


@pytest.mark.parametrize(("options", "match"), [({"grid": 10}, r"grid=10\n.*even"), ({"overrides": {}}, "Overrides")])
def test_choices_that_are_of_another_kind(options, match):
    with pytest.raises(UsageError, match=match):
        nelbo.evaluate(exact(), CODES.sample(8), **options)
