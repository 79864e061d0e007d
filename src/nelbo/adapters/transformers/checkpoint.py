"""What a folder of transformers holds, by its config.json: a masked network, one of masked diffusion, or another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nelbo.errors import ModelFolderError, NelboError, UsageError
from nelbo.fields import parse_json, shown
from nelbo.files import regular
from nelbo.typing import Json

CONFIG = "config.json"
MASKED = ("ForMaskedLM", "XLMWithLMHeadModel", "FlaubertWithLMHeadModel")
"""Ends of the names of classes of masked language models."""
CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "DoubleHeadsModel")


@dataclass(frozen=True)
class Checkpoint:
    """How a network is read: by which class of transformers, and whether its logits at a place are those of the next.

    trained: how many of the places it was trained to see hidden, in words.
    """

    auto: str
    shift: bool = False
    trained: str | None = None


LITTLE = (
    "the network was trained with a fixed share of hidden places, about 15 % as a rule, and not at all counts of them: "
    "the bound is of a valid chain that it was not trained for, which asks it with all places hidden, too"
)
DIFFUSION = {
    "llada": Checkpoint("AutoModel"),
    "dream": Checkpoint("AutoModel", shift=True),
}
"""Networks of masked diffusion, by their model_type. LLaDA says the law of a hidden place there; Dream, made from a
left-to-right network, at the place before it."""
REFUSED = {
    "diffusion_gemma": "it is given its own logits of the step before, so that its answer depends on more than z",
    "llada2_moe": "its pipeline hands it an attention mask of blocks, without which it answers otherwise",
}


def is_folder(path: str | Path) -> bool:
    """Whether `path` is a folder that transformers' `save_pretrained` wrote. Errors: ModelFolderError."""
    path = Path(path)
    if not (path / CONFIG).is_file() or (path / "model.json").exists():
        return False
    return "model_type" in read(path) and "_diffusers_version" not in read(path)


def read(folder: Path) -> Json:
    """config.json of a folder. Errors: ModelFolderError."""
    path = folder / CONFIG
    try:
        config = parse_json(regular(path).read_text())
    except FileNotFoundError:
        raise ModelFolderError(f"{path} is missing", "give the whole folder that save_pretrained wrote") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path} cannot be read as JSON: {error}", "copy the folder again") from None
    if not isinstance(config, dict):
        raise ModelFolderError(f"{path} holds a {type(config).__name__}, not a table", "copy the folder again")
    return config


def check_code(folder: Path, config: Json, trust_code: bool) -> None:
    """Errors: ModelFolderError where reading the folder would run code of its own without consent."""
    code = config.get("auto_map")
    if code and not trust_code:
        names = sorted({str(value) for value in (code.values() if isinstance(code, dict) else [code])})
        raise ModelFolderError(
            f"{folder} has code of its own, which reading the model would run: {', '.join(names)[:200]}",
            "read that code, and if you trust it give trust_code=True",
        )


def checkpoint_of(config: Json, where: str) -> Checkpoint:
    """How the network of a configuration is read. Errors: UsageError with the reason for one that defines no chain over
    hidden places."""
    kind, name = str(config.get("model_type")).lower(), _class(config)
    if kind in REFUSED:
        raise UsageError(f"{where} is a {kind}: {REFUSED[kind]}", _ANYTHING)
    if kind in DIFFUSION:
        return DIFFUSION[kind]
    if config.get("is_encoder_decoder"):
        raise UsageError(f"{where} is a {name}, an encoder with a decoder, which writes from left to right", _LEFT)
    if name.endswith(MASKED) and not config.get("is_decoder"):
        return Checkpoint("AutoModelForMaskedLM", trained=LITTLE)
    if config.get("auto_map") and config.get("mask_token_id") is not None:
        return Checkpoint("AutoModel")
    if name.endswith(CAUSAL) or config.get("is_decoder"):
        raise UsageError(f"{where} is a {name}, which sees only what is to the left of a place", _LEFT)
    raise UsageError(
        f"{where} is a {name}, which has no law of a hidden symbol",
        "give a masked language model, with the head over its vocabulary (BertForMaskedLM and the like), or a network "
        "of masked diffusion",
    )


_ANYTHING = "write what it computes from z alone as a function, and give it to nelbo.tokens.from_callable"
_LEFT = (
    "its likelihood is the chain rule, which one pass gives exactly and tools for such models print; nelbo scores "
    "networks that fill in hidden places"
)


def _class(config: Json) -> str:
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    return f"model of the type {shown(config.get('model_type'))} without a class"


def no_folder(source: Any) -> NelboError:
    """The error of what is neither a folder nor a network of transformers."""
    return UsageError(
        f"from_transformers was given {shown(source) if isinstance(source, str) else 'a ' + type(source).__name__}",
        "give a folder that save_pretrained wrote (`hf download` fetches one of the hub), or the network itself",
    )
