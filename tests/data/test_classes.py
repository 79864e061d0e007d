"""Labels with names: recorded at training, matched by name wherever a model is asked, and refused where unknown."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import torch

import nelbo
from nelbo.data import classes, read, resolve
from nelbo.errors import DataError, ModelFolderError, UsageError
from nelbo.model import folder
from nelbo.model.examples import Examples

Image = pytest.importorskip("PIL.Image")
SETTINGS = {
    "steps": 5, "batch_size": 16, "levels": 8, "condition": "y", "warmup": 2, "ema": 0.5, "lr": 0.02,
    "net": {"name": "mlp", "width": 16, "embedding": 8, "blocks": 1, "head": "plain", "dropout": 0.0},
}  # fmt: skip
LEVELS = {"bird": 30, "cat": 120, "dog": 220}


def write(root, names, n=8, seed=0):
    """A folder of n pictures a class, whose codes say which class they are."""
    generator = np.random.default_rng(seed)
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(n):
            codes = generator.integers(-4, 5, (2, 2)) + LEVELS[name]
            Image.fromarray(codes.astype(np.uint8)).save(root / name / f"{i}.png")
    return str(root)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model of three classes, trained by the verb on a folder."""
    root = tmp_path_factory.mktemp("classes")
    nelbo.train(write(root / "train", LEVELS, 24), root / "run", SETTINGS)
    return root / "run"


def bits(model, data, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nelbo.evaluate(model, data, estimator="stratified", max_nfe=200, seed=1, **options)


def test_names_are_recorded_and_kept_by_the_folder(trained):
    model = folder.load(trained)
    assert model.provenance["classes"] == {"y": ["bird", "cat", "dog"]}
    assert model.provenance["data"]["classes"] == {"bird": 0, "cat": 1, "dog": 2}
    assert classes.recorded(model, "y") == ("bird", "cat", "dog") and classes.recorded(model, "z") == ()


def test_a_test_folder_that_lacks_a_class(trained, tmp_path):
    """cat and dog are 1 and 2 as in training, not 0 and 1; the result names the numbers."""
    spec = write(tmp_path / "test", ["cat", "dog"])
    by_name = bits(str(trained), spec, condition="y")
    rows = torch.tensor([1] * 8 + [2] * 8)
    given = bits(str(trained), spec, condition={"y": rows})
    shifted = bits(str(trained), spec, condition={"y": rows - 1})
    assert by_name.bits_per_dim == given.bits_per_dim
    assert shifted.bits_per_dim != by_name.bits_per_dim
    assert by_name.to_dict()["data"]["classes"] == {"cat": 1, "dog": 2}
    assert "classes       cat is 1, dog is 2" in str(by_name)
    assert "classes" not in given.to_dict()["data"]  # rows of the user's own have no names


def test_every_verb_matches_by_name(trained, tmp_path):
    spec = write(tmp_path / "test", ["cat", "dog"])
    rows = {"y": torch.tensor([1] * 8 + [2] * 8)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        few = {"limit": 2, "steps": 4, "dequantisation": "uniform"}
        given = ("y", {"y": rows["y"][:2]})
        odes = [nelbo.ode_likelihood(str(trained), spec, condition=c, **few).bits_per_dim for c in given]
        same = nelbo.compare(str(trained), str(trained), spec, condition="y", max_nfe=600)
        held_out = write(tmp_path / "more", ["dog", "cat"], seed=3)
        _, certificate = nelbo.tighten(str(trained), spec, 4, held_out=held_out, condition="y", first_level="own")
    assert odes[0] == odes[1] and same.difference == 0 and certificate.after.examples == 16


def test_compression_stores_the_model_s_numbers(trained, tmp_path):
    pytest.importorskip("numba")
    spec = write(tmp_path / "test", ["cat", "dog"], n=2)
    source = nelbo.codec.source.source(spec, folder.load(trained), None, "y")
    assert source.condition["y"].tolist() == [1, 1, 2, 2]


def test_validation_data_are_matched_too(tmp_path):
    data, other = write(tmp_path / "train", LEVELS), write(tmp_path / "val", ["dog"])
    from nelbo.training.data import split
    from nelbo.training.settings import check_config

    settings = check_config({**SETTINGS, "validation": {"every": 5}})
    assert split(read(data), read(other), settings).held_out_condition["y"].tolist() == [2] * 8
    with pytest.raises(DataError, match="has the class owl, and the training data have bird, cat, dog"):
        split(read(data), Examples(torch.zeros(2, 2, 2).byte(), "it", torch.tensor([0, 0]), classes=("owl",)), settings)


def test_unknown_names_are_refused(trained, tmp_path):
    spec = write(tmp_path / "test", ["cat"])
    shutil.copytree(tmp_path / "test" / "cat", tmp_path / "test" / "wolf")
    with pytest.raises(DataError, match="has the class wolf, and the model was trained on bird, cat, dog"):
        bits(str(trained), spec, condition="y")


def test_two_models_of_other_classes_are_not_compared(trained):
    model = folder.load(trained)
    other = nelbo.load(str(trained))
    other.provenance["classes"] = {"y": ["cat", "bird", "dog"]}
    with pytest.raises(UsageError, match="one model was trained on the classes bird, cat, dog"):
        classes.check_same(model, other, "y")


@pytest.mark.parametrize("names", ["bird", {"y": "bird"}, {"y": [1]}, ["y"]])
def test_altered_names_are_refused(trained, names):
    model = folder.load(trained)
    model.provenance["classes"] = names
    with pytest.raises(ModelFolderError, match="class names"):
        classes.recorded(model, "y")


def named(labels, names):
    return Examples(torch.zeros(len(labels), 2, 2).byte(), "it", torch.tensor(labels), classes=tuple(names))


def test_a_model_without_names(trained):
    """Names that are numbers must be the labels; others are numbered in order, and the result says how."""
    model = folder.load(trained)
    model.provenance.pop("classes")
    digits = classes.of_model(named([0, 1, 2], ["0", "1", "2"]), model, "y")
    assert digits.labels.tolist() == [0, 1, 2] and digits.facts["classes"] == {"0": 0, "1": 1, "2": 2}
    with pytest.raises(DataError, match="are called 4, 5: their numbers may be these, or 0, 1 in order"):
        classes.of_model(named([0, 1], ["4", "5"]), model, "y")
    for names in (["-1", "0"], ["0.0", "2.0"], ["1", "2"]):
        with pytest.raises(DataError, match="their numbers may be these"):
            classes.of_model(named([0, 1], names), model, "y")
    pets = classes.of_model(named([1, 0], ["cat", "dog"]), model, "y")
    assert pets.facts["classes"] == {"cat": 0, "dog": 1}


def test_spelling():
    """Composed and decomposed letters are one name; two spellings side by side are refused."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    labels, names = classes.numbered([decomposed, "tea"], "it")
    assert names == (composed, "tea") and labels.tolist() == [0, 1]
    with pytest.raises(DataError, match="in two ways"):
        classes.numbered([composed, decomposed], "it")


@pytest.mark.parametrize(
    ("values", "names"),
    [(["10", "2", "1"], ("1", "2", "10")), (["10", "2", "x"], ("10", "2", "x")), (["02", "1"], ("1", "02"))],
)
def test_order_of_names(values, names):
    assert classes.numbered(values, "it")[1] == names


def test_names_of_datasets_library():
    datasets = pytest.importorskip("datasets")
    kinds = {"image": datasets.Array2D((2, 2), "uint8"), "label": datasets.ClassLabel(names=["x", "y"])}
    features = datasets.Features(kinds)
    rows = datasets.Dataset.from_dict({"image": np.zeros((2, 2, 2), np.uint8), "label": [1, 0]}, features=features)
    examples = resolve(rows)
    assert examples.classes == ("x", "y") and examples.labels.tolist() == [1, 0]
    assert json.dumps(classes.stated(examples).facts) == '{"classes": {"x": 0, "y": 1}}'


def test_a_run_is_not_continued_with_other_names_or_labels(trained, tmp_path):
    """The pictures are the same in all three, and only the first is what the checkpoint was trained on."""
    spec = write(tmp_path / "train", LEVELS, 24)
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    nelbo.train(spec, out, SETTINGS, resume=True)
    (tmp_path / "train" / "dog").rename(tmp_path / "train" / "wolf")
    with pytest.raises(UsageError, match="are of a run on other labels or names of classes"):
        nelbo.train(spec, out, SETTINGS, resume=True)
    same = read(spec)
    swapped = Examples(same.data, same.name, 2 - same.labels, 256, classes=tuple(LEVELS))
    with pytest.raises(UsageError, match="other labels or names of classes"):
        nelbo.train(swapped, out, SETTINGS, resume=True)


def test_an_evaluation_is_not_continued_with_other_names(trained, tmp_path):
    """The model knows no names, so that a class that was renamed keeps its number."""
    model = folder.load(trained)
    model.provenance.pop("classes")
    spec, state = write(tmp_path / "test", ["cat", "dog"]), tmp_path / "state"
    first = bits(model, spec, condition="y", state=state)
    assert bits(model, spec, condition="y", state=state).bits_per_dim == first.bits_per_dim
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "wolf")
    with pytest.raises(UsageError, match="is the state of another evaluation"):
        bits(model, spec, condition="y", state=state)
