"""The peers as they are on PyPI, imported without those of their dependencies that the code under test never calls.

`denoising_diffusion_pytorch` and `k_diffusion` import torchvision, kornia, wandb and the like at the top. If such a
module is not installed, an empty one replaces it while the peer is imported, and is removed afterwards. Nothing of the
peer itself is replaced.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

UNNEEDED = {
    "denoising_diffusion_pytorch": ("torchvision", "pytorch_fid", "torch_fidelity"),
    "k_diffusion": ("torchvision", "kornia", "clip", "skimage", "wandb", "dctorch", "jsonmerge", "cleanfid"),
}


class _Empty(types.ModuleType):
    """A module of which every name is another empty module, and which does nothing when it is called."""

    __path__: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Empty(f"{self.__name__}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if args else None


class _Finder:
    """Finds the empty modules, and nothing else."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] not in self.names:
            return None
        return importlib.util.spec_from_loader(name, self)

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


@contextlib.contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    missing = tuple(n for n in names if importlib.util.find_spec(n) is None)
    finder = _Finder(missing)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [n for n in sys.modules if n.split(".")[0] in missing]:
            del sys.modules[name]


def peer(name: str, module: str) -> Any:
    """The peer's own module; the test is skipped, with this reason, if the package is not installed."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: make peers")
    with _without(UNNEEDED.get(name, ())):
        imported = importlib.import_module(f"{name}.{module}")
    source = imported.__file__ or ""
    assert "site-packages" in source, source
    return imported
