"""Small language models of transformers with a real tokenizer, and their bounds by enumeration with it alone."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import torch

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d"]
PAD, UNK, CLS, SEP, MASK = range(5)
V = len(WORDS)


def tokenizer(around: bool = True) -> Any:
    """Words separated by blanks; [CLS] text [SEP] where `around`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    if around:
        made.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
        )
    ends = {"cls_token": "[CLS]", "sep_token": "[SEP]"} if around else {"eos_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]", **ends
    )


def bert(folder: Path, **settings: Any) -> Any:
    """A BertForMaskedLM with random weights, saved with its tokenizer."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=V,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=12,
        initializer_range=1.0,
        **settings,
    )
    net = BertForMaskedLM(config).eval()
    net.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return net


def log_law(net: Any, z: list[int], hidden: list[int], pad: int, allowed: list[int]) -> torch.Tensor:
    """log p of the allowed symbols at every place, (L, V), by the library alone: [CLS] z [SEP] [PAD]…"""
    shown = [CLS, *[MASK if i in hidden else s for i, s in enumerate(z)], SEP, *[PAD] * pad]
    attended = [1] * (len(z) + 2) + [0] * pad
    with torch.no_grad():
        out = net(input_ids=torch.tensor([shown]), attention_mask=torch.tensor([attended])).logits[0, 1 : 1 + len(z)]
    forbidden = torch.tensor([k not in allowed for k in range(V)])
    return out.double().masked_fill(forbidden, -math.inf).log_softmax(-1)


def by_orders(net: Any, x: list[int], allowed: list[int], pad: int = 0) -> float:
    """The mean over all orders of the cost of revealing the places of x one by one."""
    cost = {}
    for number in range(1, len(x) + 1):
        for hidden in itertools.combinations(range(len(x)), number):
            law = log_law(net, x, list(hidden), pad, allowed)
            cost[hidden] = {i: -float(law[i, x[i]]) for i in hidden}
    orders = list(itertools.permutations(range(len(x))))
    total = sum(cost[tuple(sorted(order[k:]))][order[k]] for order in orders for k in range(len(x)))
    return total / len(orders)
