"""Looks at a network over symbols and its data that need no other declaration: its logits, what is scored, padding."""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.bound.tokens import answers
from nelbo.diagnosis.result import Check
from nelbo.diagnosis.tokens.draws import Subject
from nelbo.maths.keys import Purpose
from nelbo.model.tokens.denoiser import NetworkTokenDenoiser
from nelbo.model.tokens.model import TokenModel
from nelbo.process.tokens import counts
from nelbo.process.tokens.kernel import Absorbing
from nelbo.process.tokens.levels import TokenLevels

ROWS = 4
"""Sequences that are looked at in the middle of the chain; evaluations of one inspection."""
MANY = 16
"""Sequences from which a place that is the same in all of them is no chance."""
CHANGED = 1e-3
"""Nats a place by which answers differ that rounding does not explain."""
Noised = tuple[Tensor, Tensor, Tensor, TokenLevels | None]


def of_logits(model: TokenModel, subject: Subject) -> list[Check]:
    """The output of the network where half of the places are hidden: finite, no probabilities, no rounding; and how
    much of it is on the mask."""
    denoiser = model.denoiser
    if not isinstance(denoiser, NetworkTokenDenoiser):
        return []
    x, z, hidden, at = _noised(model, subject)
    with torch.no_grad():
        logits = denoiser(z, hidden, at, _condition(subject, len(x)))
    found = answers.of_logits(logits, denoiser.predicts, denoiser.coarse)
    good = {"output": "the output is no probability", "precision of the logits": "more than 8 bits"}
    if denoiser.predicts.value == "probabilities":
        good["output"] = "probabilities, as declared"
    checks = [Check(name, amiss is None, amiss or good[name]) for name, amiss in found]
    if isinstance(model.kernel, Absorbing) and logits.shape[-1] > model.kernel.mask and bool(hidden.any()):
        share = float(logits.double().softmax(-1)[..., model.kernel.mask][hidden].mean())
        removed = "removed" if model.reverse.remove_mask else "left in, which makes the bound looser"
        text = f"{share:.1%} of a hidden place's probability is on the mask itself; {removed}"
        checks.append(Check("the mask's own probability", True, text))
    return checks


def of_data(model: TokenModel, subject: Subject) -> list[Check]:
    """Symbols around every text, and padding, among the places that are scored."""
    data, scored = subject.data, subject.scored
    if len(data) < MANY or not bool(scored.any()):
        return []
    first = scored.long().argmax(1)
    last = scored.shape[1] - 1 - scored.flip(1).long().argmax(1)
    ends = {}
    for name, place in {"first": first, "last": last}.items():
        symbols = data.gather(1, place[:, None])[:, 0]
        if bool((symbols == symbols[0]).all()) and not bool(_elsewhere(data, scored, place, symbols)):
            ends[name] = int(symbols[0])
    text = "no symbol stands around every sequence"
    if ends:
        which = " and ".join(f"the {name} scored place is symbol {symbol}" for name, symbol in ends.items())
        text = (
            f"{which} in all {len(data)} sequences, and nowhere else: a symbol that a tokenizer sets around texts is "
            "scored, which flatters bits a token; cut it off, or give it as prompt="
        )
    return [Check("special symbols", not ends, text), _padding(data, scored, last)]


def _elsewhere(data: Tensor, scored: Tensor, place: Tensor, symbols: Tensor) -> Tensor:
    """Whether a symbol stands at other scored places than the one of each sequence."""
    others = scored.clone()
    others[torch.arange(len(data)), place] = False
    return ((data == symbols[:, None]) & others).any()


def _padding(data: Tensor, scored: Tensor, last: Tensor) -> Check:
    """A symbol that fills the ends of some sequences, two places at least, and stands nowhere else."""
    ends = data.gather(1, last[:, None])[:, 0]
    for symbol in ends.unique().tolist():
        run = ((data == symbol) | ~scored).flip(1).cumprod(1).flip(1).bool() & scored
        filled = int((run.sum(1) > 1).sum())
        inside = bool(((data == symbol) & scored & ~run).any())
        if filled and not inside and int(run.sum(1).max()) > 2:
            return Check(
                "padding",
                False,
                f"symbol {symbol} fills the ends of {filled} of {len(data)} sequences and stands nowhere else: padding "
                "is scored; give mask=, True where a place is scored",
            )
    return Check("padding", True, "no symbol fills the ends of sequences alone")


def of_padding(model: TokenModel, subject: Subject) -> list[Check]:
    """Whether what the network says of a place depends on how many places behind the last scored one there are. Asked
    of the sequences with most of them, with and without; none where all have none, or the network takes one length."""
    L = subject.scored.shape[1]
    ends = L - subject.scored.flip(1).long().argmax(1)
    shortest = int(ends.argmin())
    n = int(ends[shortest])
    if n == L or not bool(subject.scored[shortest].any()):
        return []
    x, z, hidden, at = _noised(model, subject, shortest)
    condition = {name: v[shortest : shortest + 1].to(subject.device) for name, v in subject.condition.items()}
    try:
        with torch.no_grad():
            whole = model.costs(x, z, hidden, at, condition, hidden)[:, :n]
            short = model.costs(x[:, :n], z[:, :n], hidden[:, :n], at, condition, hidden[:, :n])
    except Exception:  # a network of one length: whatever it raises, nothing is known
        return []
    off = float((whole - short).abs().max())
    text = f"without the {L - n} places behind it, a sequence costs the same"
    if not off <= CHANGED:
        text = (
            f"the network attends to padding: without the {L - n} places behind a sequence its places cost up to "
            f"{off:.2g} nats more or less; give it an attention mask, or the padding that it was trained with"
        )
    return [Check("padding attended", off <= CHANGED, text)]


def _condition(subject: Subject, rows: int) -> dict[str, Tensor]:
    return {name: v[:rows].to(subject.device) for name, v in subject.condition.items()}


def _noised(model: TokenModel, subject: Subject, row: int | None = None) -> Noised:
    """x, z, hidden places and levels of the first `ROWS` sequences, or of one, in the middle of the chain."""
    rows = torch.arange(min(ROWS, len(subject.data))) if row is None else torch.tensor([row])
    x, scored = (v[rows].to(subject.device) for v in (subject.data, subject.scored))
    half = torch.full((len(rows),), 0.5, dtype=torch.float64)
    at = None if model.schedule is None else model.schedule.at(model.schedule.time_of(half)).to(subject.device)
    u = Purpose.DIAGNOSIS_NOISE.uniform(subject.seed, rows, 0, rows, (x.shape[1], 2), device=subject.device)
    if isinstance(model.kernel, Absorbing):
        hidden = counts.subset(u[..., 0], scored, (scored.sum(1) + 1) // 2)
        return x, x.masked_fill(hidden, model.kernel.mask), hidden, at
    levels, kernel = model.levels()
    if at is None:
        at = levels[torch.full((len(rows),), len(levels) // 2)].to(subject.device)
    z = torch.where(scored, kernel.noised(x, at, u, model.domain.vocabulary), x)
    return x, z, torch.zeros_like(scored), at
