"""Formulas and prose as HTML.

Formulas were set ahead of time by KaTeX and lie in `katex/fragments.json.gz` under a hash of their LaTeX; `make katex`
sets them again. Prose is plain text that may hold LaTeX between dollar signs and the usual ASCII of formulas, such as
alpha_t, x_{t-1} or <=, which becomes α, subscripts and ≤.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nelbo.errors import DataError

if TYPE_CHECKING:
    from markupsafe import Markup

FOLDER = Path(__file__).parent / "katex"
PATH = FOLDER / "fragments.json.gz"

Kind = Literal["display", "inline", "optional", "word"]
Fragments = Mapping[Kind, Mapping[str, str | None]]
KINDS: tuple[Kind, ...] = ("display", "inline", "optional", "word")
"""Formulas on lines of their own, formulas within a line, and both again where they may fail to parse."""


@dataclass(frozen=True)
class Written:
    """A printed formula or text, in one of three forms. html: it parses; code: LaTeX that does not; words: prose."""

    html: Markup | None = None
    code: str | None = None
    words: Markup | None = None


class Typesetter:
    """Look formulas up among the fragments, and collect in `asked` those that were asked for.

    fragments: kind -> key -> HTML, by default those of the package. None: nothing is looked up, only collected.
    Errors: DataError for a formula without a fragment.
    """

    def __init__(self, fragments: Fragments | None):
        self.fragments = fragments
        self.asked: dict[Kind, set[str]] = {kind: set() for kind in KINDS}

    def display(self, latex: str) -> Markup:
        """A formula on lines of its own; it must parse strictly."""
        return _markup(self._find("display", latex) or "")

    def inline(self, latex: str) -> Markup:
        """A formula within a line; it must parse strictly."""
        return _markup(self._find("inline", latex) or "")

    def written(self, text: str, verbatim: bool = False) -> Written:
        """A printed row of a source (`verbatim`), or its right form: typeset where it parses, else code or words."""
        if not _is_latex(text):
            return Written(words=_markup(_escaped(text)) if verbatim else self.prose(text))
        html = self._find("optional", text)
        return Written(code=text) if html is None else Written(html=_markup(html))

    def prose(self, text: str, formulas: bool = True) -> Markup:
        """Words, with the formulas between dollar signs set (where `formulas`) and the ASCII ones made readable."""
        pieces = re.split(r"\$([^$]+)\$", text) if formulas else [text]
        html = [self.inline(piece) if place % 2 else self._typed(piece) for place, piece in enumerate(pieces)]
        return _markup("".join(html))

    def _typed(self, text: str) -> str:
        """Words without dollar signs: `code` between backquotes, formulas of one word, and the ASCII of formulas."""
        pieces = re.split(r"(`[^`]+`|\s+)", text)
        return "".join(self._word(piece) for piece in pieces)

    def _word(self, word: str) -> str:
        if word.startswith("`"):
            return f"<code>{_escaped(word.strip('`'))}</code>"
        if "\\" not in word:
            return _symbols(_escaped(signs(word)))
        formula = word.rstrip(",.;:")
        html = self._find("word", formula) or f"<code>{_escaped(formula)}</code>"
        return html + _escaped(word.removeprefix(formula))

    def _find(self, kind: Kind, latex: str) -> str | None:
        self.asked[kind].add(latex)
        if self.fragments is None:
            return None
        try:
            return self.fragments[kind][key(latex)]
        except KeyError:
            raise DataError(
                f"the formula {latex!r} has not been set by KaTeX", "run `make katex` (it needs node) and build again"
            ) from None


def key(latex: str) -> str:
    """The name of a formula among the fragments."""
    return hashlib.sha256(latex.encode()).hexdigest()[:16]


@cache
def fragments() -> Fragments:
    """The fragments of the package. Errors: DataError where the file is missing or damaged."""
    try:
        table = json.loads(gzip.decompress(PATH.read_bytes()))
        return {kind: table[kind] for kind in KINDS}
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise DataError(
            f"the formulas in {PATH} cannot be read: {error}", "install nelbo again, or run `make katex`"
        ) from None


def glimpse(html: str) -> Markup:
    """A formula to be seen only: without the MathML, which is for reading aloud."""
    return _markup(re.sub(r'<span class="katex-mathml">.*?</math></span>', "", html, flags=re.DOTALL))


def stylesheet() -> str:
    """KaTeX's stylesheet with its fonts inside, since browsers may refuse fonts beside a page from file://."""
    import base64

    def inside(match: re.Match[str]) -> str:
        data = base64.b64encode((FOLDER / "fonts" / match[1]).read_bytes()).decode()
        return f'src:url(data:font/woff2;base64,{data}) format("woff2")'

    css = (FOLDER / "katex.min.css").read_text(encoding="utf-8")
    css, count = re.subn(r"src:url\(fonts/([\w-]+\.woff2)\)[^;}]*", inside, css)
    if not count or "url(fonts/" in css:
        raise DataError(f"the fonts in {FOLDER / 'katex.min.css'} are not where expected", "run `make katex`")
    return css


def _markup(html: str) -> Markup:
    from markupsafe import Markup

    return Markup(html)


# ---------------------------------------------------------------- formula or words

_COMMAND = re.compile(r"\\(?:begin|end|text|mathrm|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+|\\.")


def _is_latex(text: str) -> bool:
    """Whether a printed text is a formula: it has a command, index or power, and no words beside them."""
    rest = _COMMAND.sub(" ", text)
    words = re.findall(r"[A-Za-z]{3,}", rest)
    foreign = any("\u2e80" <= c <= "\u9fff" or "\uff00" <= c <= "\uffef" for c in rest)
    return bool(re.search(r"\\[A-Za-z]|[_^]", text)) and not words and not foreign and "$" not in text.rstrip("$")


# ---------------------------------------------------------------- the ASCII of formulas

_GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "eps": "ε", "eta": "η", "theta": "θ",
    "lambda": "λ", "mu": "μ", "sigma": "σ", "phi": "φ", "psi": "ψ", "abar": "ᾱ", "Theta": "Θ", "Sigma": "Σ",
}  # fmt: skip
_SIGNS = {"<=": "≤", ">=": "≥", "!=": "≠", "<<": "≪", "->": "→", "+-": "±"}
_NAME = r"(?<![\w.\\])(" + "|".join(_GREEK) + r"|[A-Za-z\u0370-\u03ff\u1f00-\u1fff][\u0300-\u036f]*)"
_INDEX = r"(?:[_^](?:\{[^{}]*\}|\([^()]*\)|[A-Za-z0-9\u0370-\u03ff]+))"
_ACCENT = r"(~(?![\w(])|_tilde(?![A-Za-z]))?"
_SYMBOL = re.compile(_NAME + _ACCENT + rf"({_INDEX}*)(?![A-Za-z\\])|([)\]|])({_INDEX}+)")
_SIGN = re.compile(r"(?<![<>=|-])(?:" + "|".join(map(re.escape, _SIGNS)) + r")(?![<>=|])")


def signs(text: str) -> str:
    """The ASCII of relations and arrows as signs: <= as ≤, -> as →."""
    return _SIGN.sub(lambda m: _SIGNS[m[0]], text)


def _escaped(text: str) -> str:
    from markupsafe import escape

    return str(escape(text))


def _symbols(word: str) -> str:
    """The symbols of one word, which is escaped already."""

    def html(match: re.Match[str]) -> str:
        name, accent, indices = match[1] or match[4], match[2] or "", match[3] or match[5] or ""
        if name not in _GREEK and not indices and not accent:
            return match[0]
        shown = "".join(
            f"<{'sub' if i[0] == '_' else 'sup'}>{_within(i[1:])}</{'sub' if i[0] == '_' else 'sup'}>"
            for i in re.findall(_INDEX, indices)
        )
        letter = _GREEK.get(name, name) + ("\u0303" if accent else "")
        return f"<i>{letter}</i>{shown}" if letter[0].isalpha() else f"{letter}{shown}"

    return _SYMBOL.sub(html, word)


def _within(index: str) -> str:
    inner = index[1:-1] if index[0] in "{(" else index
    inner = re.sub(r"[A-Za-z]+", lambda m: _GREEK.get(m[0], m[0]), inner)
    return inner.replace("-", "−")
