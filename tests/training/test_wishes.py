"""What a run may be asked for: parts of a batch, bf16, bounds along the way, best weights, flips, trackers."""

from __future__ import annotations

import json
import math

import pytest
import torch

from nelbo import evaluate, runtime
from nelbo.errors import Interrupted, UnknownNameError, UsageError
from nelbo.model import folder
from nelbo.model.examples import Examples
from nelbo.training import check_config, checkpoint, read_config, schema, train
from nelbo.training.data import BatchPart, Shuffle, augmented, batch_parts, held_out_rows
from tests.training.cases import codes, small
from tests.training.test_loop import log_of

WATCHED = {"every": 4, "examples": 10, "max_nfe": 600}


# ---------------------------------------------------------------- parts of a batch


@pytest.mark.parametrize(("batch", "size", "accumulate"), [(10, 1, 1), (10, 2, 1), (10, 3, 1), (11, 2, 2), (6, 2, 3)])
def test_parts_make_up_the_batch(batch, size, accumulate):
    parts = [p for rank in range(size) for p in batch_parts(batch, rank, size, accumulate)]
    assert sorted(int(s) for p in parts for s in p.positions) == list(range(batch))
    assert sum(p.share for p in parts) == pytest.approx(1)
    assert max(len(p.positions) for p in parts) - min(len(p.positions) for p in parts) <= 1
    for count in range(batch + 1):
        assert sum(p.below(count) for p in parts) == count
        assert all(bool((p.positions[: p.below(count)] < count).all()) for p in parts)
    assert BatchPart.whole(batch).below(3) == 3


def test_a_batch_too_small_for_its_parts():
    with pytest.raises(UsageError, match="2 processes × 3 micro-batches") as caught:
        batch_parts(5, 0, 2, 3)
    assert "batch_size ≥ 6" in caught.value.hint


def test_order_walks_through_the_chosen_rows():
    rows = torch.tensor([3, 5, 6, 9, 11, 20, 21])
    for batch_size in (2, 3, 7, 10, 23):
        order = Shuffle(rows, batch_size, 4)
        seen = torch.cat([order.batch(step) for step in range(21)])
        for epoch in seen.split(7)[:-1]:
            assert torch.equal(epoch.sort().values, rows)
        assert torch.equal(Shuffle(rows, batch_size, 4).batch(5), order.batch(5))


def test_micro_batches_are_the_batch(tmp_path):
    """Without dropout four micro-batches give the losses and, to rounding, the weights of one batch."""
    runs = {}
    for parts in (1, 4):
        out = tmp_path / str(parts)
        model = train(codes(), out, small(accumulate=parts, log_every=1, net={"dropout": 0.0}, batch_size=18))
        runs[parts] = log_of(out), model.denoiser.state_dict()
    for a, b in zip(runs[1][0], runs[4][0], strict=True):
        for key in ("loss", "diffusion", "reconstruction", "prior"):
            assert b[key] == pytest.approx(a[key], rel=1e-4), (a["step"], key)
    for name, value in runs[1][1].items():
        torch.testing.assert_close(runs[4][1][name], value, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------- precision, memory format, compilation


def test_bf16(tmp_path):
    """The network computes in bf16 and learns as it does in float32; weights and average stay float32."""
    seen: set[torch.dtype] = set()
    settings = small(steps=60, net={"dropout": 0.0}, log_every=60)
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, _, out: seen.add(out.dtype) if isinstance(module, torch.nn.Linear) else None
    )
    try:
        model = train(codes(200), tmp_path / "bf16", {**settings, "precision": "bf16"})
    finally:
        handle.remove()
    assert seen == {torch.bfloat16}
    train(codes(200), tmp_path / "float32", settings)
    assert {v.dtype for v in model.denoiser.state_dict().values()} == {torch.float32}
    first, last = log_of(tmp_path / "bf16")
    assert last["loss"] < first["loss"] - 0.1
    assert last["loss"] == pytest.approx(log_of(tmp_path / "float32")[1]["loss"], abs=0.03)


def test_channels_last(tmp_path):
    """Another order in memory: the same model to rounding, resumed bit for bit, and saved as ever."""
    net = {"name": "unet", "width": 8, "multipliers": [1], "patch": 1, "head": "plain"}
    settings = {**small(steps=6, batch_size=4), "net": net}
    images = codes(12, (2, 4, 6))
    train(images, tmp_path / "plain", settings)
    settings["channels_last"] = True
    last = train(images, tmp_path / "last", settings)

    def stop(record) -> None:
        if record["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        train(images, tmp_path / "resumed", settings, progress=stop)
    resumed = train(images, tmp_path / "resumed", settings, resume=True)
    assert resumed.fingerprint() == last.fingerprint() == folder.load(tmp_path / "last").fingerprint()
    for a, b in zip(log_of(tmp_path / "plain"), log_of(tmp_path / "last"), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)


@pytest.mark.slow
def test_compiled(tmp_path):
    pytest.importorskip("torch._inductor")
    settings = small(net={"dropout": 0.0}, reconstruction_share=1.0)  # one shape to compile for
    train(codes(), tmp_path / "plain", settings)
    try:
        model = train(codes(), tmp_path / "compiled", {**settings, "compile": True})
    except Exception as error:
        if "compiler" in str(error).lower() or "gcc" in str(error) or "g++" in str(error):
            pytest.skip(f"no compiler: {error}")
        raise
    assert folder.load(tmp_path / "compiled").fingerprint() == model.fingerprint()
    assert all(m._compiled_call_impl is None for m in model.denoiser.modules())
    for a, b in zip(log_of(tmp_path / "plain"), log_of(tmp_path / "compiled"), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)


# ---------------------------------------------------------------- the bound along the way


def test_bounds_along_the_way(tmp_path):
    """Every `every` steps the bound of the averaged weights on examples that are not trained on, as `evaluate` says."""
    examples = codes()
    model = train(examples, tmp_path, small(validation={**WATCHED, "keep": "last"}, checkpoint_every=1))
    kept, held = held_out_rows(40, 10, 0)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(40)) and len(held) == 10
    assert model.trained_on is not None and torch.equal(model.trained_on, examples.hashes[kept])
    assert model.provenance["data"] == {
        "name": "codes 1", "fingerprint": examples.fingerprint, "examples": 30, "held_out": 10,
    }  # fmt: skip
    bounds = [r for r in log_of(tmp_path) if "bound" in r]
    assert [r["step"] for r in bounds] == [4, 8, 12]
    again = evaluate(model, examples.data[held], tolerance=0.01, max_nfe=600, seed=0)
    assert bounds[-1]["bound"] == again.bits_per_dim
    assert bounds[-1]["standard_error"] == again.standard_error.estimator and bounds[-1]["nfe"] == again.nfe_total
    best = min(bounds, key=lambda r: r["bound"])
    assert model.provenance["validation"] == {
        **{k: best[k] for k in ("step", "bound", "standard_error")}, "keep": "last",
    }  # fmt: skip


def test_looking_changes_nothing(tmp_path):
    """With validation data of its own the run trains the weights that it trains without."""
    plain = train(codes(), tmp_path / "plain", small())
    watched = train(
        codes(), tmp_path / "watched", small(validation={**WATCHED, "keep": "last"}), validation=codes(20, seed=9)
    )
    assert watched.fingerprint() == plain.fingerprint()
    assert watched.provenance["data"]["validation"]["examples"] == 10


@pytest.fixture
def worsening(tmp_path, monkeypatch):
    """A run whose bounds are said to be best at the second look, and worse from then on."""
    from nelbo.training import validation

    said = iter([3.0, 2.0, 2.5, 2.4, 2.3, 2.2])
    real = validation.evaluate
    weights: list[dict] = []

    def evaluate(model, *rest, **options):
        import dataclasses

        weights.append({k: v.clone() for k, v in model.denoiser.state_dict().items()})
        return dataclasses.replace(real(model, *rest, **options), bits_per_dim=next(said))

    monkeypatch.setattr(validation, "evaluate", evaluate)
    return weights


def test_best_weights_and_early_stop(tmp_path, worsening):
    told: list[str] = []
    settings = small(validation={**WATCHED, "every": 2, "patience": 2})
    model = train(codes(), tmp_path, settings, message=told.append)
    assert told == ["stopped early after step 8 of 12: 2 bounds were no better"]
    assert log_of(tmp_path)[-1]["step"] == 8 and model.provenance["stopped_after"] == 8
    assert model.provenance["validation"]["step"] == 4
    state = model.denoiser.state_dict()
    assert all(torch.equal(state[k], v) for k, v in worsening[1].items())
    assert any(not torch.equal(state[k], v) for k, v in worsening[3].items())
    resumed = train(codes(), tmp_path, settings, resume=True)  # it has ended, and stays so
    assert resumed.fingerprint() == model.fingerprint() and len(worsening) == 4


def test_best_weights_that_cannot_be_read(tmp_path, worsening, monkeypatch):
    told: list[str] = []

    def spoil(record) -> None:
        if record["step"] == 7:
            path = tmp_path / "checkpoints" / "best.pt"
            path.write_bytes(path.read_bytes()[:-7])

    settings = small(validation={**WATCHED, "every": 2, "patience": 2})
    model = train(codes(), tmp_path, settings, message=told.append, progress=spoil)
    assert "best.pt, the best weights, of step 4, cannot be read" in told[-1] and "keeping the last" in told[-1]
    assert all(torch.equal(model.denoiser.state_dict()[k], v) for k, v in worsening[3].items())


def test_interrupted_between_a_step_and_its_bound(tmp_path):
    """The bound is made up for, and the log has every line once."""
    settings = small(validation=WATCHED)
    whole = train(codes(), tmp_path / "whole", settings)

    def stop(record) -> None:
        if record["step"] == 4 and "bound" not in record:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="after step 4"):
        train(codes(), tmp_path / "run", settings, progress=stop)
    assert checkpoint.newest(tmp_path / "run" / "checkpoints")[0]["validation"]["at"] == 0
    assert train(codes(), tmp_path / "run", settings, resume=True).fingerprint() == whole.fingerprint()
    lines = [[(r["step"], r.get("bound")) for r in log_of(tmp_path / name)] for name in ("whole", "run")]
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
    ("settings", "validation", "match"),
    [
        (small(), codes(10), "no interval"),
        (small(validation={**WATCHED, "examples": 40}), None, "leaves none"),
        (small(validation={"every": 0}), None, r"validation\.every = 0"),
        (small(validation={"evry": 3}), None, r"validation\.evry"),
        (small(condition="y"), None, "has none"),
        (small(condition="not a name"), None, "not a name"),
    ],
)
def test_refusals(tmp_path, settings, validation, match):
    with pytest.raises(UsageError, match=match):
        train(codes(), tmp_path / "run", settings, validation=validation)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- flips


def test_flips_are_asked_for_and_said(tmp_path):
    assert "augmentation" not in train(codes(), tmp_path / "plain", small()).provenance
    model = train(codes(), tmp_path / "flipped", small(augment=["horizontal_flip"]))
    assert model.provenance["augmentation"] == ["horizontal_flip"]
    with pytest.raises(UsageError, match="for images"):
        train(codes(shape=(9,)), tmp_path / "vectors", small(augment=["horizontal_flip"]))
    with pytest.raises(UsageError, match=r"augment\.0 = 'rotate'"):
        check_config({"augment": ["rotate"]})


def test_half_of_the_places_are_flipped():
    """Each image as it is or left for right; half of them, whatever part of the batch they are in."""
    settings = check_config({"augment": ["horizontal_flip"]})
    target = torch.arange(4000 * 6).reshape(4000, 2, 3)
    whole = augmented(target, settings, 3, BatchPart.whole(4000))
    same, turned = ((whole == t).flatten(1).all(1) for t in (target, target.flip(-1)))
    assert bool((same ^ turned).all()) and abs(float(turned.double().mean()) - 0.5) < 4 * math.sqrt(0.25 / 4000)
    part = batch_parts(4000, 1, 3, 1)[0]
    assert torch.equal(augmented(target[part.positions], settings, 3, part), whole[part.positions])
    assert not torch.equal(augmented(target, settings, 4, BatchPart.whole(4000)), whole)
    assert augmented(target, check_config(None), 3, BatchPart.whole(4000)) is target


# ---------------------------------------------------------------- what is written


def test_the_resolved_configuration_is_saved_and_can_be_used_again(tmp_path):
    model = train(codes(), tmp_path / "a", small(lr=0.02))
    told = json.loads((tmp_path / "a" / "config.json").read_text())
    assert told["lr"] == 0.02 and told["ema"] == 0.999 and told == model.provenance["config"]
    again = train(codes(), tmp_path / "b", read_config(tmp_path / "a" / "config.json"))
    assert again.fingerprint() == model.fingerprint()


def test_the_schema_names_every_key():
    found = schema()
    assert found["$schema"].endswith("2020-12/schema") and found["additionalProperties"] is False
    assert set(found["properties"]) == set(check_config(None).model_dump())
    assert set(found["$defs"]["ValidationConfig"]["properties"]) == set(check_config(None).validation.model_dump())
    assert json.loads(json.dumps(found)) == found


class Remembered:
    """A tracker that keeps what it is told."""

    requires_logging_directory = True
    made: list[Remembered] = []  # noqa: RUF012

    def __init__(self, run_name, logging_dir):
        self.run_name, self.logging_dir, self.told, self.config, self.done = run_name, logging_dir, {}, {}, False
        self.made.append(self)

    def store_init_configuration(self, values):
        assert all(isinstance(v, (bool, int, float, str)) for v in values.values())
        self.config = values

    def log(self, values, step):
        self.told.setdefault(step, {}).update(values)

    def finish(self):
        self.done = True


def test_trackers(tmp_path, monkeypatch):
    tracking = pytest.importorskip("accelerate.tracking")
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "remembered", Remembered)
    train(codes(), tmp_path / "run", small(tracker="remembered", validation=WATCHED))
    (told,) = Remembered.made
    assert (told.run_name, told.done, told.config["net.settings.width"]) == ("run", True, 16)
    for record in log_of(tmp_path / "run"):
        kept = {k: v for k, v in record.items() if k not in ("step", "steps")}
        assert kept.items() <= told.told[record["step"]].items()
    with pytest.raises(UnknownNameError, match="tensorbord") as caught:
        train(codes(), tmp_path / "other", small(tracker="tensorbord"))
    assert "'tensorboard'" in caught.value.hint


def test_a_tracker_that_is_not_installed(tmp_path, monkeypatch):
    import sys

    pytest.importorskip("accelerate")
    for name in ("tensorboard", "torch.utils.tensorboard", "tensorboardX"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match="'tensorboard' needs a package") as caught:
        runtime.tracker("tensorboard", tmp_path, {})
    assert "log.jsonl" in caught.value.hint


def test_another_rhythm_of_checkpoints_is_the_same_run(tmp_path):
    def stop(record) -> None:
        if record["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        train(codes(), tmp_path, small(), progress=stop)
    train(codes(), tmp_path, small(checkpoint_every=2), resume=True)
    with pytest.raises(UsageError, match="other validation data"):
        train(codes(), tmp_path, small(validation=WATCHED), resume=True, validation=Examples(codes(20, seed=4).data))
