"""Texts as the condition of a latent pipeline's network, by the pipeline's own tokenizer and text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nelbo.adapters.diffusers import pipeline
from nelbo.adapters.diffusers.folder import read
from nelbo.adapters.transformers import library
from nelbo.errors import ModelFolderError, UsageError

ENCODER, TOKENIZER = "CLIPTextModel", "CLIPTokenizer"
_AT_ONCE = 16


def encode_text(source: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """The condition {"encoder_hidden_states": (N, L, width)} of N texts, one an example, for `nelbo.evaluate`.

    source: a pipeline of diffusers with a CLIP tokenizer and text encoder, such as StableDiffusionPipeline, or its
    folder. Texts are cut or padded to the encoder's length, as the pipeline does it; the last hidden state is used.
    Errors: UsageError for a pipeline of other encoders, which says what it has; ModelFolderError for a folder of which
    files are missing.

    >>> import nelbo
    >>> nelbo.latent.encode_text("no/folder", ["a shoe"])
    Traceback (most recent call last):
    nelbo.errors.ModelFolderError: no/folder/model_index.json is missing
    hint: give the whole folder that save_pretrained wrote
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts) or not len(texts):
        raise UsageError(f"texts={texts!r}", "give a list of strings, one an example")
    tokenizer, encoder = _parts(source)
    rows = []
    with torch.no_grad():
        for first in range(0, len(texts), _AT_ONCE):
            given = tokenizer(
                list(texts[first : first + _AT_ONCE]),
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            masked = getattr(encoder.config, "use_attention_mask", False)
            rows.append(encoder(given.input_ids, attention_mask=given.attention_mask if masked else None)[0].float())
    return {"encoder_hidden_states": torch.cat(rows)}


def _parts(source: Any) -> tuple[Any, Any]:
    """Tokenizer and text encoder. Errors: as of `encode_text`."""
    if not isinstance(source, (str, Path)):
        parts = pipeline.held(source)
        _check(parts, type(source).__name__)
        return source.tokenizer, source.text_encoder.eval()
    folder = Path(source)
    _check(pipeline.listed(read(folder / "model_index.json")), str(folder))
    tokenizer = library.tokenizer(folder / "tokenizer", trust_code=False)
    if tokenizer is None:
        raise ModelFolderError(f"{folder / 'tokenizer'} has no tokenizer", "copy the whole folder again")
    return tokenizer, library.network(folder / "text_encoder", ENCODER, trust_code=False)


def _check(parts: pipeline.Parts, where: str) -> None:
    several = sorted(name for name in parts if name.startswith("text_encoder"))
    named = parts.get("tokenizer", "").removesuffix("Fast")
    if several != ["text_encoder"] or parts["text_encoder"] != ENCODER or named != TOKENIZER:
        has = ", ".join(f"{name} ({parts[name]})" for name in several) or "none"
        raise UsageError(
            f"the text encoders of {where} are {has}, and only one {ENCODER} with a {TOKENIZER} is known here",
            "encode the texts with the pipeline's own encode_prompt and give the rows: "
            "condition={'encoder_hidden_states': rows, …}",
        )
