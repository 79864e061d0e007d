"""Reading data: `read` turns a DATA string into `Examples`, `resolve` takes whatever `nelbo.evaluate` may be handed.

One file a form: digits.py, arrays.py (npz, npy), idx.py, folder.py (images), hub.py, items.py (torch datasets);
readers.py knows which form a string is. Nothing here resizes, crops, flips, converts, reorders or drops anything.
"""

from nelbo.data.readers import FORMS, read, resolve

__all__ = ["FORMS", "read", "resolve"]
