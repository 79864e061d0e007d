"""Reading data: `read` turns a DATA string into `Examples`, `resolve` does so with any data that `evaluate` accepts.

One file per form: digits.py, arrays.py (npz, npy), idx.py, table.py (csv), folder.py (images), hub.py, dataset.py (of
torch). readers.py finds the form of a string. Nothing here resizes, crops, flips, converts, reorders or drops anything.
"""

from nelbo.data.readers import FORMS, read, resolve

__all__ = ["FORMS", "read", "resolve"]
