"""The library transformers: what is asked of it, of folders on this machine alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nelbo.errors import ModelFolderError, UsageError
from nelbo.model.calling import first_line


def library(what: str) -> Any:
    """The module transformers, which `what` needs. Errors: UsageError naming the extra where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise UsageError(
            f"{what} needs the library transformers, which is not installed", "pip install 'nelbo[text]'"
        ) from None
    return transformers


def network(folder: Path, auto: str, trust_code: bool) -> Any:
    """The network of a folder in float32 and evaluation mode, by the class `auto` of transformers.

    Errors: ModelFolderError where it cannot be read, or where the folder lacks some of its weights, which transformers
    would draw at random.
    """
    transformers = library(f"the model in {folder}")
    kind = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    with _quiet(transformers):
        try:
            net, loaded = getattr(transformers, auto).from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=trust_code,
                output_loading_info=True,
                **{kind: torch.float32},
            )
        except Exception as error:  # whatever the library, its files and the code of a folder raise
            raise ModelFolderError(
                f"transformers cannot read the model in {folder}: {first_line(error)[:300]}",
                "copy the whole folder that save_pretrained wrote again, or read it with transformers itself first",
            ) from None
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise ModelFolderError(
            f"{folder} lacks {len(missing)} of the network's tensors ({', '.join(missing[:3])}), which would be random",
            "these weights are of another model, such as an encoder without the head over its vocabulary",
        )
    return net.eval()


def tokenizer(folder: Path, trust_code: bool) -> Any | None:
    """The tokenizer of a folder, None where it has none. Errors: ModelFolderError where it cannot be read."""
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt")):
        return None
    transformers = library(f"the tokenizer in {folder}")
    with _quiet(transformers):
        try:
            return transformers.AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=trust_code
            )
        except Exception as error:  # as above
            raise ModelFolderError(
                f"transformers cannot read the tokenizer in {folder}: {first_line(error)[:300]}",
                "copy its files again: tokenizer.json, tokenizer_config.json",
            ) from None


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without bars, log lines and warnings of the library: what matters of them is an error here."""
    log = transformers.utils.logging
    shown, level = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(level)
        if shown:
            log.enable_progress_bar()
