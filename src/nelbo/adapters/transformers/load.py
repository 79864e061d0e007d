"""`from_transformers`: a masked language model, or a network of masked diffusion, as a `TokenModel`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from nelbo.adapters.transformers import checkpoint, library
from nelbo.adapters.transformers.network import MaskedNetwork
from nelbo.arguments import numbers
from nelbo.errors import UsageError
from nelbo.model.tokens.denoiser import NetworkTokenDenoiser
from nelbo.model.tokens.domain import TokenDomain
from nelbo.model.tokens.model import TokenModel
from nelbo.model.tokens.reverse import TokenReverse
from nelbo.process.grid import Full, Grid
from nelbo.process.tokens.kernel import Absorbing
from nelbo.typing import Json

LENGTH = 128
"""Places of a sequence, where nothing says another number and the network takes so many."""
LIMITS = ("max_position_embeddings", "max_sequence_length", "n_positions")
"""Entries of configurations that say how many places a network takes."""
ANY = TokenDomain.limits["length"]
"""Most places where nothing says it: networks with relative positions take any number."""


@numbers
def from_transformers(
    model: Any,
    *,
    tokenizer: Any = None,
    length: int | None = None,
    mask: int | None = None,
    shift: bool | None = None,
    block: int | None = None,
    grid: Grid | None = None,
    around: bool = True,
    remove_special: bool = True,
    remove_mask: bool = True,
    trust_code: bool = False,
) -> TokenModel:
    """The model p(x) of sequences of tokens that a masked network of transformers defines.

    model: a folder that `save_pretrained` wrote, of a masked language model (BERT and its kin) or of masked diffusion
    (LLaDA, Dream); or such a network itself. Nothing is fetched. The network fills in hidden places and is told no
    time, so that its chain runs over the counts of hidden places, whatever share of them it was trained with; where
    that was one share, as BERT's, every result says so.

    tokenizer: its tokenizer, that of the folder where None. It says which symbol is the mask, which are set around a
    text, and which never stand in a text: padding and those around it. around: those that are set around a text are
    shown to the network; they are no part of x, and the bound is of p(x | length). remove_special: what the network
    puts on symbols that never stand in a text is removed; data must not hold them at scored places. Places at the end
    that hold the padding are not attended. length: L, 128 where None; data of another length, up to what its files say
    that the network takes (any where they do not), are scored as sequences of their own length. mask: the mask's
    number, where neither says it. shift: the logits at a place are those of the next (as the kind of network has it
    where None). block, grid, remove_mask: as of `nelbo.tokens.from_callable`. trust_code: run the code of a folder that
    has its own.

    Errors: UsageError with the reason for a network that sees one side only, has no head or needs more than z;
    ModelFolderError for a folder that is damaged, lacks weights or would run code.
    Source: Ou et al. 2024, "Your absorbing discrete diffusion secretly models the conditional distributions of clean
    data"; Nie et al. 2025, "Large language diffusion models".
    """
    origin, net, config, tokenizer = _source(model, tokenizer, trust_code)
    where = origin.get("folder", type(net).__name__)
    found = checkpoint.checkpoint_of(config, f"the model {where}")
    if net is None:
        net = library.network(Path(model), found.auto, trust_code)
    config = net.config.to_dict()  # with its defaults
    special = Special.of(tokenizer, config, mask, where)
    before, after = (special.before, special.after) if around else ([], [])
    pad = special.pad if special.padding_is_its_own else None
    longest = _longest(config, tokenizer, special) - len(before) - len(after)
    L = min(LENGTH, longest) if length is None else length
    if not 1 <= L <= longest:
        raise UsageError(
            f"sequences of {L} places for a network that takes {longest}"
            + (f" besides the {len(before) + len(after)} around them" if before or after else ""),
            f"give a length of 1 to {longest}",
        )
    vocabulary = _vocabulary(net, config)
    absent = tuple(sorted(special.absent(around) - {special.mask})) if remove_special else ()
    inner = MaskedNetwork(net, _plain(config), before, after, pad)
    return TokenModel(
        domain=TokenDomain(vocabulary, L, longest),
        kernel=Absorbing(special.mask),
        denoiser=NetworkTokenDenoiser(inner, vocabulary, shift=found.shift if shift is None else shift).eval(),
        grid=grid or Full(),
        reverse=TokenReverse(remove_mask=remove_mask, block=block, absent=absent),
        provenance={
            "transformers": {
                **origin,
                "library": f"transformers {library.library('this model').__version__}",
                "network": type(net).__name__,
            },
            **({} if found.trained is None else {"notes": [found.trained]}),
        },
    )


@dataclass(frozen=True)
class Special:
    """Symbols of a tokenizer that stand for no text: the mask, the padding, and those that it sets around a text.

    ends: symbols that may stand in data besides, for the end of a text or what is unknown.
    """

    mask: int
    pad: int | None
    before: list[int]
    after: list[int]
    ends: frozenset[int]

    @classmethod
    def of(cls, tokenizer: Any, config: Json, mask: int | None, where: str) -> Special:
        """From a tokenizer (None where there is none) and a configuration. Errors: UsageError without a mask."""
        stated = (mask, getattr(tokenizer, "mask_token_id", None), config.get("mask_token_id"))
        chosen = next((k for k in stated if k is not None), None)
        if chosen is None:
            raise UsageError(
                f"neither the tokenizer nor the configuration of {where} says which symbol is the mask",
                "give mask=NUMBER, that of the symbol that the network was trained to fill in",
            )
        pad = getattr(tokenizer, "pad_token_id", None)
        names = ("unk_token_id", *(() if tokenizer is None or _around(tokenizer)[1] else ("eos_token_id",)))
        ends = frozenset(k for name in names if (k := getattr(tokenizer, name, None)) is not None)
        return cls(chosen, pad if pad is not None else config.get("pad_token_id"), *_around(tokenizer), ends)

    @property
    def padding_is_its_own(self) -> bool:
        """Whether the padding is no symbol that may stand in a text."""
        return self.pad is not None and self.pad not in self.ends and self.pad != self.mask

    def absent(self, around: bool) -> set[int]:
        """Symbols that stand at no place of a text."""
        own = {self.pad} if self.pad is not None and self.padding_is_its_own else set()
        return {k for k in own | ({*self.before, *self.after} if around else set()) if k not in self.ends}


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The symbols that a tokenizer sets before and after a text."""
    if tokenizer is None:
        return [], []
    bare, whole = (list(tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (False, True))
    starts = [k for k in range(len(whole) - len(bare) + 1) if whole[k : k + len(bare)] == bare]
    return (whole[: starts[0]], whole[starts[0] + len(bare) :]) if bare and starts else ([], [])


def _source(model: Any, tokenizer: Any, trust_code: bool) -> tuple[Json, Any, Json, Any]:
    """(facts for the provenance, the network or None of a folder, its configuration, the tokenizer)."""
    if isinstance(model, (str, Path)):
        folder = Path(model).expanduser()
        if not folder.is_dir():
            raise checkpoint.no_folder(str(model))
        config = checkpoint.read(folder)
        checkpoint.checkpoint_of(config, f"the model in {folder}")  # refused before anything large is read
        checkpoint.check_code(folder, config, trust_code)
        library.library(f"the model in {folder}")
        return {"folder": folder.resolve().name}, None, config, tokenizer or library.tokenizer(folder, trust_code)
    config = getattr(model, "config", None)
    if not isinstance(model, nn.Module) or not hasattr(config, "to_dict"):
        raise checkpoint.no_folder(model)
    described = config.to_dict()  # type: ignore[union-attr]
    return {"folder": None}, model.eval(), {**described, "architectures": [type(model).__name__]}, tokenizer


def _longest(config: Json, tokenizer: Any, special: Special) -> int:
    """The most places that the network takes; see `ANY`."""
    stated = [config[name] for name in LIMITS if isinstance(config.get(name), int) and config[name] > 0]
    if "roberta" in str(config.get("model_type")) and stated and special.pad is not None:
        stated = [stated[0] - special.pad - 1]  # its positions begin after the number of the padding
    written = getattr(tokenizer, "model_max_length", None)
    return min([*stated, *([written] if isinstance(written, int) else []), ANY])


def _vocabulary(net: nn.Module, config: Json) -> int:
    """The number of logits a place: of the last layer where it says it."""
    ask = getattr(net, "get_output_embeddings", None)
    last = ask() if callable(ask) else None
    rows = getattr(getattr(last, "weight", None), "shape", (config.get("vocab_size"),))[0]
    if not isinstance(rows, int):
        raise UsageError(
            f"the network {type(net).__name__} does not say how large its vocabulary is",
            "give it as a function to nelbo.tokens.from_callable",
        )
    return rows


def _plain(config: Json) -> Json:
    """The configuration without what changes from file to file of one model."""
    plain = json.loads(json.dumps(config, default=str))
    return {k: v for k, v in plain.items() if k not in ("_name_or_path", "transformers_version", "architectures")}
