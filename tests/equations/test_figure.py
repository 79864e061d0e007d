"""The interactive figure: its numbers against scipy, its fragment, and a browser in which its slider is moved."""

from __future__ import annotations

import functools
import itertools
import math
import re

import numpy as np
import pytest
from scipy import integrate, stats

from nelbo.equations.pages import figure
from tests import browser as chrome
from tests.markup import Page

TIMES = np.arange(figure.TIMES + 1) / figure.TIMES


def bumps(k: int):
    """The three components of z at place k of the slider: weights, means, standard deviations."""
    logsnr = figure.LOGSNR_MAX + (figure.LOGSNR_MIN - figure.LOGSNR_MAX) * TIMES[k]
    alpha2 = 1 / (1 + math.exp(-logsnr))
    spread = np.sqrt(alpha2 * np.array(figure.VARIANCES) + 1 - alpha2)
    return np.array(figure.WEIGHTS), math.sqrt(alpha2) * np.array(figure.MEANS), spread


def mmse(logsnr: float) -> float:
    """E (x − E[x|z])² of the three bumps at a log-SNR: total variance within the posterior, over z on a line."""
    alpha2, noise = 1 / (1 + math.exp(-logsnr)), 1 / (1 + math.exp(logsnr))
    w, m, v = (np.array(u)[:, None] for u in (figure.WEIGHTS, figure.MEANS, figure.VARIANCES))
    z = np.linspace(-7, 7, 4001)
    joint = w * stats.norm.pdf(z, math.sqrt(alpha2) * m, np.sqrt(alpha2 * v + noise))
    precision = 1 / v + alpha2 / noise
    centre = (m / v + math.sqrt(alpha2) * z / noise) / precision
    first = (joint * centre).sum(0)
    second = (joint * (centre**2 + 1 / precision)).sum(0)
    return float(integrate.simpson(second - first**2 / joint.sum(0), x=z))


@pytest.fixture(scope="module")
def values():
    return figure.numbers()


@pytest.mark.parametrize("k", [0, 31, 64, 96])
def test_densities_and_quantiles(values, k):
    w, m, s = bumps(k)
    z = np.linspace(-figure.Z_MAX, figure.Z_MAX, figure.Z_POINTS)
    exact = (w[:, None] * stats.norm.pdf(z, m[:, None], s[:, None])).sum(0)
    assert np.abs(np.array(values["density"][k]) / 1000 - exact).max() <= 0.00051
    places = np.array([row[k] for row in values["fan"]])
    shares = (w[:, None] * stats.norm.cdf(places, m[:, None], s[:, None])).sum(0)
    assert np.abs(shares - figure.QUANTILES).max() < 1e-3


def test_scales(values):
    alpha, sigma, snr = (np.array(values[name]) for name in ("alpha", "sigma", "snr"))
    assert np.abs(alpha**2 + sigma**2 - 1).max() < 3e-4
    assert np.abs(np.log(snr) - values["logsnr"]).max() < 3e-4
    assert np.all(np.diff(snr) < 0)


@pytest.mark.parametrize("steps", figure.STEPS)
def test_terms_are_drops_in_snr_times_the_least_error(values, steps):
    logsnr = np.linspace(figure.LOGSNR_MAX, figure.LOGSNR_MIN, steps + 1)
    exact = [0.5 * (math.exp(a) - math.exp(b)) * mmse(b) for a, b in itertools.pairwise(logsnr)]
    assert np.abs(np.array(values["chains"][str(steps)]) - exact).max() < 2e-5


def test_the_rate_and_its_integral(values):
    slope = figure.LOGSNR_MAX - figure.LOGSNR_MIN
    exact = [0.5 * slope * math.exp(u) * mmse(u) for u in values["logsnr"]]
    assert np.abs(np.array(values["rate"]) - exact).max() < 2e-3
    assert values["limit"] == pytest.approx(integrate.simpson(exact, x=TIMES), abs=1e-4)


def test_the_ends_and_the_floor(values):
    last = figure.LOGSNR_MIN
    alpha2, noise = 1 / (1 + math.exp(-last)), 1 / (1 + math.exp(last))
    square = sum(w * (m**2 + v) for w, m, v in zip(figure.WEIGHTS, figure.MEANS, figure.VARIANCES, strict=True))
    assert values["prior"] == pytest.approx(0.5 * (alpha2 * square + noise - 1 - math.log(noise)), abs=1e-5)
    assert values["reconstruction"] == pytest.approx(
        0.5 * (math.log(2 * math.pi * math.e) - figure.LOGSNR_MAX), abs=1e-5
    )
    bounds = [sum(values["chains"][str(T)]) for T in figure.STEPS] + [values["limit"]]
    assert bounds == sorted(bounds, reverse=True)
    assert values["reconstruction"] + bounds[-1] + values["prior"] > values["entropy"]


def test_the_fragment_stands_alone():
    text = figure.figure_html()
    assert len(text) < 200_000
    assert not re.search(r"https?://|@import|url\(|<link|<img|src=", text)
    page = Page(text)
    page.check_alone()
    (slider,) = [a for tag, a in page.elements if tag == "input" and a.get("type") == "range"]
    assert slider["aria-valuetext"] and ("label", {"for": slider["id"]}) in page.elements
    assert all(a.get("aria-label") for tag, a in page.elements if tag == "svg" and a.get("role") == "img")
    scoped = re.search(r"<style>(.*?)</style>", text, re.S)
    assert scoped
    for selector in re.findall(r"(?:^|[}{])\s*([^@{}]+)\{", scoped[1]):
        assert all(s.strip().startswith((".nelbo-forward", ":where(:root)")) for s in selector.split(",")), selector


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def chromium():
    with chrome.chromium("the figure") as browser:
        yield browser


@pytest.fixture
def opened(chromium, tmp_path):
    """opened(width, **context) → the page with the figure, from a file."""
    file = tmp_path / "figure.html"
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>figure</title>'
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    file.write_text(f"{head}{view}<body>{figure.figure_html()}</body></html>", "utf-8")
    with chrome.pages(chromium, file.as_uri(), []) as open_page:
        yield functools.partial(open_page, file.as_uri(), height=800)


def shown(page, key: str) -> str:
    return page.locator(f'[data-fwd="{key}"]').inner_text().replace("\u2212", "-")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 360])
def test_the_slider_moves_everything(opened, values, scheme, width):
    page = opened(width, color_scheme=scheme)
    slider = page.get_by_label("time t")
    slider.focus()
    before = page.locator(".fwd-now").get_attribute("d")
    for key, k in (("Home", 0), ("ArrowRight", 1), ("End", figure.TIMES), ("ArrowLeft", figure.TIMES - 1)):
        page.keyboard.press(key)
        assert shown(page, "t") == f"{k / figure.TIMES:.2f}"
        assert shown(page, "alpha") == f"{values['alpha'][k]:.3f}"
        assert shown(page, "sigma") == f"{values['sigma'][k]:.3f}"
        assert float(shown(page, "snr")) == pytest.approx(values["snr"][k], rel=6e-3)
        assert float(shown(page, "logsnr")) == pytest.approx(values["logsnr"][k], abs=6e-3)
        step = min(int(k / figure.TIMES * 16), 15)
        assert shown(page, "name") == f"step {step + 1} of 16"
        assert shown(page, "nats") == f"{values['chains']['16'][step]:.3f} nats"
        lit = page.locator(".fwd-bars rect").evaluate_all("all => all.map(r => r.matches('.fwd-on'))")
        assert [i for i, on in enumerate(lit) if on] == [step]
        said = slider.get_attribute("aria-valuetext")
        assert f"t = {k / figure.TIMES:.2f}," in said and f"step {step + 1} of 16" in said
        assert float(page.locator(".fwd-marker").first.get_attribute("x1")) == pytest.approx(1000 * k / figure.TIMES)
    assert page.locator(".fwd-now").get_attribute("d") != before
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_more_steps_less_bound(opened, values):
    page = opened()
    sums = []
    for steps in figure.STEPS:
        page.get_by_label(str(steps), exact=True).check()
        assert page.locator(".fwd-bars rect").count() == steps
        parts = [float(shown(page, key)) for key in ("reconstruction", "diffusion", "prior")]
        assert float(shown(page, "bound")) == pytest.approx(sum(parts), abs=2e-3)
        assert float(shown(page, "gap")) == pytest.approx(sum(parts) - values["entropy"], abs=2e-3)
        sums.append(float(shown(page, "bound")))
        size = "all => all.map(r => r.getAttribute('height') * r.getAttribute('width'))"
        area = sum(page.locator(".fwd-bars rect").evaluate_all(size)) / 300 / 1000 * figure.highest(values)
        assert area == pytest.approx(parts[1], abs=0.01)  # the bars' area is the diffusion term
    assert sums == sorted(sums, reverse=True)


def test_a_chart_can_be_dragged(opened):
    page = opened()
    box = page.locator(".fwd-fan svg").bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 30)
    page.mouse.up()
    assert shown(page, "t") == "0.75"
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 30)
    assert shown(page, "t") == "0.75"


def test_the_thumb_stands_under_the_marker(opened):
    page = opened()
    slider = page.get_by_label("time t")
    for k in (0, 48, figure.TIMES):
        slider.fill(str(k))
        box, marker = slider.bounding_box(), page.locator(".fwd-fan .fwd-marker").bounding_box()
        thumb = box["x"] + 10 + (box["width"] - 20) * k / figure.TIMES  # a thumb of 20 pixels
        assert marker["x"] + marker["width"] / 2 == pytest.approx(thumb, abs=1.5)


def test_without_its_script_the_same_picture(opened):
    shapes = """all => all.map(e => [e.getAttribute('class'), e.getAttribute('d'), e.getAttribute('height')])"""
    words = "all => all.map(e => e.textContent)"
    drawn = [
        (
            page.locator(".nelbo-forward svg :is(path, rect)").evaluate_all(shapes),
            page.locator("[data-fwd]").evaluate_all(words),
        )
        for page in (opened(), opened(java_script_enabled=False))
    ]
    (live, said), (still, printed) = drawn
    assert said == printed
    assert [row[0] or "" for row in live] == [row[0] or "" for row in still]
    for ours, theirs in zip(live, still, strict=True):
        for mine, other in zip(ours[1:], theirs[1:], strict=True):
            numbers = [[float(n) for n in re.findall(r"[\d.]+", text or "")] for text in (mine, other)]
            assert numbers[0] == pytest.approx(numbers[1], abs=0.11)  # halves are rounded to either side


@pytest.mark.slow
def test_schemes_motion_and_print(opened):
    colour = "getComputedStyle(document.querySelector('.nelbo-forward')).color"
    assert opened(color_scheme="light").evaluate(colour) != opened(color_scheme="dark").evaluate(colour)
    still = opened(reduced_motion="reduce")
    assert still.locator(".fwd-bars rect").first.evaluate("e => getComputedStyle(e).transitionDuration") == "0s"
    page = opened(color_scheme="dark")
    page.get_by_label("time t").fill("72")
    page.emulate_media(media="print")
    assert not page.locator(".fwd-time").is_visible()
    assert shown(page, "t") == "0.75"
    assert page.locator(".fwd-read").is_visible()
    assert page.evaluate(colour) == "rgb(27, 30, 36)"
