"""Data that other libraries hold: taken where the meaning is one, else one error with the line to write."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from nelbo.data import read, resolve
from nelbo.errors import DataError, UnknownNameError

CODES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([2, 0, 1])


class Tables(Dataset):
    """Items as of the `datasets` library."""

    def __init__(self, **columns):
        self.columns = columns

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return {name: values[i] for name, values in self.columns.items()}


class Bunch(dict):
    """As of scikit-learn: a dict whose keys are attributes, too."""


class ArrayLike:
    """As of jax and others: no sequence, but an array for whom it asks."""

    def __array__(self, dtype=None, copy=None):
        return CODES


class Frame:
    """A data frame of another library than pandas, by what polars offers."""

    def __init__(self, **columns):
        self.data = columns
        self.columns = list(columns)

    def __getitem__(self, name):
        return Column(self.data[name])

    def __len__(self):
        return len(next(iter(self.data.values())))

    def to_numpy(self):
        return np.stack(list(self.data.values()), 1)


class Column:
    name = "a"

    def __init__(self, values):
        self.values = values

    def to_numpy(self):
        return np.asarray(self.values)


TAKEN = {
    "torch.uint16": lambda: torch.from_numpy(CODES.astype(np.uint16)),
    "torch.uint32": lambda: torch.from_numpy(CODES.astype(np.uint32)),
    "torch.uint64": lambda: torch.from_numpy(CODES.astype(np.uint64)),
    "a tensor with a gradient": lambda: torch.from_numpy(CODES).double().requires_grad_(),
    "a masked array without a mask": lambda: np.ma.MaskedArray(CODES),
    "a masked array of False": lambda: np.ma.MaskedArray(CODES, mask=np.zeros_like(CODES, bool)),
    "a dict": lambda: {"x": CODES},
    "a dict of tensors": lambda: {"images": torch.from_numpy(CODES)},
    "an array of another library": ArrayLike,
    "a list of arrays": lambda: list(CODES),
    "a tuple of tensors": lambda: tuple(torch.from_numpy(CODES)),
    "a deque": lambda: collections.deque(CODES),
    "a data set of tables": lambda: Tables(image=CODES),
    "a data set of uint16": lambda: TensorDataset(torch.from_numpy(CODES.astype(np.uint16))),
}


@pytest.mark.parametrize("case", TAKEN)
def test_taken(case):
    examples = resolve(TAKEN[case]())
    assert np.array_equal(examples.data, CODES) and examples.labels is None
    assert examples.data.dtype not in (torch.uint16, torch.uint32, torch.uint64)
    assert not examples.data.requires_grad
    assert len(resolve(TAKEN[case](), limit=2)) == 2


LABELLED = {
    "a dict": lambda: {"images": CODES, "labels": LABELS},
    "a Bunch": lambda: Bunch(data=CODES, target=LABELS, target_names=["a", "b", "c"], DESCR="text"),
    "tables": lambda: Tables(image=CODES, label=LABELS.tolist()),
    "tables of anything": lambda: Tables(scan=CODES, age=[1, 2, 3], y=LABELS.tolist()),
    "pairs": lambda: list(zip(CODES, LABELS.tolist(), strict=True)),
}


@pytest.mark.parametrize("case", LABELLED)
def test_taken_with_labels(case):
    examples = resolve(LABELLED[case]())
    assert np.array_equal(examples.data, CODES) and examples.labels.tolist() == LABELS.tolist()


def test_an_npz_file_that_is_open(tmp_path):
    np.savez(tmp_path / "x.npz", images=CODES, labels=LABELS)
    with np.load(tmp_path / "x.npz") as file:
        examples = resolve(file)
    assert np.array_equal(examples.data, CODES) and examples.labels.tolist() == LABELS.tolist()


def test_what_a_mapping_holds_besides_is_named():
    examples = resolve(Bunch(data=CODES, labels=LABELS + 0.5, DESCR="text"))
    entries = examples.facts["passed_over"]["entries"]
    assert [(e["name"], e["reason"]) for e in entries] == [
        ("DESCR", "a str"),
        ("labels", "float64[3], no labels of the data"),
    ]


REFUSED = {
    "masked values": (np.ma.MaskedArray(CODES, mask=CODES > 50), "9 masked values", r"x\.filled"),
    "a complex array": (CODES * 1j, "complex128", "np.stack"),
    "a complex tensor": (torch.from_numpy(CODES) * 1j, "is complex", "torch.stack"),
    "a sparse tensor": (torch.from_numpy(CODES).to_sparse(), "is sparse", r"x\.to_dense\(\)"),
    "a tensor without values": (torch.empty(3, 2, device="meta"), "device meta", "with values"),
    "a dict of two": ({"a": CODES, "b": CODES}, "not clear which one is the data: a uint8", r"x\['a'\]"),
    "a dict of nothing": ({"a": "text"}, "holds no array: its keys are a", "give an array"),
    "an empty dict": ({}, "holds no array", "give an array"),
    "a loader": (DataLoader(list(CODES), shuffle=True), "may be shuffled", r"loader\.dataset"),
    "nested lists": (CODES[:, 0].tolist(), "a list of numbers", r"numpy\.asarray"),
    "a generator": ((x for x in CODES), "can be read once", r"list\(x\)"),
    "two parts": ({"train": Tables(image=CODES), "test": Tables(image=CODES)}, "holds no array", ""),
    "tables of two arrays": (Tables(a=CODES, b=CODES), "the keys a, b", r"\[item\[KEY\]"),
    "a column": (Column([1, 2]), "one column", "reshape"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_refused_with_the_line(case):
    data, match, line = REFUSED[case]
    with pytest.raises(DataError, match=match) as caught:
        resolve(data)
    import re

    assert re.search(line, caught.value.hint)


@pytest.mark.filterwarnings("ignore")
def test_tensors_of_unusual_kinds():
    nested = torch.nested.nested_tensor([torch.zeros(2, 2), torch.zeros(3, 2)])
    with pytest.raises(DataError, match="nested"):
        resolve(nested)
    with pytest.raises(DataError, match=r"beyond 2\^63"):
        resolve(torch.tensor([[2**63 + 1]], dtype=torch.uint64))
    with pytest.raises(DataError, match="quantised"):
        resolve(torch.quantize_per_tensor(torch.zeros(2, 2), 0.1, 0, torch.quint8))


# ---------------------------------------------------------------- data frames


FRAMES = {"stand-in": Frame, "pandas": None, "polars": None}


@pytest.fixture(params=FRAMES)
def frame(request):
    """frame(a=[…], …) makes a data frame of every library that is installed, and of a stand-in."""
    if FRAMES[request.param] is not None:
        return FRAMES[request.param]
    library = pytest.importorskip(request.param)
    return lambda **columns: library.DataFrame(columns)


def test_frames_are_tables(frame):
    examples = resolve(frame(a=[1.5, 2.5], label=[3, 1], b=[4, 5]))
    assert examples.data.tolist() == [[1.5, 4], [2.5, 5]] and examples.labels.tolist() == [3, 1]
    assert examples.data.dtype == torch.float64
    named = resolve(frame(a=[1.5, 2.5], label=np.array(["owl", "ant"], object)))
    assert named.classes == ("ant", "owl") and named.labels.tolist() == [1, 0]


def test_frames_that_are_refused(frame):
    with pytest.raises(DataError, match="column 'b' of type"):
        resolve(frame(a=[1.5, 2.5], b=np.array(["x", "y"], object)))
    with pytest.raises(DataError, match="whole numbers: labels, or a coordinate"):
        resolve(frame(x=[1.5, 2.5], y=[1, 2]))
    with pytest.raises(DataError, match="column 'index', which counts the rows"):
        resolve(frame(index=[0, 1], b=[1.5, 2]))
    with pytest.raises(DataError, match="no label in row 1"):
        resolve(frame(a=[1.5, 2.5], label=np.array(["owl", None], object)))


def test_pandas_series_and_frames_as_a_network_would_get_them():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(DataError, match="one column"):
        resolve(pandas.Series([1.0, 2.0], name="a"))
    rows = pandas.DataFrame({0: [1.5, 2.5], 1: [3, 4]}, index=[7, 9])
    assert resolve(rows).data.tolist() == [[1.5, 3], [2.5, 4]]
    missing = resolve(pandas.DataFrame({"a": pandas.array([1, None], dtype="Int64")}))
    assert missing.data.isnan().tolist() == [[False], [True]]  # which every verb refuses


def test_scipy_matrices():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(DataError, match="sparse matrix") as caught:
        resolve(sparse.csr_matrix(np.eye(3)))
    assert "x.toarray()" in caught.value.hint


def test_scikit_learn():
    sets = pytest.importorskip("sklearn.datasets")
    iris = resolve(sets.load_iris())
    assert iris.data.shape == (150, 4) and iris.labels.unique().tolist() == [0, 1, 2]
    assert iris.classes == ("setosa", "versicolor", "virginica")
    with pytest.raises(DataError, match="not clear which one is the data: data float64") as caught:
        resolve(sets.load_digits())
    assert "x['data']" in caught.value.hint


# ---------------------------------------------------------------- the library datasets


@pytest.fixture
def rows():
    datasets = pytest.importorskip("datasets")
    Image = pytest.importorskip("PIL.Image")
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
    pictures = [Image.fromarray(codes) for codes in CODES]
    return datasets.Dataset.from_dict({"image": pictures, "label": [1, 0, 1]}, features=kinds)


def test_a_dataset_and_its_parts(rows):
    import datasets

    for data in (rows, datasets.DatasetDict(train=rows)):
        examples = resolve(data)
        assert np.array_equal(examples.data, CODES) and examples.labels.tolist() == [1, 0, 1]
        assert examples.classes == ("x", "y")
    assert len(resolve(rows, limit=2)) == 2
    with pytest.raises(DataError, match="has the splits train, test") as caught:
        resolve(datasets.DatasetDict(train=rows, test=rows))
    assert "x['test']" in caught.value.hint
    with pytest.raises(DataError, match="a stream"):
        resolve(rows.to_iterable_dataset())


def test_a_column_of_arrays_has_the_type_that_it_declares():
    datasets = pytest.importorskip("datasets")
    kinds = datasets.Features({"x": datasets.Array2D((2, 3), "uint8")})
    examples = resolve(datasets.Dataset.from_dict({"x": [np.full((2, 3), 7, np.uint8)] * 2}, features=kinds))
    assert examples.data.dtype == torch.uint8 and examples.bins == 256 and examples.data.flatten().tolist() == [7] * 12


def test_what_save_to_disk_wrote(rows, tmp_path):
    import datasets

    rows.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=rows, test=rows.select([2])).save_to_disk(str(tmp_path / "two"))
    for spec, n in ((tmp_path / "one", 3), (f"{tmp_path / 'two'}:test", 1), (f"{tmp_path / 'two'}:train", 3)):
        examples = read(str(spec))
        assert np.array_equal(examples.data, CODES[-n:]) and examples.classes == ("x", "y")
        assert examples.name == str(spec)
    with pytest.raises(DataError, match="has the splits train, test"):
        read(str(tmp_path / "two"))
    with pytest.raises(UnknownNameError, match="train"):
        read(f"{tmp_path / 'two'}:tset")
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(DataError, match="load_from_disk"):
        read(str(tmp_path / "one"))


# ---------------------------------------------------------------- channels last, and other files


def test_channels_in_the_last_place(tmp_path):
    import nelbo
    from nelbo.data.arrays import check_channels_first

    x = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    np.savez(tmp_path / "x.npz", images=x)
    for data in (x, str(tmp_path / "x.npz")):
        with pytest.raises(DataError, match=r"\(2, 8, 8, 3\), which is 3 channels in the last place") as caught:
            nelbo.train(data, tmp_path / "run")
        assert "transpose(0, 3, 1, 2)" in caught.value.hint and "#layout=nhwc" in caught.value.hint
    for spec in (f"{tmp_path / 'x.npz'}#layout=nhwc", f"{tmp_path / 'x.npz'}#images#layout=nhwc"):
        assert np.array_equal(read(spec).data, x.transpose(0, 3, 1, 2))
    assert np.array_equal(resolve(x, layout="nhwc").data, x.transpose(0, 3, 1, 2))
    assert np.array_equal(resolve(x, layout="nchw").data, x)
    with pytest.raises(UnknownNameError, match="nchw, nhwc"):
        resolve(x, layout="hwc")
    with pytest.raises(DataError, match="for arrays of shape"):
        resolve(CODES, layout="nhwc")
    for shape in ((2, 3, 8, 8), (2, 1, 8, 8), (2, 4, 8, 1), (2, 3, 3, 3), (2, 1, 4, 4), (2, 1, 5, 3)):
        check_channels_first(resolve(np.zeros(shape, np.uint8)))
    for shape in ((2, 8, 8, 1), (2, 8, 6, 3), (2, 4, 4, 3)):
        with pytest.raises(DataError, match="last place"):
            check_channels_first(resolve(np.zeros(shape, np.uint8)))


OTHERS = {
    "x.pt": "torch.load('x.pt', weights_only=True)", "x.parquet": "pandas.read_parquet('x.parquet')",
    "x.tsv": "sep='\\t'", "x.pkl": "a pickle can run code", "x.zip": "unpack it", "x.h5": "h5py.File('x.h5')",
    "x.png": "by the folder it is in", "x.txt": "numpy.loadtxt('x.txt')", "x.unknown": "give one of: digits",
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_other_formats_get_the_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"PAR1")
    with pytest.raises(DataError, match="a file of no known form") as caught:
        read(str(tmp_path / name))
    assert OTHERS[name] in caught.value.hint


def test_names_with_a_hash(tmp_path):
    np.savez(tmp_path / "a#b.npz", images=CODES, other=CODES + 1)
    np.save(tmp_path / "run#2.npy", CODES)
    assert np.array_equal(read(f"{tmp_path / 'a#b.npz'}#other").data, CODES + 1)
    assert np.array_equal(read(str(tmp_path / "run#2.npy")).data, CODES)
    with pytest.raises(DataError, match="no option of such data"):
        read(f"{tmp_path / 'run#2.npy'}#key")
