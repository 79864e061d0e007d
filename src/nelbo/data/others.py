"""Files of other formats, with the line that makes of them what is read."""

from __future__ import annotations

from pathlib import Path

_TORCH = (
    'tensors of torch are read by: python -c "import torch, numpy; '
    "numpy.save('data.npy', torch.load('{name}', weights_only=True).numpy())\""
)
_TABLE = (
    "make a table of it: python -c \"import pandas; pandas.read_{reader}('{name}').to_csv('data.csv', index=False)\""
)
_LINES = {
    (".pt", ".pth"): _TORCH,
    (".parquet",): 'make arrays of it: python -c "import pandas, numpy; '
    "numpy.save('data.npy', pandas.read_parquet('{name}').to_numpy())\"; of images, give in Python the rows of "
    "datasets.load_dataset('parquet', data_files='{name}')['train']",
    (".arrow", ".feather"): _TABLE.replace("{reader}", "feather"),
    (".json", ".jsonl"): _TABLE.replace("{reader}", "json"),
    (".xlsx", ".xls"): _TABLE.replace("{reader}", "excel"),
    (".tsv", ".tab"): 'make it comma-separated: python -c "import pandas; '
    "pandas.read_csv('{name}', sep='\\t').to_csv('data.csv', index=False)\"",
    (".txt", ".dat"): 'numbers between spaces are read by: python -c "import numpy; '
    "numpy.save('data.npy', numpy.loadtxt('{name}'))\"",
    (".h5", ".hdf5"): 'make an array of it: python -c "import h5py, numpy; '
    "numpy.save('data.npy', h5py.File('{name}')['KEY'][:])\"",
    (".mat",): 'make an array of it: python -c "import scipy.io, numpy; '
    "numpy.save('data.npy', scipy.io.loadmat('{name}')['KEY'])\"; its axes may be in another order",
    (
        ".pkl",
        ".pickle",
    ): "a pickle can run code and is not opened; load it where it is trusted, and save the array",
    (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"): "unpack it and give the folder",
    (".tfrecord", ".tfrecords", ".lmdb", ".mdb"): "write its images to a folder, or as an .npz file",
    (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"): "a picture is given by the folder it is in",
}


def remedy(path: Path) -> str | None:
    """What to do with a file of this ending; None where the ending says nothing."""
    ending = path.suffix.lower()
    return next((line.replace("{name}", path.name) for endings, line in _LINES.items() if ending in endings), None)
