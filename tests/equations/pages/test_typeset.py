"""Formulas set ahead of time, and the prose around them."""

from __future__ import annotations

import pytest

from nelbo.equations import catalogue
from nelbo.equations.pages import typeset
from nelbo.equations.pages.build import asked
from nelbo.equations.pages.typeset import Typesetter
from nelbo.errors import DataError


def test_every_formula_has_a_fragment_and_no_fragment_is_left_over():
    stored, wanted = typeset.fragments(), asked()
    for kind in typeset.KINDS:
        keys = {typeset.key(latex): latex for latex in wanted[kind]}
        missing = [latex for key, latex in keys.items() if key not in stored[kind]]
        assert not missing, f"{kind}: run `make katex`, which sets {missing[:3]}"
        left = set(stored[kind]) - set(keys)
        assert not left, f"{kind}: run `make katex`; {len(left)} fragments are of formulas that are gone"


def test_what_is_ours_was_set_strictly():
    stored = typeset.fragments()
    for kind in ("display", "inline"):
        assert all(html and 'class="katex"' in html and "katex-error" not in html for html in stored[kind].values())
    assert all(html is None or "katex-error" not in html for html in stored["optional"].values())


def test_a_changed_formula_is_noticed():
    with pytest.raises(DataError, match="has not been set by KaTeX"):
        Typesetter(typeset.fragments()).display(catalogue()["bayes-rule"].latex + "+0")


def test_the_fonts_are_inside_the_stylesheet():
    assert typeset.stylesheet().count("src:url(data:font/woff2;base64,") == len(list(typeset.FOLDER.glob("fonts/*")))


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("p_theta(x_{t-1}|x_t)", "<i>p</i><sub>θ</sub>(<i>x</i><sub>t−1</sub>|<i>x</i><sub>t</sub>)"),
        ("sigma_t^2=beta_t", "<i>σ</i><sub>t</sub><sup>2</sup>=<i>β</i><sub>t</sub>"),
        ("Σ_θ, beta~ and β_tilde", "<i>Σ</i><sub>θ</sub>, <i>β̃</i> and <i>β̃</i>"),
        ("z~N(0,I), eps~N(0,I)", "z~N(0,I), <i>ε</i>~N(0,I)"),
        ("a <= b, x -> y", "a ≤ b, x → y"),
        ("log_pmf of nelbo.maths.log_cdf", "log_pmf of nelbo.maths.log_cdf"),
        ("the name `x_t` & <b>", "the name <code>x_t</code> &amp; &lt;b&gt;"),
        ("1e-12 and alphabet", "1e-12 and alphabet"),
    ],
)
def test_the_ascii_of_formulas_in_prose(text, html):
    assert str(Typesetter(None).prose(text)) == html


def test_formulas_between_dollars_are_set():
    setter = Typesetter(None)
    setter.prose(r"the mean $\mu_t$ of $q$")
    assert setter.asked["inline"] == {r"\mu_t", "q"}


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        (r"\bar\alpha_t=\prod_{s=1}^t\alpha_s", True),
        (r"&= \mathbb{E}_q \Big[ x \Big] \\", True),
        (r"L_t \text{ for }1 \leq t", True),
        ("denominator p_\\theta(x_{0:T})", False),
        ("Bound on $p(x)$", False),
        ("KL散度表示 x_t", False),
        ("However, also ignored!", False),
    ],
)
def test_formula_or_words(text, formula):
    setter = Typesetter(None)
    written = setter.written(text)
    assert (written.words is None) == formula
    assert bool(setter.asked["optional"]) == formula
