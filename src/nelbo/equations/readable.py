r"""LaTeX as a line of Unicode that a terminal can show: `x_{t-1}` as xₜ₋₁, `\frac{a}{b}` as a/b.

Made for the catalogue's own LaTeX and its printed rows. Unknown commands stay as they are, so nothing is lost; it is a
reading aid, and the LaTeX itself is shown as well.
"""

from __future__ import annotations

import re
import unicodedata

_NAMED = """
alpha α beta β gamma γ delta δ epsilon ε varepsilon ε eta η theta θ vartheta ϑ lambda λ mu μ nu ν pi π rho ρ sigma σ
tau τ phi φ varphi ϕ chi χ psi ψ omega ω Gamma Γ Delta Δ Theta Θ Lambda Λ Sigma Σ Phi Φ Psi Ψ
sum Σ prod Π int ∫ infty ∞ nabla ∇ partial ∂ prime ′ star * top ᵀ ell ℓ sim ~ approx ≈ equiv ≡ propto ∝
le ≤ leq ≤ ge ≥ geq ≥ ne ≠ neq ≠ in ∈ cdot · times × pm ± to → rightarrow → mapsto ↦ Rightarrow ⇒ forall ∀ ll ≪ gg ≫
ldots … dots … cdots … mid | vert | langle ⟨ rangle ⟩ lceil ⌈ rceil ⌉ lfloor ⌊ rfloor ⌋ lVert ‖ rVert ‖ Vert ‖ colon :
setminus ∖ subset ⊂
"""
_SYMBOLS = {**dict(re.findall(r"(\w+) (\S)", _NAMED)), "quad": "  ", "qquad": "    "}
_WORDS = {"log", "ln", "exp", "max", "min", "arg", "det", "lim", "tan", "cos", "sin", "tr", "inf", "sup"}
_SILENT = {"left", "right", "displaystyle", "textstyle", "limits", "nolimits", "rm", "bf"} | {
    f"{size}{side}" for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "r", "m")
}
_PLAIN = {
    "mathbf",
    "mathrm",
    "boldsymbol",
    "mathbb",
    "mathit",
    "operatorname",
    "text",
    "mathcal",
    "textbf",
    "bm",
    "mathsf",
}
_ACCENTS = {"bar": "\u0304", "tilde": "\u0303", "hat": "\u0302", "dot": "\u0307", "overline": "\u0304"}
_SPACES = {
    ",": " ",
    ";": " ",
    ":": " ",
    " ": " ",
    "!": "",
    "|": "‖",
    "{": "{",
    "}": "}",
    "\\": "; ",
    "&": "&",
    "%": "%",
    "_": "_",
}
_SUB = dict(zip("0123456789+-=()aehijklmnoprstuvxβγρφχ", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓᵦᵧᵨᵩᵪ", strict=True))
_SUP = dict(
    zip("0123456789+-=()abcdefghijklmnoprstuvwxyzT′*ᵀ", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᵀ′*ᵀ", strict=True)
)
_ATOM = r"\(.*\)|[^\W\d][^() ]*\([^()]*\)|[0-9]+|[^\W\d][\u0300-\u036f]?(_.|[₀-₉₊₋ₐ-ₜᵢ-ᵪⱼ]+)?[⁰-⁹²³]?"
"""A group in parentheses, a number, or one letter with its accent, index and exponent."""
_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\s+|.", re.DOTALL)


def readable(latex: str) -> str:
    r"""One line of Unicode for a formula.

    >>> readable(r"{\tilde{\beta}}_t=\frac{1-{\bar{\alpha}}_{t-1}}{1-{\bar{\alpha}}_t}\,\beta_t")
    'β̃ₜ=(1-ᾱₜ₋₁)/(1-ᾱₜ) βₜ'
    """
    latex = re.sub(r"\\begin\{(cases|aligned|array)\}(\{[^}]*\})?", r"\\{ ", latex)
    latex = re.sub(r"\\end\{(cases|aligned|array)\}", "", latex)
    text = _TokenReader(_TOKEN.findall(latex)).sequence()
    text = re.sub(r"(?<=[^\W\d_])(?=(?:log|exp|det) )", " ", text)  # d log, not dlog
    return unicodedata.normalize("NFC", re.sub(r" {5,}", "    ", text).strip())


class _TokenReader:
    def __init__(self, tokens: list[str]):
        self.tokens = tokens
        self.place = 0

    def next(self) -> str:
        token = self.tokens[self.place] if self.place < len(self.tokens) else ""
        self.place += 1
        return token

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def sequence(self, end: str = "") -> str:
        parts: list[str] = []
        while self.peek() not in ("", end):
            parts.append(self.one())
        self.next()
        return "".join(parts)

    def argument(self) -> str:
        """The next group, or the next single token."""
        while self.peek().isspace():
            self.next()
        return self.one()

    def one(self) -> str:
        token = self.next()
        if token == "{":
            return self.sequence("}")
        if token == "&":
            return " "
        if token in "_^" and token:
            return _script(token, self.argument())
        if token.isspace():
            return " "
        if not token.startswith("\\"):
            return token
        return self.command(token[1:])

    def command(self, name: str) -> str:
        if name in ("frac", "tfrac", "dfrac"):
            above, below = _factor(self.argument()), _factor(self.argument())
            if above == "1" and below == "2":
                return "½"
            return f"{above}/{below}" if re.fullmatch(_ATOM, below) else f"{above}/({below})"
        if name == "binom":
            return f"C({self.argument()}, {self.argument()})"
        if name == "sqrt":
            return f"√{_factor(self.argument())}"
        if name in _ACCENTS:
            inner = self.argument()
            return inner[:1] + _ACCENTS[name] + inner[1:]
        if name in _PLAIN:
            return self.argument()
        if name in ("underbrace", "overset", "underset", "xrightarrow", "overbrace", "stackrel"):
            return self.annotated(name)
        if name in _WORDS:
            after = self.peek()
            return name + ("" if after in ("_", "^", "(", "\\,") or after.isspace() else " ")
        if name in _SILENT:
            return "" if self.peek() != "." else self.next()[:0]
        return _SYMBOLS.get(name, _SPACES.get(name, f"\\{name}"))

    def annotated(self, name: str) -> str:
        if name == "underbrace" or name == "overbrace":
            inner, note = self.argument(), ""
            if self.peek() in ("_", "^") and self.peek():
                self.next()
                note = f" [{self.argument()}]"
            return f"{inner}{note}"
        if name == "xrightarrow":
            note = ""
            if self.peek() == "[":
                self.next()
                note = f" ({self.sequence(']')})"
            self.argument()
            return f" →{note} "
        note = self.argument()
        return f"{self.argument()}({note})"


def _script(mark: str, text: str) -> str:
    table = _SUB if mark == "_" else _SUP
    text = text.strip()
    if text and all(c in table for c in text):
        return "".join(table[c] for c in text)
    return f"{mark}{text}" if text.isalpha() or len(text) < 2 else f"{mark}{{{text}}}"


def _factor(text: str) -> str:
    """In parentheses where it is more than one factor."""
    text = text.strip()
    simple = not re.search(r"[-+=≤≥ /·,]", text) or re.fullmatch(r"[(‖|].*[)‖|][⁰-⁹²³]?", text)
    return text if simple else f"({text})"
