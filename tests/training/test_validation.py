"""The bound along a run: what is evaluated and logged, the best weights, and early stopping."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from nelbo import evaluate
from nelbo.bound.checks import NelboWarning
from nelbo.errors import UsageError
from nelbo.training import train, validation
from nelbo.training.data import held_out_rows
from tests.training.cases import codes, log_of, small

VALIDATION = {"every": 4, "examples": 10, "max_nfe": 600}


def test_bounds_along_the_way(tmp_path):
    """Every `every` steps the bound of the averaged weights on examples that are not trained on, as `evaluate` says."""
    examples = codes()
    model = train(examples, tmp_path, small(validation={**VALIDATION, "keep": "last"}, checkpoint_every=1))
    kept, held_out = held_out_rows(40, 10, 0)
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(40)) and len(held_out) == 10
    assert model.trained_on is not None and torch.equal(model.trained_on, examples.hashes[kept])
    assert model.provenance["data"] == {
        "name": "codes 1", "fingerprint": examples.fingerprint, "examples": 30, "held_out": 10,
    }  # fmt: skip
    bounds = [r for r in log_of(tmp_path) if "bound" in r]
    assert [r["step"] for r in bounds] == [4, 8, 12]
    with pytest.warns(NelboWarning, match="max_nfe=600 was reached"):
        again = evaluate(model, examples.data[held_out], tolerance=0.01, max_nfe=600, seed=0)
    assert bounds[-1]["bound"] == again.bits_per_dim
    assert bounds[-1]["standard_error"] == again.standard_error.estimator and bounds[-1]["nfe"] == again.nfe_total
    best = min(bounds, key=lambda r: r["bound"])
    assert model.provenance["validation"] == {
        **{k: best[k] for k in ("step", "bound", "standard_error")}, "keep": "last",
    }  # fmt: skip


def test_validation_does_not_change_the_weights(tmp_path):
    """With validation data of its own a run trains the weights that it trains without."""
    plain = train(codes(), tmp_path / "plain", small())
    settings = small(validation={**VALIDATION, "keep": "last"})
    validated = train(codes(), tmp_path / "validated", settings, validation=codes(20, seed=9))
    assert validated.fingerprint() == plain.fingerprint()
    assert validated.provenance["data"]["validation"]["examples"] == 10


@pytest.fixture
def worsening(monkeypatch) -> list[dict[str, torch.Tensor]]:
    """The bounds of a run are replaced by such that are best at the second, and worse from then on; its weights at
    each of them."""
    bounds, evaluate = iter([3.0, 2.0, 2.5, 2.4, 2.3, 2.2]), validation.evaluate
    weights: list[dict[str, torch.Tensor]] = []

    def replaced(model, *rest, **options):
        weights.append({k: v.clone() for k, v in model.denoiser.state_dict().items()})
        return dataclasses.replace(evaluate(model, *rest, **options), bits_per_dim=next(bounds))

    monkeypatch.setattr(validation, "evaluate", replaced)
    return weights


PATIENT = small(validation={**VALIDATION, "every": 2, "patience": 2})


def test_best_weights_and_early_stop(tmp_path, worsening):
    messages: list[str] = []
    model = train(codes(), tmp_path, PATIENT, message=messages.append)
    assert messages[-1:] == ["stopped early after step 8 of 12: 2 bounds were no better"]
    assert log_of(tmp_path)[-1]["step"] == 8 and model.provenance["stopped_after"] == 8
    assert model.provenance["validation"]["step"] == 4
    state = model.denoiser.state_dict()
    assert all(torch.equal(state[k], v) for k, v in worsening[1].items())
    assert any(not torch.equal(state[k], v) for k, v in worsening[3].items())
    resumed = train(codes(), tmp_path, PATIENT, resume=True)  # it has ended, and stays so
    assert resumed.fingerprint() == model.fingerprint() and len(worsening) == 4


def test_best_weights_that_cannot_be_read(tmp_path, worsening):
    messages: list[str] = []

    def spoil(record) -> None:
        if record["step"] == 7:
            path = tmp_path / "checkpoints" / "best.pt"
            path.write_bytes(path.read_bytes()[:-7])

    model = train(codes(), tmp_path, PATIENT, message=messages.append, progress=spoil)
    assert "best.pt, the best weights, of step 4, cannot be read" in messages[-1] and "keeping the last" in messages[-1]
    assert all(torch.equal(model.denoiser.state_dict()[k], v) for k, v in worsening[3].items())


@pytest.mark.parametrize(
    ("settings", "data", "match"),
    [
        (small(), codes(10), "no interval"),
        (small(validation={**VALIDATION, "examples": 40}), None, "leaves none"),
    ],
)
def test_refusals(tmp_path, settings, data, match):
    with pytest.raises(UsageError, match=match):
        train(codes(), tmp_path / "run", settings, validation=data)
    assert not (tmp_path / "run").exists()
