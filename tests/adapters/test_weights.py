"""Weights in folders of diffusers: every way of keeping them gives the same model, or one error that names the file."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import nelbo
from nelbo.errors import ModelFolderError, NelboError
from tests.adapters.pipelines import tiny
from tests.expected import early_end, untrained

pytestmark = [untrained, early_end]

diffusers = pytest.importorskip("diffusers")
CODES = torch.randint(0, 17, (4, 1, 8, 8), generator=torch.Generator().manual_seed(5))
PLAIN, BIN = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
INDEX, FP16 = f"{PLAIN}.index.json", "diffusion_pytorch_model.fp16.safetensors"


def made(seed: int, **settings):
    torch.manual_seed(seed)
    return diffusers.DDPMPipeline(tiny(**settings).eval(), diffusers.DDPMScheduler(20))


@pytest.fixture(scope="module")
def pipeline():
    return made(0)


@pytest.fixture
def saved(tmp_path, pipeline):
    pipeline.save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


def read(folder: Path) -> nelbo.DiffusionModel:
    return nelbo.from_diffusers(folder, bins=17)


def bits(model) -> float:
    return nelbo.evaluate(model, CODES, estimator="stratified").bits_per_dim


def rewritten(change: Callable[[dict], dict], to: str = PLAIN) -> Callable[[Path], None]:
    """The weights of the folder's unet/ changed and written to another file of it."""

    def write(folder: Path) -> None:
        tensors = change(load_file(folder / "unet" / PLAIN))
        (folder / "unet" / PLAIN).unlink()
        if to.endswith(".bin"):
            torch.save(tensors, folder / "unet" / to)
        else:
            save_file(tensors, folder / "unet" / to)

    return write


def sharded(safe: bool, variant: str | None = None) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        unet = diffusers.UNet2DModel.from_pretrained(folder / "unet")
        (folder / "unet" / PLAIN).unlink()
        unet.save_pretrained(folder / "unet", max_shard_size="8KB", safe_serialization=safe, variant=variant)
        assert len(list((folder / "unet").glob("*-of-*"))) > 1

    return write


def prefixed(prefix: str) -> Callable[[Path], None]:
    return rewritten(lambda tensors: {prefix + name: value for name, value in tensors.items()})


def with_copy(folder: Path) -> None:
    """The same weights again as .bin, as old folders of the hub have them."""
    torch.save(load_file(folder / "unet" / PLAIN), folder / "unet" / BIN)


READ = {
    "only .bin": rewritten(dict, BIN),
    "sharded .bin": sharded(safe=False),
    "sharded safetensors": sharded(safe=True),
    "a sharded variant": sharded(safe=True, variant="fp16"),
    "a sharded variant of .bin": sharded(safe=False, variant="fp16"),
    "module.": prefixed("module."),
    "_orig_mod.": prefixed("_orig_mod."),
    "both": prefixed("module._orig_mod."),
    "compiled by parts": rewritten(
        lambda t: {name.replace("mid_block.", "mid_block._orig_mod."): value for name, value in t.items()}
    ),
    "the prefix of a wrapper": prefixed("unet."),
    "safetensors and .bin that agree": with_copy,
    "a variant next to the plain file": lambda folder: made(1).unet.save_pretrained(folder / "unet", variant="fp16"),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_the_same_model(saved, pipeline, case):
    READ[case](saved)
    model = read(saved)
    assert model.fingerprint() == nelbo.from_diffusers(pipeline, bins=17).fingerprint()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("file", [FP16, PLAIN, "an object"])
def test_half_precision_is_widened(saved, pipeline, dtype, file):
    """The numbers are those of a float32 network with the rounded weights, and not those of arithmetic in half."""
    half = made(0).to(dtype)
    if file == "an object":
        model = nelbo.from_diffusers(half, bins=17)
    else:
        rewritten(lambda tensors: {name: value.to(dtype) for name, value in tensors.items()}, file)(saved)
        model = read(saved)
    wide = nelbo.from_diffusers((half.unet.float(), half.scheduler), bins=17)
    assert bits(model) == bits(wide) != bits(nelbo.from_diffusers(pipeline, bins=17))


def test_names_of_old_versions(tmp_path):
    """Attention before diffusers 0.13 (google/ddpm-cifar10-32): query, key, value, proj_attn; as diffusers reads it."""
    pipe = made(3, add_attention=True, attention_head_dim=4)
    pipe.save_pretrained(tmp_path)
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    pattern = re.compile(r"(?<=mid_block\.attentions\.0\.)(to_q|to_k|to_v|to_out\.0)")
    rewritten(lambda t: {pattern.sub(lambda m: new[m[0]], name): value for name, value in t.items()})(tmp_path)
    assert any(".proj_attn." in name for name in load_file(tmp_path / "unet" / PLAIN))
    theirs = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert read(tmp_path).fingerprint() == nelbo.from_diffusers(theirs, bins=17).fingerprint()
    assert read(tmp_path).fingerprint() == nelbo.from_diffusers(pipe, bins=17).fingerprint()


@pytest.mark.parametrize("file", [PLAIN, BIN])
def test_what_is_fetched_from_the_hub(saved, tmp_path, pipeline, monkeypatch, file):
    """The index and the descriptions first; then safetensors, and .bin only where there are none."""
    from nelbo.adapters.diffusers import folder

    (rewritten(dict, BIN) if file == BIN else with_copy)(saved)
    (saved / "text_encoder").mkdir()
    (saved / "text_encoder" / "model.safetensors").write_text("large")
    local, asked = tmp_path / "snapshot", []

    def fetched(name: str, patterns: tuple[str, ...], **options) -> Path:
        asked.append(patterns)
        for path in [path for path in saved.rglob("*") if path.is_file()]:
            inner = path.relative_to(saved)
            if any(fnmatch.fnmatch(str(inner), pattern) for pattern in patterns):
                (local / inner).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, local / inner)
        return local

    monkeypatch.setattr(folder, "fetched", fetched)
    model = nelbo.from_diffusers("someone/something", bins=17)
    assert model.fingerprint() == nelbo.from_diffusers(pipeline, bins=17).fingerprint()
    weights = sorted(path.name for path in local.rglob("*") if path.suffix in (".safetensors", ".bin"))
    assert weights == [file] and len(asked) == (3 if file == PLAIN else 4)


# ---------------------------------------------------------------- what is refused


def shards_of(seed: int) -> Callable[[Path], None]:
    """The shards and the index of another model next to the plain file: what an earlier, larger save leaves."""
    return lambda folder: made(seed).unet.save_pretrained(folder / "unet", max_shard_size="8KB")


def edited_index(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        sharded(safe=True)(folder)
        index = json.loads((folder / "unet" / INDEX).read_text())
        change(index["weight_map"])
        (folder / "unet" / INDEX).write_text(json.dumps(index))

    return write


def first_shard(folder: Path) -> Path:
    return min((folder / "unet").glob("*-00001-of-*"))


def both(*steps: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda folder: [step(folder) for step in steps] and None


def changed(name: str, value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return rewritten(lambda tensors: {**tensors, name: value(tensors[name])})


REFUSED = {
    "no weights": (lambda f: (f / "unet" / PLAIN).unlink(), "has no diffusion_pytorch_model"),
    "other files": (rewritten(dict, "model.safetensors"), "only model.safetensors"),
    "a missing tensor": (
        rewritten(lambda t: {k: v for k, v in t.items() if k != "conv_out.bias"}),
        r"missing keys \(1 of .*conv_out\.bias",
    ),
    "one tensor too many": (rewritten(lambda t: {**t, "extra": torch.ones(1)}), r"unexpected keys \(1 of .*extra"),
    "other shapes": (changed("conv_out.weight", lambda v: v[:, :2].clone()), r"conv_out\.weight \(1, 2, 3, 3\) for"),
    "whole numbers": (changed("conv_in.weight", lambda v: v.to(torch.int8)), r"quantised.*conv_in\.weight torch\.int8"),
    "another network's config": (
        lambda f: (f / "unet" / "config.json").write_text(
            (f / "unet" / "config.json").read_text().replace('"layers_per_block": 1', '"layers_per_block": 2')
        ),
        "missing keys",
    ),
    "a prefix of half of them": (
        rewritten(lambda t: {("unet." if i % 2 else "") + k: v for i, (k, v) in enumerate(t.items())}), "missing keys"
    ),
    "a tensor twice": (
        rewritten(lambda t: {**t, "module.conv_out.bias": t["conv_out.bias"].clone()}), r"twice: \['conv_out\.bias"
    ),
    "shards of an earlier save": (shards_of(1), rf"differ in \d+ tensors.*{PLAIN} and {INDEX}"),
    ".bin of an earlier save": (
        lambda f: torch.save(made(1).unet.state_dict(), f / "unet" / BIN), rf"differ in \d+ tensors.*{PLAIN} and {BIN}"
    ),
    "two variants": (
        both(rewritten(dict, FP16), lambda f: shutil.copy(f / "unet" / FP16, f / "unet" / FP16.replace("fp16", "ema"))),
        "2 variants, ema, fp16",
    ),
    "a missing shard": (both(sharded(safe=True), lambda f: first_shard(f).unlink()), r"-00001-of-.*is missing"),
    "shards of two saves": (
        both(sharded(safe=True), lambda f: save_file({"conv_in.bias": torch.ones(4)}, first_shard(f))), "disagree on"
    ),
    "an index that leaves its folder": (
        edited_index(lambda places: places.update({"conv_in.bias": "../../x.safetensors"})), "no file of its folder"
    ),
    "an index without a map": (
        both(sharded(safe=True), lambda f: (f / "unet" / INDEX).write_text("{}")), "is no index of weights"
    ),
    "a pickle": (rewritten(lambda t: {"model": t}, BIN), r"holds \['model'\]"),
    "a pickle of code": (rewritten(lambda t: Path("x"), BIN), "cannot be loaded"),
    "a truncated file": (
        lambda f: (f / "unet" / PLAIN).write_bytes((f / "unet" / PLAIN).read_bytes()[:3000]), "cannot be loaded"
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.* also holds averaged weights")
@pytest.mark.parametrize("case", REFUSED)
def test_refused(saved, case):
    """No weight is left at its random start, and no file is chosen by a guess."""
    damage, match = REFUSED[case]
    damage(saved)
    with pytest.raises(ModelFolderError, match=match) as caught:
        read(saved)
    assert caught.value.hint


# ---------------------------------------------------------------- saving over an earlier save


EARLIER = {
    "shards": lambda folder: made(1).unet.save_pretrained(folder / "unet", max_shard_size="8KB"),
    "shards of .bin": lambda folder: made(1).unet.save_pretrained(
        folder / "unet", max_shard_size="8KB", safe_serialization=False
    ),
    ".bin": lambda folder: made(1).unet.save_pretrained(folder / "unet", safe_serialization=False),
    "a fitted decoder": lambda folder: nelbo.save_pretrained(
        nelbo.from_diffusers(made(1), bins=17, decoder="categorical"), folder
    ),
}


@pytest.mark.parametrize("case", EARLIER)
def test_an_earlier_save_leaves_nothing(tmp_path, pipeline, case):
    """Also diffusers reads the new weights; what is not of such a save stays."""
    EARLIER[case](tmp_path)
    foreign = ["notes.txt", "unet/notes.bin", "unet/my.safetensors", "vae/diffusion_pytorch_model.bin"]
    for name in foreign:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    model = nelbo.from_diffusers(pipeline, bins=17)
    nelbo.save_pretrained(model, tmp_path)
    assert nelbo.load(tmp_path).fingerprint() == model.fingerprint()
    theirs = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert nelbo.from_diffusers(theirs, bins=17).fingerprint() == model.fingerprint()
    weights = [path.name for path in (tmp_path / "unet").glob("diffusion_pytorch_model*")]
    assert weights == [PLAIN] and all((tmp_path / name).read_text() == "mine" for name in foreign)


def test_what_would_be_read_in_its_place(tmp_path, pipeline):
    """A folder of nelbo, a file and variants of other weights are refused before anything is written."""
    model = nelbo.from_diffusers(pipeline, bins=17)
    cases = {"run/model.json": "model folder of nelbo", f"other/unet/{FP16}": "variants", "file": "is a file"}
    for name, match in cases.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
        with pytest.raises(NelboError, match=match):
            nelbo.save_pretrained(model, tmp_path / name.split("/")[0])
        assert (tmp_path / name).read_text() == ""


def test_a_decoder_with_tensors_is_kept(tmp_path, pipeline):
    """nelbo.safetensors holds it, also where it is not known what the model was trained on."""
    histogram = nelbo.decoders.Categorical(torch.randn(17, dtype=torch.float64).log_softmax(0))
    model = nelbo.from_diffusers(pipeline, bins=17, decoder=histogram)
    assert nelbo.load(nelbo.save_pretrained(model, tmp_path)).fingerprint() == model.fingerprint()


def test_a_description_of_an_earlier_save(tmp_path, pipeline):
    """diffusers writes over nelbo's folder and leaves nelbo.json: its decoder and grid are of the earlier model."""
    nelbo.save_pretrained(nelbo.from_diffusers(made(1), bins=17), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match=r"nelbo\.json is of another model") as caught:
        nelbo.load(tmp_path)
    assert "remove nelbo.json" in caught.value.hint
    for path, content in before.items():
        path.write_bytes(content)
    nelbo.load(tmp_path)
    scheduler = tmp_path / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("0.02", "0.03"))
    with pytest.raises(ModelFolderError, match=r"nelbo\.json is of another model"):
        nelbo.load(tmp_path)
