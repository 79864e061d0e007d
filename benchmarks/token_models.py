"""Small masked language models for the benchmarks of sequences of symbols: trained once, kept in a folder.

    .venv/bin/python benchmarks/token_models.py FOLDER [--text FILE.gz] [--only characters digits python subwords]

    characters   English text, 62 symbols, sequences of 128, a transformer of 1.2 M parameters
    subwords     the same text in 8,192 symbols of a byte-pair encoding that is trained on it, sequences of 64
    python       bytes of the standard library's source, sequences of 128
    digits       8×8 images of 17 levels as 64 symbols

All masks of a batch have counts on a lattice, and the loss is the bound's, Σ_l h(l)/l. Muon for matrices, AdamW for the
rest (Jordan et al. 2024). The last part of the text, and every twelfth source file, is held out.
"""

from __future__ import annotations

import argparse
import gzip
import math
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nelbo

TEXT = Path(__file__).resolve().parents[2] / "shared" / "data" / "text" / "kjv.txt.gz"
HELD_OUT = 0.08
"""Share of a text that is held out, from its end."""


@dataclass(frozen=True)
class Recipe:
    """Length of the sequences, width and blocks of the network, batch, and processor seconds of training."""

    length: int
    width: int
    blocks: int
    batch: int
    seconds: float


RECIPES = {
    "characters": Recipe(128, 128, 6, 16, 450),
    "digits": Recipe(64, 64, 4, 32, 45),
    "subwords": Recipe(64, 96, 4, 16, 90),
    "python": Recipe(128, 96, 5, 16, 90),
}


class Block(nn.Module):
    """A mixing of seven neighbours, attention, and two linear layers, each added to what it reads."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.near = nn.Parameter(torch.randn(7, width) * 0.3)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.mixed = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        nn.init.zeros_(self.mixed.weight)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        B, L, d = x.shape
        padded = F.pad(x, (0, 0, 3, 3))
        for k, weight in enumerate(self.near):
            x = x + padded[:, k : k + L] * weight
        q, k, v = self.qkv(self.norms[0](x)).view(B, L, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, L, d)
        x = x + self.mixed(attended)
        return x + self.down(F.gelu(self.up(self.norms[1](x)), approximate="tanh"))


class Transformer(nn.Module):
    """z (B, L) of symbols 0..V, where V is the mask → logits (B, L, V)."""

    def __init__(self, vocabulary: int, recipe: Recipe):
        super().__init__()
        self.symbols = nn.Embedding(vocabulary + 1, recipe.width)
        self.places = nn.Parameter(torch.randn(recipe.length, recipe.width) * 0.5)
        nn.init.normal_(self.symbols.weight, std=0.5)
        self.blocks = nn.Sequential(*(Block(recipe.width, 4) for _ in range(recipe.blocks)))
        self.norm, self.head = nn.LayerNorm(recipe.width), nn.Linear(recipe.width, vocabulary)

    def forward(self, z: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.symbols(z) + self.places)))


@dataclass(frozen=True)
class TokenCase:
    """A network as a model, held-out sequences (N, L), and sequences (M, L) of those that it was trained on."""

    name: str
    model: nelbo.TokenModel
    held_out: Tensor
    corpus: Tensor | None


def sequences(name: str, length: int, text: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Symbols to train on, held-out ones, each (n, length) in random order or a stream (n,), and the vocabulary."""
    if name == "digits":
        codes = _digits()
        order = np.random.default_rng(7).permutation(len(codes))
        rows = np.asarray(codes).reshape(len(codes), -1)[order].astype(np.int64)
        return rows[500:], rows[:500], 17
    if name == "python":
        files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
        parts = [
            np.frombuffer(b"".join(f.read_bytes() for f in some), dtype=np.uint8).astype(np.int64)
            for some in ([f for k, f in enumerate(files) if k % 12], files[::12])
        ]
        return parts[0], cut(parts[1], length), 256
    written = gzip.decompress(text.read_bytes()).decode("latin-1")
    if name == "characters":
        symbols, vocabulary = characters(written)
    else:
        symbols, vocabulary = subwords(written, 8192)
    split = int(len(symbols) * (1 - HELD_OUT))
    return symbols[:split], cut(symbols[split:], length), vocabulary


def _digits() -> Tensor:
    from nelbo.data import read

    return read("digits").data


def characters(text: str) -> tuple[np.ndarray, int]:
    """Every character by its number in sorted order."""
    known = {c: k for k, c in enumerate(sorted(set(text)))}
    return np.array([known[c] for c in text], dtype=np.int64), len(known)


def subwords(text: str, vocabulary: int) -> tuple[np.ndarray, int]:
    """The text by a byte-pair encoding that is trained on it."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    coder = tokenizers.Tokenizer(models.BPE())
    coder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    lines = text.splitlines(keepends=True)
    coder.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=vocabulary, show_progress=False))
    ids = [np.array(one.ids, dtype=np.int64) for one in coder.encode_batch(lines)]
    return np.concatenate(ids), coder.get_vocab_size()


def cut(symbols: np.ndarray, length: int) -> np.ndarray:
    """Whole sequences of a stream, in random order."""
    rows = symbols[: len(symbols) // length * length].reshape(-1, length)
    return rows[np.random.default_rng(7).permutation(len(rows))]


def train(name: str, symbols: np.ndarray, vocabulary: int, recipe: Recipe) -> Transformer:
    """Trained for the recipe's processor seconds."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    net = Transformer(vocabulary, recipe)
    matrices = [p for p in net.blocks.parameters() if p.ndim == 2 and p.shape[0] > 7]
    of_blocks = {id(p) for p in matrices}
    rest = [p for p in net.parameters() if id(p) not in of_blocks]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    rates = [0.02, 4e-3]
    L, B = recipe.length, recipe.batch
    began, step, seen = time.process_time(), 0, []
    while (done := (time.process_time() - began) / recipe.seconds) < 1:
        factor = min(1, (step + 1) / 50) * (1 if done < 0.4 else max(0.02, 1 - (done - 0.4) / 0.6))
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
        if symbols.ndim == 1:
            rows = symbols[rng.integers(0, len(symbols) - L, B)[:, None] + np.arange(L)]
        else:
            rows = symbols[rng.integers(0, len(symbols), B)]
        x = torch.from_numpy(rows)
        count = torch.from_numpy((np.floor((rng.random() + np.arange(B)) / B * L).astype(int) % L) + 1)
        hidden = torch.from_numpy(rng.random((B, L)).argsort(1).argsort(1)) < count[:, None]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = net(x.masked_fill(hidden, vocabulary))[hidden].float()
        cost = F.cross_entropy(logits, x[hidden], reduction="none")
        loss = (cost / count[:, None].expand(B, L)[hidden]).sum() / B
        net.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        seen.append(loss.item())
        if step % 100 == 0:
            print(f"{name} {step} {done:.2f} {np.mean(seen[-100:]) / math.log(2):.4f} bits/symbol", flush=True)
    return net.eval()


def case(name: str, folder: Path, text: Path = TEXT, held_out: int = 500) -> TokenCase:
    """The model of a name, trained if the folder does not hold it."""
    recipe = RECIPES[name]
    symbols, rows, vocabulary = sequences(name, recipe.length, text)
    path = folder / f"{name}.pt"
    if path.exists():
        net = Transformer(vocabulary, recipe)
        net.load_state_dict(torch.load(path, weights_only=True))
        net.eval()
    else:
        net = train(name, symbols, vocabulary, recipe)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), path)
    kernel = nelbo.tokens.absorbing(mask=vocabulary)
    model = nelbo.tokens.from_callable(net, vocabulary=vocabulary, length=recipe.length, kernel=kernel)
    corpus = symbols if symbols.ndim == 2 else cut(symbols, recipe.length)
    return TokenCase(name, model, torch.from_numpy(rows[:held_out]), torch.from_numpy(corpus[:4096]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--only", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.only:
        made = case(name, args.folder, args.text)
        parameters = sum(p.numel() for p in made.model.denoiser.parameters())
        print(f"{name}: {parameters:,} parameters, {len(made.held_out)} held-out sequences", flush=True)


if __name__ == "__main__":
    main()
