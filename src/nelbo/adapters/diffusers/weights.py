"""The weights of a network in a folder of diffusers: which files hold them, and that they are exactly the network's.

diffusion_pytorch_model.safetensors                                   in one file
diffusion_pytorch_model.safetensors.index.json, …-00001-of-00002.…     in several, by an index
diffusion_pytorch_model.bin, ….bin.index.json                          the same, written by torch.save
diffusion_pytorch_model.fp16.safetensors                               a variant, read where nothing else is there

A network keeps the precision of its class, float32: half-precision weights are widened, which is exact.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nelbo.errors import ModelFolderError
from nelbo.files import regular

STEM = "diffusion_pytorch_model"
_OF = r"-\d{5}-of-\d{5}"
SHARD = re.compile(rf"{STEM}(?:\.(?P<a>[\w-]+?))?{_OF}(?:\.(?P<b>[\w-]+))?\.(?P<kind>safetensors|bin)")
INDEX = re.compile(rf"{STEM}(?:\.(?P<a>[\w-]+))?\.(?P<kind>safetensors|bin)\.index(?:\.(?P<b>[\w-]+))?\.json")
SINGLE = re.compile(rf"{STEM}(?:\.(?P<a>[\w-]+))?\.(?P<kind>safetensors|bin)")
COPY = "it is incomplete, truncated or altered; copy the whole folder again"
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
FORMER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of the layers of attention before diffusers 0.13 → their names now."""


@dataclass(frozen=True)
class Source:
    """One complete set of weights: a file, or the index of several. variant: such as "fp16", None for the plain one."""

    path: Path
    variant: str | None

    def read(self) -> dict[str, Tensor]:
        """The tensors by their names in the file. Errors: ModelFolderError naming the file that is wrong."""
        if self.path.suffix != ".json":
            return _tensors(self.path)
        try:
            places = json.loads(regular(self.path).read_text())["weight_map"]
            files = sorted(set(places.values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelFolderError(f"{self.path} is no index of weights: {type(error).__name__}", COPY) from None
        for file in files:
            if not isinstance(file, str) or Path(file).name != file:
                raise ModelFolderError(f"{self.path} names {file!r}, which is no file of its folder", COPY)
            if not (self.path.parent / file).is_file():
                raise ModelFolderError(f"{self.path.parent / file} is missing, and {self.path.name} names it", COPY)
        tensors: dict[str, Tensor] = {}
        for file in files:
            held = _tensors(self.path.parent / file)
            wrong = sorted(set(held) ^ {name for name, place in places.items() if place == file})
            if wrong:
                raise ModelFolderError(
                    f"{self.path.parent / file} and {self.path.name} disagree on {len(wrong)} tensors: {wrong[:3]}",
                    "they are of two saves: remove the folder's weights and save the model again",
                )
            tensors |= held
        return tensors


def files(folder: Path) -> list[Source]:
    """Every file of weights in a network's folder, also those that an index names, safetensors first."""
    files = []
    for path in sorted(folder.iterdir(), key=lambda path: (".bin" in path.name, path.name)) if folder.is_dir() else ():
        match = next((m for m in (form.fullmatch(path.name) for form in (SHARD, SINGLE, INDEX)) if m), None)
        if match:
            files.append(Source(path, match["a"] or match.groupdict().get("b")))
    return files


def sources(folder: Path) -> list[Source]:
    """Every complete set of weights in a network's folder, safetensors first."""
    return [source for source in files(folder) if not SHARD.fullmatch(source.path.name)]


def digest(net: nn.Module) -> str:
    """SHA-256 of the weights in float32, by which they are known again once they were saved and read."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        hashed.update(f"{name} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()


def fitting(expected: Mapping[str, Tensor], folder: Path) -> tuple[Source, dict[str, Tensor]]:
    """The weights in `folder` for a network whose `state_dict` has the names and shapes `expected`, and where they are.

    The plain set is read, a variant where it is the only set. Prefixes of wrappers (`module.`, `_orig_mod.`) go, and
    names of old versions become those of now. Errors: ModelFolderError where there are no weights, where two sets of
    them differ, and where they are not exactly those of the network.
    """
    chosen = _chosen(folder)
    first, tensors = chosen[0], named(chosen[0].read(), expected, chosen[0].path)
    for other in chosen[1:]:
        differ = _differences(tensors, named(other.read(), expected, other.path))
        if differ:
            raise ModelFolderError(
                f"{folder} holds two sets of weights that differ in {len(differ)} tensors ({differ[0]}): "
                f"{first.path.name} and {other.path.name}",
                "one of them is left over from an earlier save: remove it",
            )
    _check(tensors, expected, first.path)
    return first, tensors


def named(tensors: Mapping[str, Tensor], expected: Collection[str], path: Path) -> dict[str, Tensor]:
    """The tensors by the names of the network: without the prefixes of wrappers, old names as those of now."""
    bare = {name: _bare(name, expected) for name in tensors}
    if not any(name in expected for name in bare.values()):
        prefix = _common_prefix(bare.values(), expected)
        bare = {name: value.removeprefix(prefix) for name, value in bare.items()}
    if len(set(bare.values())) < len(bare):
        twice = sorted(name for name in bare if list(bare.values()).count(bare[name]) > 1)
        raise ModelFolderError(
            f"{path} holds tensors twice: {twice[:4]}", "save the network again, without wrappers around it"
        )
    return {bare[name]: value for name, value in tensors.items()}


def _bare(name: str, expected: Collection[str]) -> str:
    if name in expected:
        return name
    name = name.replace("_orig_mod.", "")
    while name.startswith("module."):
        name = name.removeprefix("module.")
    layer, _, part = name.rpartition(".")
    owner, _, layer = layer.rpartition(".")
    if name not in expected and layer in FORMER and f"{owner}.{FORMER[layer]}.{part}" in expected:
        return f"{owner}.{FORMER[layer]}.{part}"
    return name


def _common_prefix(names: Iterable[str], expected: Collection[str]) -> str:
    """The prefix without which the names are exactly those expected, such as "unet."; else "": the names stay."""
    names = set(names)
    some = min(names, default="")
    for cut in [i + 1 for i, letter in enumerate(some) if letter == "."]:
        prefix = some[:cut]
        if all(name.startswith(prefix) for name in names) and {name[cut:] for name in names} == set(expected):
            return prefix
    return ""


def _chosen(folder: Path) -> list[Source]:
    """The sets of weights that must agree. Errors: ModelFolderError where there is none, or a choice of variants."""
    files = sources(folder)
    plain = [source for source in files if source.variant is None]
    if plain:
        return plain
    variants = sorted({str(source.variant) for source in files})
    if len(variants) > 1:
        raise ModelFolderError(
            f"{folder} holds the weights in {len(variants)} variants, {', '.join(variants)}, and in no plain file",
            "load one, net = from_pretrained(…, variant=…), and give nelbo.from_diffusers((net, scheduler))",
        )
    if not files:
        others = sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".json")
        raise ModelFolderError(
            f"{folder} cannot be loaded: it has no {STEM}.safetensors or .bin"
            + (f", only {', '.join(others[:4])}" if others else ""),
            "give the whole folder that save_pretrained wrote; the weights are not made up",
        )
    return files


def _check(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Errors: ModelFolderError naming the tensors that are missing, unexpected, of another shape or no floats."""
    pairs = [(name, tensors[name], expected[name]) for name in sorted(tensors) if name in expected]
    wrong = {
        "missing keys": sorted(set(expected) - set(tensors)),
        "unexpected keys": sorted(set(tensors) - set(expected)),
        "other shapes": [f"{k} {tuple(a.shape)} for {tuple(b.shape)}" for k, a, b in pairs if a.shape != b.shape],
        "quantised numbers": [f"{k} {a.dtype}" for k, a, b in pairs if b.is_floating_point() and a.dtype not in FLOATS],
    }
    for problem, names in wrong.items():
        if names:
            raise ModelFolderError(
                f"the weights in {path} do not fit config.json next to them: {problem} "
                f"({len(names)} of {len(expected)}): {', '.join(names[:3])}",
                "config.json is of another network, or the file is incomplete or altered; copy the whole folder again",
            )


def _differences(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are not equal in both."""
    shared = [name for name in one if name in other]
    unequal = [name for name in shared if not torch.equal(one[name].double(), other[name].double())]
    return sorted({*unequal, *(set(one) ^ set(other))})


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever safetensors, torch or pickle raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelFolderError(f"{path} cannot be loaded: {reason.strip()[:200]}", COPY) from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        holds = list(tensors)[:4] if isinstance(tensors, dict) else type(tensors).__name__
        raise ModelFolderError(
            f"{path} holds {holds}, not the tensors of one network", "save the network's own state_dict() there"
        )
    return tensors
