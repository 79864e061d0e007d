"""Models of symbols in lm-evaluation-harness: `LM` with the name nelbo, and its command with that name known.

    nelbo-lm-eval run --model nelbo --model_args model=FOLDER --tasks TASK …

(or python -m nelbo.adapters.harness run …) is `lm_eval` itself, whose own command knows only the models that it comes
with. A log-likelihood is minus the bound of the answer's symbols given the context's, in nats, summed and never
averaged: the mean over random orders of revealing them, which the options of a question share, as in `nelbo.contrast`
of answers (`OptionChain`). Standard errors are in `records`, one for each request, and `record=FILE` writes them as
JSON. What is longer than the model's sequences is scored in windows that are given what stands before, so that every
symbol is scored once; what is shorter is a shorter sequence.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo.adapters.load import load
from nelbo.bound.tokens.options import OptionChain
from nelbo.data import symbols as symbols_of
from nelbo.data.windows import Cut
from nelbo.errors import UsageError
from nelbo.files import write_atomic
from nelbo.model.tokens.model import TokenModel
from nelbo.sampling.tokens.draw import sample
from nelbo.typing import Json
from nelbo.workers import Run, devices

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError:
    raise UsageError("lm_eval is not installed", "pip install 'nelbo[text]'") from None


class Window:
    """A piece of a request: its symbols, of which the first `given` are not scored."""

    def __init__(self, request: int, symbols: np.ndarray, given: int):
        self.request, self.symbols, self.given = request, symbols, given


@register_model("nelbo")
class NelboLM(LM):
    """See the module. model: a `TokenModel` or a MODEL string. tokenizer: "bytes" or the path of a tokenizer.json,
    where the model was not trained on a text; alphabet: characters, instead. orders: random orders of the scored places
    whose mean is a log-likelihood; the options of a question share them, so that differences have less noise. seed,
    batch_size, device: as of `nelbo.evaluate`. record: a file for values and standard errors.
    """

    def __init__(
        self,
        model: Any,
        *,
        tokenizer: str | None = None,
        alphabet: str | None = None,
        orders: int = 8,
        seed: int = 0,
        batch_size: int | str | None = None,
        device: str | None = None,
        record: str | None = None,
        trust_code: bool = False,
        **_: Any,
    ):
        super().__init__()
        loaded = load(model, trust_code=trust_code)
        if not isinstance(loaded, TokenModel) or not loaded.kernel.absorbing:
            raise UsageError("a model that has no masked places, for language tasks", "give one of masked symbols")
        facts: Json = dict(loaded.provenance.get("data", {}))
        if alphabet is not None:
            facts = {"tokenizer": "chars", "alphabet": alphabet}
        elif tokenizer == "bytes":
            facts = {"tokenizer": "bytes"}
        of_file = tokenizer is not None and tokenizer != "bytes"
        known = symbols_of.TokenizerFile(Path(str(tokenizer))) if of_file else symbols_of.of_facts(facts)
        if known is None:
            raise UsageError(
                "it is not known what the model's symbols stand for",
                "train it on text:FILE, or add tokenizer=bytes, tokenizer=FILE or alphabet=CHARACTERS",
            )
        self.symbols = known
        size = int(batch_size) if batch_size is not None and str(batch_size).isdecimal() else None
        device = None if device == "cuda:0" and device not in devices() else device  # lm_eval's own default
        self.run = Run(device=device, seed=int(seed), batch_size=size)
        self.model, self.orders, self.record = loaded, int(orders), record
        if self.orders < 2:
            raise UsageError(f"{orders} orders", "give 2 or more: their spread is the standard error")
        self.records: list[Json] = []

    def _encoded(self, text: str) -> np.ndarray:
        return np.asarray(self.symbols.stream(text.encode(), "a request").symbols, np.int64)

    def _parts(self, request: int, symbols: np.ndarray, given: int) -> list[Window]:
        """The symbols behind the first `given`, each scored once, with what fits before them."""
        L, n = self.model.domain.length, len(symbols)
        if n <= L:
            return [Window(request, symbols, given)]
        first = max(0, min(given, L // 2))
        parts, done = [], given
        while done < n:
            end = min(n, done + L - first)
            start = max(0, end - L)
            parts.append(Window(request, symbols[start:end], done - start))
            done, first = end, L // 2
        return parts

    def _scores(self, windows: Sequence[Window], requests: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """−log p in nats of every request, and the variance of its estimate; the options of a question are paired."""
        nats, variance = (np.zeros(len(requests)) for _ in range(2))
        if not windows:
            return nats, variance
        model = self.model.in_precision(None, self.run.device or "cpu")
        places: dict[tuple[int, int], int] = {}
        rows, number = [], [0] * len(requests)
        for w in windows:  # the options of a question share the noise of their first windows, of their second ones, …
            document = getattr(requests[w.request], "doc_id", None)
            of = w.request if document is None else -1 - document
            rows.append(places.setdefault((of, number[w.request]), len(places)))
            number[w.request] += 1
        keys, symbols = torch.tensor(rows), [torch.from_numpy(w.symbols) for w in windows]
        noise = {"keys": keys, "seed": self.run.seed, "device": self.run.device}
        chain = OptionChain.of(model, symbols, [w.given for w in windows], **noise)
        with model.denoiser.inference():
            value, spread = chain.scores(self.orders, self.run.batch_size)
        of_request = [w.request for w in windows]
        np.add.at(nats, of_request, value.numpy())
        np.add.at(variance, of_request, spread.numpy())
        return nats, variance

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log p(continuation | context), whether left-to-right greedy decoding gives it) of every request."""
        windows: list[Window] = []
        for r, (context, continuation) in enumerate(q.args for q in requests):
            before, whole = len(self._encoded(context)), self._encoded(context + continuation)
            if len(whole) > before:
                windows += self._parts(r, *_cut(whole, before, self.model.domain.length))
        nats, variance = self._scores(windows, requests)
        greedy = self._greedy(windows, len(requests))
        self._note("loglikelihood", requests, nats, variance)
        return [(-float(v), g) for v, g in zip(nats, greedy, strict=True)]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """log p of every text, each symbol given those before it that fit in a window."""
        L, windows = self.model.domain.length, []
        for r, (text,) in enumerate(q.args for q in requests):
            symbols = self._encoded(text)
            if len(symbols) <= L:
                windows += [Window(r, symbols, 0)] if len(symbols) else []
                continue
            starts, given, _ = Cut(L, max(1, L // 2)).places(len(symbols))
            windows += [Window(r, symbols[a : a + L], int(g)) for a, g in zip(starts, given, strict=True)]
        nats, variance = self._scores(windows, requests)
        self._note("loglikelihood_rolling", requests, nats, variance)
        return [-float(v) for v in nats]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """A draw of the model behind every context, up to the first of the texts that end it."""
        L, out = self.model.domain.length, []
        for r, (context, settings) in enumerate(q.args for q in requests):
            wanted = min(int(settings.get("max_gen_toks", L // 2)), max(1, L // 2))
            given = self._encoded(context)[-(L - wanted) :] if wanted < L else np.zeros(0, np.int64)
            mask = self.model.kernel.mask  # type: ignore[attr-defined]  # of masked places
            start = torch.from_numpy(np.concatenate([given, np.full(wanted, mask)]))
            run = dataclasses.replace(self.run, seed=self.run.seed + r)
            drawn = sample(self.model.of_length(len(start)), 1, run, start=start)[0, len(given) :]
            text = self.symbols.text(drawn.numpy()).decode("utf-8", "replace")
            ends = settings.get("until") or []
            for end in [ends] if isinstance(ends, str) else ends:
                text = text.split(end)[0] if end else text
            out.append(text)
        return out

    def _greedy(self, windows: Sequence[Window], count: int) -> list[bool]:
        """Whether each scored symbol is the likeliest given all before it, places from the left."""
        same, mask = np.ones(count, bool), self.model.kernel.mask  # type: ignore[attr-defined]
        model = self.model.in_precision(None, self.run.device or "cpu")
        with torch.no_grad(), model.denoiser.inference():
            for w in windows:
                x = torch.from_numpy(w.symbols)
                steps = torch.arange(w.given, len(x))
                hidden = torch.arange(len(x)) >= steps[:, None]
                z = x.expand(len(steps), -1).masked_fill(hidden, mask)
                at = torch.zeros_like(hidden).scatter(1, steps[:, None], True)
                for rows in torch.arange(len(steps)).split(self.run.batch_size or 64):
                    best = _law(model, z[rows], hidden[rows], at[rows]).argmax(-1).cpu()
                    same[w.request] &= bool((best == x[steps[rows]]).all())
        return same.tolist()

    def _note(self, kind: str, requests: Sequence[Any], nats: np.ndarray, variance: np.ndarray) -> None:
        """Keep values and standard errors; say the mean in bits a byte of what was scored."""
        sizes = [len(q.args[-1].encode()) for q in requests]
        for size, value, spread in zip(sizes, nats, variance, strict=True):
            row = {"kind": kind, "nats": float(value), "standard_error": math.sqrt(spread), "bytes": size}
            self.records.append(row)
        total = max(1, sum(sizes)) * math.log(2)
        rate, error = float(nats.sum()) / total, math.sqrt(float(variance.sum())) / total
        print(f"nelbo: {kind} of {len(requests)} requests, {rate:.4f} ± {error:.4f} bits/byte", file=sys.stderr)
        if self.record is not None:
            write_atomic(Path(self.record), json.dumps({"schema": "nelbo.harness/1", "requests": self.records}) + "\n")


def _law(model: TokenModel, z: Tensor, hidden: Tensor, places: Tensor) -> Tensor:
    """The law (m, V) of the symbols of `places`; a network that is told the time is told that of the hidden share."""
    at = None
    if not model.counted:
        assert model.schedule is not None
        at = model.schedule.at(model.schedule.time_of(hidden.double().mean(1)))
    return model.law_at(z, hidden, at, places)


def _cut(symbols: np.ndarray, given: int, L: int) -> tuple[np.ndarray, int]:
    """Symbols and how many of them are given, without the beginning of a context that leaves no room."""
    over = max(0, min(given, len(symbols) - L))
    return symbols[over:], given - over


def main(arguments: Sequence[str] | None = None) -> None:
    """The command of lm_eval, with the process's own arguments where None."""
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["lm_eval", *(sys.argv[1:] if arguments is None else arguments)]
    cli_evaluate()


if __name__ == "__main__":
    main()
