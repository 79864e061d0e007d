"""The arithmetic behind the figures: joining strata keeps their sum and errors, means are means."""

from __future__ import annotations

import numpy as np

from nelbo.documents import plots
from nelbo.report import figures


def levels(n, seed=0):
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.normal(size=n + 1))[::-1]
    return [
        {"logsnr_s": ends[i], "logsnr_t": ends[i + 1], "bits_per_dim": rng.random(), "standard_error": rng.random()}
        for i in range(n)
    ]


def test_joined_strata_keep_sum_error_and_ends():
    source = levels(1000)
    joined = plots.joined(source, 240)
    assert joined.shape == (240, 4)
    np.testing.assert_allclose(joined[:, 2].sum(), sum(v["bits_per_dim"] for v in source), rtol=1e-12)
    np.testing.assert_allclose(np.square(joined[:, 3]).sum(), sum(v["standard_error"] ** 2 for v in source), rtol=1e-12)
    assert joined[0, 0] == source[-1]["logsnr_t"]
    assert joined[-1, 1] == source[0]["logsnr_s"]
    assert np.array_equal(joined[1:, 0], joined[:-1, 1])


def test_few_strata_are_kept_and_empty_ones_left_out():
    source = levels(5)
    joined = plots.joined([*source, {"logsnr_s": 1.0, "logsnr_t": 1.0, "bits_per_dim": 0.5}], 240)
    assert np.array_equal(joined[:, 2], [v["bits_per_dim"] for v in source[::-1]])
    assert plots.joined([], 240).shape == (0, 4)


def test_running_mean():
    values = np.random.default_rng(0).random(50)
    mean = figures.running_mean(values, 3)
    np.testing.assert_allclose(mean[10], values[7:14].mean())
    np.testing.assert_allclose(mean[0], values[:4].mean())
    np.testing.assert_allclose(mean[-1], values[-4:].mean())
    np.testing.assert_allclose(figures.running_mean(np.ones(7), 100), 1)


def test_series_skips_what_is_no_number_and_sorts():
    records = [{"step": 2, "loss": 1.0}, {"step": 1, "loss": 3}, {"step": 3, "loss": None}, {"step": 4}]
    step, loss = figures.series(records, "loss")
    assert step.tolist() == [1, 2]
    assert loss.tolist() == [3, 1]
    assert [a.tolist() for a in figures.series(records, "absent")] == [[], []]


def test_validation_is_found_under_its_usual_names():
    keys = [
        "val",
        "val_loss",
        "validation loss",
        "held_out/nelbo",
        "valid.bpd",
        "value",
        "loss",
        "val_seconds",
        "test$x",
    ]
    for key in keys[:5]:
        assert figures.validation_keys([{"step": 1, key: 2.0}]) == [key]
    for key in keys[5:]:
        assert figures.validation_keys([{"step": 1, key: 2.0}]) == []


def test_drawings_use_the_page_s_colours_and_fonts():
    terms = {name: {"bits_per_dim": 0.5} for name in ("prior", "diffusion", "reconstruction")}
    svg = figures.chain({"levels": levels(8), "terms": terms}) + figures.loss(
        [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 2.0}], 2.0
    )
    assert "var(--diffusion)" in svg
    assert not [c for c in figures.COLOURS.values() if c in svg]
    for foreign in ("#000000", "#ffffff", "font-family", "xmlns", "<style", "<metadata", "xlink"):
        assert foreign not in svg
    assert svg.count("<svg") == svg.count("</svg>") == 4
