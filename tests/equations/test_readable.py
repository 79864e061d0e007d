"""LaTeX as Unicode for a terminal, and the text of an entry."""

from __future__ import annotations

import pytest

from nelbo.equations import catalogue, verify
from nelbo.equations.readable import readable
from nelbo.equations.text import show
from nelbo.errors import UnknownNameError


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"x_{t-1}", "xₜ₋₁"),
        (r"x_T^2", "x_T²"),
        (r"{\mathbf{x}}_{0:T}", "x_{0:T}"),
        (r"\frac{a+b}{2}", "(a+b)/2"),
        (r"\tfrac12 x", "½ x"),
        (r"\frac{1}{2\sigma_t^2}", "1/(2σₜ²)"),
        (r"\sqrt{1-{\bar{\alpha}}_t}\,\epsilon", "√(1-ᾱₜ) ε"),
        (r"\|x\|^2", "‖x‖²"),
        (r"{\mathbb{E}}_{q}\Bigl[\log\frac pq\Bigr]\ \ge 0", "E_q[log p/q] ≥ 0"),
        (r"\underbrace{a}_{L_T}+b", "a [L_T]+b"),
        (r"\hat{\mathbf{x}}", "x̂"),
        (r"\binom{L}{l} x_{A\setminus B}", "C(L, l) x_{A∖ B}"),
        (r"\xrightarrow[a\to0]{}0", "→ (a→0) 0"),
        (r"\begin{cases}\infty&x=1\\x&x<1\end{cases}", "{ ∞ x=1; x x<1"),
        (r"D_{\mathrm{KL}}", "D_KL"),
        (r"\unknownmacro x", r"\unknownmacro x"),
        ("no LaTeX at all, 2 < 3", "no LaTeX at all, 2 < 3"),
        ("", ""),
        ("{unclosed", "unclosed"),
        ("x_", "x_"),
    ],
)
def test_readable(latex, text):
    assert " ".join(readable(latex).split()) == text


def test_the_whole_catalogue_is_readable():
    for e in catalogue().values():
        text = readable(e.latex)
        assert text and "\\" not in text and "\n" not in text, e.id
        assert not any(c in text for c in "$&"), e.id


def test_the_text_of_an_entry():
    text = show("posterior-mean", verify("posterior-mean")["posterior-mean"])
    for part in (
        "Forward posterior mean",
        r"\tilde{\boldsymbol{\mu}}",
        "μ̃ₜ(xₜ,x₀)",
        "003-14p  eq (7) plain-text copy: misprinted",
        "nelbo.process.forward.posterior_mean  (nelbo/process/forward.py:",
        "posterior-variance: Forward posterior variance",
        "Ho et al. 2020, arXiv:2006.11239, eq. 7",
        "Check: passed",
        "nelbo equations verify posterior-mean",
    ):
        assert part in text, part
    assert "Check" not in show("posterior-mean")


def test_the_text_of_every_entry():
    for id, e in catalogue().items():
        text = show(id)
        assert e.latex in text.replace("\n  ", "\n") or e.latex.splitlines()[0] in text
        assert all(o in text for o in e.related)
        assert (e.code in " ".join(text.split())) if e.code else "(nelbo/" in text
    with pytest.raises(UnknownNameError):
        show("nope")
