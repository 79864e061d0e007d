"""A result that is replaced, while somebody kills the process before each of the calls that change names: what stands
there is the old one or the new one, as a whole, and the next run leaves nothing else."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import nelbo
from nelbo import codec
from nelbo.equations.pages import folder as site
from nelbo.errors import NelboError
from nelbo.model import folder
from tests.cli.forks import VERBS, in_fork, killed_at, said
from tests.fuzz.limits import tree

pytestmark = pytest.mark.slow
MOST = 400
"""Moments of the longest of them, at most."""


def killed_at_every_moment(run: Any, place: Path, state: Callable[[], Any], number: int, once: bool = False) -> int:
    """Kill `run` at its moments 0, 1, …, with `place` as it is now before each; how many there were.

    state: what stands at the place, of which only that of now and that of a whole run are right. once: whether a run
    does not replace a result, and is not repeated where there is one.
    """
    shutil.copytree(place.parent, "saved", symlinks=True)

    def again() -> None:
        shutil.rmtree(place.parent)
        shutil.copytree("saved", place.parent, symlinks=True)

    old = state()
    assert in_fork(run) == 0, said()
    new, files = state(), tree(place.parent).keys()
    assert new != old, "a run that changes nothing shows nothing"
    for moment in range(MOST):
        again()
        status = in_fork(run, killed_at(moment, number))
        if status == 0:
            return moment
        assert status == (-9 if number == signal.SIGKILL else 130) and "Traceback" not in said(), (moment, said())
        assert state() in (old, new), moment
        if number == signal.SIGTERM:
            assert temporary(place.parent) == [], moment
        assert (once and state() == new) or in_fork(run) == 0, said()
        assert state() == new and (once or tree(place.parent).keys() == files), moment
    raise AssertionError("it never ended")


def temporary(folder: Path) -> list[str]:
    return [path for path in tree(folder) if ".nelbo-" in path and ".tmp" in path]


def without_time(path: Path) -> Any:
    document = json.loads(path.read_text())
    return {key: value for key, value in document.items() if key != "seconds"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("verb", ["evaluate", "ode", "sample", "compress", "decompress", "diagnose"])
def test_a_file(here, verb, number):
    """Another seed wrote the old one. (Of an evaluation with a state, the state may be of the new seed already.)"""
    arguments, result = VERBS[verb]
    for option, names in (("--state", 2), ("--per-example", 2)):
        if option in arguments:
            at = arguments.index(option)
            arguments = arguments[:at] + arguments[at + names :]
    other = arguments if verb == "decompress" else (*arguments, "--seed", "5")
    assert in_fork(other) == 0, said()
    path = Path(result)
    if verb == "decompress":
        path.write_bytes(b"another file of that name")
    state = (lambda: without_time(path)) if path.suffix == ".json" else path.read_bytes
    assert killed_at_every_moment(arguments, path, state, number) >= 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.filterwarnings("ignore:only 32 examples to fit to")
def test_a_model_folder(here, number, monkeypatch):
    """At every moment a whole model; at no moment with the certificate of the other one."""
    path = Path("new/tight")
    tight = [nelbo.tighten("model", "digits:test", 2, limit=64, first_level="own", seed=seed) for seed in (5, 0)]

    def replace(k: int) -> None:
        module = importlib.import_module("nelbo.api.models")
        monkeypatch.setattr(module.tightenings, "tighten", lambda *_, **__: tight[k])
        nelbo.tighten("model", "codes.npy", 2, out=path)

    replace(0)

    def state() -> Any:
        certificate = path / "certificate.json"
        stated = json.loads(certificate.read_text())["model"]["after"] if certificate.exists() else None
        fingerprint = folder.load(path).fingerprint()
        assert stated in (None, fingerprint)
        return fingerprint

    assert killed_at_every_moment(lambda: replace(1), path, state, number) >= 6


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_site(here, number):
    """The pages of an earlier build, or those of the new one."""
    place = Path("new/site").resolve()
    site.replace(place, {"index.html": "old", "a/b.html": "old"})

    def state() -> dict[str, bytes]:
        return {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}

    def build() -> None:
        site.replace(place, {"index.html": "new", "c/d.html": "new"})

    assert killed_at_every_moment(build, place, state, number) >= 5


def pipeline(seed: int):
    """A small one with weights of its own."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(seed)
    net = diffusers.UNet2DModel(
        8, 1, 1, block_out_channels=(32, 32), down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2
    )
    return nelbo.from_diffusers((net, diffusers.DDPMScheduler(20)), bins=17)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_folder_of_diffusers(here, number):
    """A pipeline that is saved over another one, with a file of the user's beside it."""
    place = Path("new/pipe")
    nelbo.save_pretrained(pipeline(1), place)
    (place / "notes.txt").write_text("mine")
    (place / "unet" / "more").mkdir()
    (place / "unet" / "more" / "x").symlink_to("../config.json")
    model = pipeline(2)

    def state() -> str:
        assert (place / "notes.txt").read_text() == "mine" and (place / "unet" / "more" / "x").is_symlink()
        return nelbo.load(place).fingerprint()

    assert killed_at_every_moment(lambda: nelbo.save_pretrained(model, place), place, state, number) >= 10


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_training_goes_on(here, number):
    """Whatever the moment, --resume ends in the same model; before it, there is no model or a whole one."""
    arguments, result = VERBS["train"]
    path = Path(result).parent
    assert in_fork(arguments) == 0, said()
    whole = folder.load(path).fingerprint()
    for moment in range(MOST):
        shutil.rmtree(path)
        status = in_fork(arguments, killed_at(moment, number))
        if status == 0:
            break
        assert "Traceback" not in said() and status in (-9, 130), (moment, said())
        if (path / "model.json").exists():
            assert folder.load(path).fingerprint() == whole, moment
        assert in_fork((*arguments, "--resume")) == 0, said()
        assert folder.load(path).fingerprint() == whole, moment
        assert temporary(path) == [], moment
    assert moment >= 8


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_pictures(here, number):
    """Into a folder that is there and empty: it is empty, or has all pictures."""
    arguments, result = VERBS["pictures"]
    Path(result).mkdir()
    assert killed_at_every_moment(arguments, Path(result), lambda: len(list(Path(result).iterdir())), number, True) >= 2


def test_two_runs_in_one_folder(here):
    """The second run is refused while the first one trains; two models that are saved at once do not mix."""
    first = nelbo.load("model")
    again = nelbo.load("model").with_grid(nelbo.grids.even(2))
    one, other = (model.fingerprint() for model in (first, again))
    children = []
    for model in (first, again):
        child = os.fork()
        if child == 0:
            for _ in range(60):
                folder.save(model, "new/both")
            os._exit(0)
        children.append(child)
    try:
        while not Path("new/both/model.safetensors").exists():
            pass
        for _ in range(60):  # whoever reads meanwhile gets one of the two, or is told that it changes
            try:
                assert folder.load("new/both").fingerprint() in (one, other)
            except NelboError as error:
                assert "other SHA-256" in error.message or "is missing" in error.message
    finally:
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0, 0] and folder.load("new/both").fingerprint() in (one, other)
    assert sorted(tree(Path("new/both"))) == ["model.json", "model.safetensors"]


def test_a_run_and_a_state_are_held_by_one_process(here):
    """Another process that trains in the same folder, or evaluates with the same state, is refused; then it is not."""
    from nelbo.bound.state import StateFile
    from nelbo.files import alone_in

    arguments, _ = VERBS["train"]
    Path("new/run/checkpoints").mkdir(parents=True)
    with alone_in(Path("new/run/checkpoints")):
        assert in_fork(arguments) == 2 and "another run is training in new/run" in said()
    assert in_fork(arguments) == 0, said()
    held = StateFile("new/state", {})
    assert in_fork(VERBS["evaluate"][0]) == 2 and "is the state of an evaluation that runs now" in said()
    held.close()
    Path("new/state").unlink()
    assert in_fork(VERBS["evaluate"][0]) == 0, said()
    os.mkfifo("new/pipe")
    with pytest.raises(NelboError, match="is no regular file"):
        StateFile("new/pipe", {})


def test_archives_are_whole(here):
    """The archive that a killed run had to replace decodes; see `test_a_file`."""
    arguments, result = VERBS["compress"]
    assert in_fork(arguments) == 0
    assert in_fork((*arguments, "--seed", "5"), killed_at(1, signal.SIGKILL)) == -9
    assert codec.inspect(result)["intact"]
