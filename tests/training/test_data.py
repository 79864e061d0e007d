"""Data of a run: batches and their parts, flips, pictures that stay on disk, tables of real numbers, labels."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch

import nelbo
from nelbo import evaluate
from nelbo.bound.checks import NelboWarning
from nelbo.data import pictures as decoding
from nelbo.data import read
from nelbo.data.pictures import LazyRows
from nelbo.errors import DataError, UsageError
from nelbo.model import folder
from nelbo.model.domain import DataDomain
from nelbo.model.exact import GaussianData
from nelbo.model.examples import Examples
from nelbo.process import grid as grids
from nelbo.process import schedule as schedules
from nelbo.training import check_config, checkpoint, train
from nelbo.training.batches import BatchPart, Shuffle, augmented, batch_parts
from tests.training.cases import codes, small

PIL = pytest.importorskip("PIL.Image")
PLAIN = {"head": "plain", "predicts": "eps"}


@pytest.fixture
def pictures(tmp_path):
    """A folder of 30 small pictures, two kinds of them."""
    images = np.random.default_rng(1).integers(0, 4, (30, 3, 4)).astype(np.uint8)
    for i, image in enumerate(images):
        (tmp_path / "pictures" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        PIL.fromarray(image).save(tmp_path / "pictures" / "ab"[i % 2] / f"{i:02}.png")
    return tmp_path / "pictures"


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize(("batch", "size", "accumulate"), [(10, 1, 1), (10, 3, 1), (11, 2, 2), (6, 2, 3)])
def test_parts_make_up_the_batch(batch, size, accumulate):
    parts = [p for rank in range(size) for p in batch_parts(batch, rank, size, accumulate)]
    assert sorted(int(i) for p in parts for i in p.positions) == list(range(batch))
    assert sum(p.share for p in parts) == pytest.approx(1)
    assert max(len(p.positions) for p in parts) - min(len(p.positions) for p in parts) <= 1
    for count in range(batch + 1):
        assert sum(p.below(count) for p in parts) == count
        assert all(bool((p.positions[: p.below(count)] < count).all()) for p in parts)


def test_a_batch_too_small_for_its_parts():
    with pytest.raises(UsageError, match="2 processes × 3 micro-batches") as caught:
        batch_parts(5, 0, 2, 3)
    assert "batch_size ≥ 6" in caught.value.hint


@pytest.mark.parametrize("batch_size", [2, 3, 7, 10, 23])
def test_every_example_once_an_epoch(batch_size):
    """Also where the batch size does not divide the number of rows; each epoch has an order of its own."""
    rows = torch.tensor([3, 5, 6, 9, 11, 20, 21])
    shuffle = Shuffle(rows, batch_size, 4)
    epochs = torch.cat([shuffle.batch(step) for step in range(21)]).split(7)[:-1]
    assert all(torch.equal(epoch.sort().values, rows) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(Shuffle(rows, batch_size, 4).batch(5), shuffle.batch(5))


def test_half_of_the_images_are_flipped(tmp_path):
    """Each image as it is or left for right; half of them, whatever part of the batch they are in; recorded."""
    settings = check_config({"augment": ["horizontal_flip"]})
    target = torch.arange(4000 * 6).reshape(4000, 2, 3)
    whole = augmented(target, settings, 3, BatchPart.whole(4000))
    same, flipped = ((whole == t).flatten(1).all(1) for t in (target, target.flip(-1)))
    assert bool((same ^ flipped).all()) and abs(float(flipped.double().mean()) - 0.5) < 4 * math.sqrt(0.25 / 4000)
    part = batch_parts(4000, 1, 3, 1)[0]
    assert torch.equal(augmented(target[part.positions], settings, 3, part), whole[part.positions])
    assert not torch.equal(augmented(target, settings, 4, BatchPart.whole(4000)), whole)
    assert augmented(target, check_config(None), 3, BatchPart.whole(4000)) is target
    model = train(codes(), tmp_path, small(augment=["horizontal_flip"]))
    assert model.provenance["augmentation"] == ["horizontal_flip"]


# ---------------------------------------------------------------- pictures that stay on disk


@pytest.mark.filterwarnings("ignore:the network is worse than none", "ignore:.* are among those")
def test_a_folder_on_disk_is_as_one_in_memory(pictures, tmp_path, monkeypatch):
    """The same fingerprint, labels and model, with never more than a batch or a piece decoded at once."""
    whole = read(str(pictures))
    settings = small(bins=4, net=PLAIN, steps=6, validation={"every": 3, "examples": 5, "max_nfe": 600})
    one = train(whole, tmp_path / "memory", settings)
    monkeypatch.setattr(decoding, "STREAMED", 0)
    lazy = read(str(pictures))
    assert isinstance(lazy.data, LazyRows) and isinstance(whole.data, torch.Tensor)
    assert lazy.fingerprint == whole.fingerprint and torch.equal(lazy.labels, whole.labels)
    assert lazy.data.shape == whole.data.shape and torch.equal(lazy.data[torch.tensor([7, 2])], whole.data[[7, 2]])
    most, decode = [], lazy.data.decode
    monkeypatch.setattr(lazy.data, "decode", lambda rows: most.append(len(rows)) or decode(rows))
    other = train(lazy, tmp_path / "disk", settings)
    assert other.fingerprint() == one.fingerprint()
    assert max(most) <= 30
    bounds = [evaluate(other, x, estimator="stratified").bits_per_dim for x in (whole.first(9), lazy.first(9))]
    assert bounds[0] == bounds[1]


def test_a_picture_that_vanishes(pictures, tmp_path, monkeypatch):
    """One error that names it; the last checkpoint is good, and the run goes on when the file is back."""
    settings = small(bins=4, net=PLAIN, batch_size=5, steps=8, checkpoint_every=2)
    monkeypatch.setattr(decoding, "STREAMED", 0)
    whole = train(read(str(pictures)), tmp_path / "whole", settings)
    path = pictures / "a" / "04.png"
    content = path.read_bytes()

    def vanish(record) -> None:
        if record["step"] == 3:
            path.unlink()

    with pytest.raises(DataError, match=r"there is no file .*04\.png"):
        train(read(str(pictures)), tmp_path / "run", settings, progress=vanish)
    state, unreadable = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert state is not None and not unreadable and state["step"] >= 2
    path.write_bytes(content)
    again = train(read(str(pictures)), tmp_path / "run", settings, resume=True)
    assert again.fingerprint() == whole.fingerprint()


def test_pictures_that_differ(pictures, monkeypatch):
    monkeypatch.setattr(decoding, "STREAMED", 0)
    PIL.fromarray(np.zeros((5, 4), np.uint8)).save(pictures / "b" / "01.png")
    lazy = read(str(pictures))
    with pytest.raises(DataError, match=r"01\.png is 4×5"):
        lazy.fingerprint  # noqa: B018
    PIL.fromarray(np.zeros((3, 4), np.uint8)).save(pictures / "b" / "01.png")
    with pytest.raises(DataError, match=r"01\.png has changed while it was used"):
        lazy.fingerprint  # noqa: B018


# ---------------------------------------------------------------- tables of real numbers


def test_density_of_raw_data():
    """A model of standardised data scores raw data: its bound of u and the flow's density, plus Σ log s."""
    mean, scale = torch.tensor([3.0, -200.0]).double(), torch.tensor([0.01, 50.0]).double()
    truth = GaussianData([0.2, -0.3], [[1.0, 0.6], [0.6, 0.9]])
    model = truth.model(schedules.logsnr_linear(9.0, -9.0), grids.continuous())
    raw_model = dataclasses.replace(model, domain=DataDomain(model.domain.shape, mean=mean, scale=scale))
    u = truth.sample(40)
    for verb, options in ((evaluate, {"estimator": "stratified"}), (nelbo.ode_likelihood, {"steps": 16})):
        options |= {"per_example": True, "precision": "float64"}
        standard, raw = verb(model, u, **options).per_example, verb(raw_model, mean + scale * u, **options).per_example
        torch.testing.assert_close(raw.nats, standard.nats + float(scale.log().sum()))


def test_training_on_a_table(tmp_path):
    """From a CSV file with columns of unlike size to a density of those columns, saved, evaluated and sampled."""
    truth = GaussianData([0.3, -0.4], [[0.5, 0.4], [0.4, 0.5]])
    units, zero = torch.tensor([1000.0, 0.01]).double(), torch.tensor([5000.0, 1.0]).double()
    x = zero + units * truth.sample(2400)
    np.savetxt(tmp_path / "train.csv", x[:2000].numpy(), delimiter=",", header="length,mass", comments="")
    settings = small(
        steps=200, batch_size=64, levels=None, net={**PLAIN, "width": 32, "dropout": 0.0}, weight_decay=0.0, ema=0.9,
        schedule={"logsnr_max": 8.0, "logsnr_min": -8.0}, standardise=True,
    )  # fmt: skip
    nelbo.train(str(tmp_path / "train.csv"), tmp_path / "run", settings)
    model = folder.load(tmp_path / "run")
    assert model.domain.mean is not None and model.domain.scale is not None
    torch.testing.assert_close(model.domain.mean, x[:2000].mean(0))
    torch.testing.assert_close(model.domain.scale, x[:2000].std(0, unbiased=False))
    new = x[2000:]
    bound = evaluate(model, new, per_example=True, estimator="stratified")
    assert bound.to_dict()["domain"]["standardised"] is True and bound.per_example is not None
    log_p = truth.log_prob((new - zero) / units) - units.log().sum()
    gap = bound.per_example.nats + log_p
    error = float(gap.std()) / math.sqrt(len(gap))
    assert -4 * error < float(gap.mean()) < 0.5
    drawn = nelbo.sample(model, 300, steps=25)
    for column in (0, 1):
        spread = float(x[:, column].std())
        assert abs(float(drawn[:, column].mean() - x[:, column].mean())) < 0.3 * spread
        assert 0.6 < float(drawn[:, column].std()) / spread < 1.5


@pytest.mark.parametrize(
    ("scales", "told"),
    [
        ((1.0, 1e6, 1e-6), "from 1e-06 to 1e+06, a ratio of 1e+12"),
        ((1.0, 0.04, 2.0), "from 0.04 to 2, a ratio of 50"),
        ((9.0, 9.0, 9.0), "root mean squares up to 9"),
        ((1.0, 0.2, 4.0), None),
        ((1.0, 0.0, 2.0), None),
    ],
)
def test_columns_that_want_to_be_standardised(scales, told, tmp_path):
    """Where a column drowns in the first level's noise or sticks out of the last level's, and never else."""
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = (x - x.mean(0)) / x.std(0, unbiased=False) * torch.tensor(scales, dtype=torch.float64)
    settings = small(steps=1, net=PLAIN, schedule={"logsnr_max": 6.0, "logsnr_min": -6.0})
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        nelbo.train(x, tmp_path / "raw", settings)
    notes = [str(w.message) for w in seen if "standardise=True would help" in str(w.message)]
    assert len(notes) == (told is not None) and all(told in note for note in notes)
    if 0.0 not in scales:
        with warnings.catch_warnings():
            warnings.simplefilter("error", NelboWarning)
            nelbo.train(x, tmp_path / "standard", {**settings, "standardise": True})


# ---------------------------------------------------------------- labels


@pytest.mark.filterwarnings("ignore:.* are among those")
@pytest.mark.parametrize(
    "net",
    [
        {"head": "categorical"},
        pytest.param({"name": "unet", "patch": 1, "multipliers": [1], "width": 8}, marks=pytest.mark.slow),
    ],
)
def test_labels_as_conditions(tmp_path, net):
    """Codes that follow from the label: with it the model's bound is far below that with wrong labels."""
    labels = torch.arange(200) % 3
    flip = torch.rand(200, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.05
    data = torch.where(flip, 4, 2 * labels[:, None, None].expand(200, 4, 4))
    examples = Examples(data, "labelled", labels, bins=5)
    own = {"name": "mlp", "width": 32, "dropout": 0.0, "embedding": 16, **net}
    if own["name"] == "unet":
        own = {k: v for k, v in own.items() if k not in ("dropout", "embedding")}
    settings = {**small(steps=120, batch_size=32, ema=0.9, condition="y"), "net": own}
    settings["validation"] = {"every": 120, "examples": 20, "max_nfe": 600, "keep": "last"}
    train(examples, tmp_path, settings)
    model = folder.load(tmp_path)
    right, wrong = (
        evaluate(model, data[:60], condition={"y": y[:60]}, estimator="stratified").bits_per_dim
        for y in (labels, (labels + 1) % 3)
    )
    assert right < wrong - 0.3
    for condition, match in ((None, "is conditional on 'y'"), ({"y": labels + 1}, "labels from .* 3 classes")):
        with pytest.raises(UsageError, match=match):
            evaluate(model, data, condition=condition, estimator="stratified")


def test_domains_that_mean_nothing():
    one = torch.ones(2)
    for arguments in ({"mean": one}, {"scale": one}, {"mean": one, "scale": 0 * one}, {"mean": one, "scale": one[:1]}):
        with pytest.raises(UsageError):
            DataDomain((2,), **arguments)
    with pytest.raises(UsageError):
        DataDomain((2,), 5, mean=one, scale=one)
    assert "mean" not in DataDomain((2,)).to_config()
