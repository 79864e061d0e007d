"""Data that other libraries hold in memory: taken where their meaning is one, else refused with the line to write.

Libraries are recognised by what their objects offer, so that none of them is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo.data import arrays, columns, dataset, hub
from nelbo.errors import DataError
from nelbo.model.examples import Examples


def is_known(data: Any) -> bool:
    """Whether the object offers something that `read_object` goes by, besides items by number."""
    marks = ("__array__", "to_numpy", "column_names", "toarray", "batch_size", "collect", "__next__")
    return isinstance(data, torch.utils.data.Dataset) or any(hasattr(data, mark) for mark in marks)


def read_object(data: Any, limit: int | None = None) -> Examples:
    """Examples from an array, tensor, data frame, mapping of arrays, `datasets.Dataset` or torch `Dataset`.

    Errors: DataError, with the line that makes of the object what can be taken.
    """
    name = type(data).__name__
    if isinstance(data, Tensor):
        return Examples(arrays.examples_of(arrays.plain(data, "the tensor"), "the tensor")).first(limit)
    if isinstance(data, np.ma.MaskedArray):
        if np.ma.is_masked(data):
            raise DataError(
                f"the masked array has {int(np.ma.count_masked(data))} masked values, which have no number",
                "give x.filled(VALUE), or the examples without masked values: "
                "x[~np.ma.getmaskarray(x).reshape(len(x), -1).any(1)].data",
            )
        data = data.data
    if isinstance(data, np.ndarray):
        return Examples(arrays.tensor(data, "the array")).first(limit)
    if hasattr(data, "toarray") and hasattr(data, "nnz"):
        raise DataError(f"the data are a sparse matrix ({name})", "give x.toarray()")
    if hasattr(data, "to_numpy") and hasattr(data, "columns"):
        return _frame(data).first(limit)
    if hasattr(data, "to_numpy") and hasattr(data, "name"):
        raise DataError(f"the data are one column ({name}), not a set of examples", "give x.to_numpy().reshape(-1, 1)")
    if hasattr(data, "collect") and hasattr(data, "lazy"):
        raise DataError(f"the data are a query that has not been run ({name})", "give x.collect()")
    if hasattr(data, "dataset") and hasattr(data, "batch_size"):
        raise DataError(
            f"the data are a {name}, whose order may be shuffled and whose last batch dropped",
            "give its data set: loader.dataset",
        )
    if hasattr(data, "column_names") and hasattr(data, "features"):
        if isinstance(data.column_names, Mapping):
            return _splits(data, limit)
        if not hasattr(data, "__len__"):
            raise DataError(f"the data are a stream of rows ({name})", "load it without streaming=True")
        return hub.read_rows(data, name, limit)
    if isinstance(data, Mapping) or (hasattr(data, "files") and hasattr(data, "keys")):
        if data and all(hasattr(value, "column_names") for value in dict(data).values()):
            return _splits(data, limit)
        return _mapping(data, name).first(limit)
    if isinstance(data, torch.utils.data.Dataset):
        return dataset.read_dataset(data, limit)
    if hasattr(data, "__array__") and not isinstance(data, (list, tuple)):
        return Examples(arrays.tensor(_array(data, name), f"the {name}")).first(limit)
    if isinstance(data, (list, tuple)) and data and all(isinstance(item, (list, int, float, complex)) for item in data):
        raise DataError(f"the data are a {name} of numbers", "give numpy.asarray(x)")
    if hasattr(data, "__next__"):
        raise DataError(f"the data are a {name}, which can be read once", "give list(x)")
    return dataset.read_dataset(data, limit)


def _array(data: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(data)
    except Exception as error:  # whatever the other library raises
        raise DataError(f"the data of type {name} are no array: {error}", "give a numpy array") from None


def _frame(frame: Any) -> Examples:
    """A data frame of pandas or polars by the rules of a table. Errors: DataError."""
    where, names = f"the {type(frame).__name__}", [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise DataError(f"{where} has two columns of one name", "rename one of them")
    if not names or not len(frame):
        raise DataError(f"{where} is empty", "give a table with one example a row")
    values = {str(name): np.asarray(frame[name].to_numpy()) for name in frame.columns}
    line = "x.drop(columns=…), or numpy arrays: x[[…]].to_numpy()"
    label = columns.label_column(names, None, where, line)
    labels, known = None, ()
    if label is not None:
        split = columns.labels_of(values[names[label]], names[label], names, where, line, False)
        labels, known = split or (None, ())
        if split is not None:
            del values[names[label]]
    for name, column in values.items():
        if column.dtype.kind in "uif" and columns.is_counter(name, column.tolist()):
            raise DataError(
                f"{where} has the column {name!r}, which counts the rows: row numbers, or data",
                f"leave it out: x.drop(columns={[name]!r}); or, if it is data, give it another name",
            )
        if column.dtype.kind not in "buif":
            raise DataError(
                f"{where} has the column {name!r} of type {column.dtype}, which holds no numbers",
                f"leave it out: x.drop(columns={[name]!r}), or make numbers of it on purpose",
            )
    data = arrays.tensor(np.stack([column.astype(np.float64) for column in values.values()], axis=1), where)
    return Examples(data, type(frame).__name__, labels, classes=known)


def _mapping(data: Any, name: str) -> Examples:
    """Arrays by key, by the rules of an npz file. Errors: DataError."""
    values: dict[str, np.ndarray] = {}
    passed, names = [], ()
    for key in data.keys():  # noqa: SIM118  an NpzFile reads its arrays when they are asked for
        value = data[key]
        if isinstance(value, Tensor):
            values[str(key)] = arrays.plain(value, f"x[{key!r}]").cpu().numpy()
        elif isinstance(value, np.ndarray) and value.dtype.kind in "buifc":
            values[str(key)] = value
        elif isinstance(value, np.ndarray) and key == "target_names" and value.dtype.kind == "U":
            names = tuple(value.flatten().tolist())
        else:
            passed.append((str(key), f"a {type(value).__name__}"))
    where = f"the {name}"
    if not values:
        keys = ", ".join(map(str, data))[:200] or "(none)"
        raise DataError(f"{where} holds no array: its keys are {keys}", "give an array")
    if "target" in values and "labels" not in values and "data" in values:
        values["labels"] = values.pop("target")  # scikit-learn
    chosen = arrays.chosen_key(values, None, where, lambda key: f"as in x[{key!r}]")
    label = arrays.label_key(values, chosen, len(values[chosen]) if values[chosen].ndim else 0)
    rest = {key: value for key, value in values.items() if key not in (chosen, label)}
    passed += [(key, f"{v.dtype}{list(v.shape)}, no labels of the data") for key, v in rest.items()]
    labels = None if label is None else arrays.labels(values[label])
    if labels is None or not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
        names = ()
    return Examples(arrays.tensor(values[chosen], where), name, labels, classes=names, facts=arrays.passed_over(passed))


def _splits(data: Any, limit: int | None) -> Examples:
    """Errors: DataError where there is more than one split."""
    names = list(data)
    if not names:
        raise DataError(f"the {type(data).__name__} has no splits", "give a data set")
    if len(names) > 1:
        listed = ", ".join(map(str, names))
        raise DataError(f"the {type(data).__name__} has the splits {listed}", f"choose one: x[{names[-1]!r}]")
    return hub.read_rows(data[names[0]], str(names[0]), limit)
