"""Sequences in an archive: exact, as long as the chain rule says, and refused or in part where they are damaged."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import nelbo
from nelbo.codec.compress import compress
from nelbo.codec.decompress import decompress
from nelbo.codec.sequences import SequenceCoder
from nelbo.data.symbols import TokenizerFile
from nelbo.errors import ArchiveError, DataError, UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.tokens.model import TokenModel
from nelbo.model.tokens.reverse import MatchedMask
from nelbo.process import every_grid as grids
from nelbo.process.tokens.kernel import Absorbing, Uniform
from nelbo.process.tokens.survival import AlphaTable, Linear
from tests.bound.tokens import oracles
from tests.codec import models
from tests.codec.test_archive import look_up, places, survive
from tests.model.tokens import checks

V, L = 3, 24
DATA = checks.markov(L)


def timed(**settings) -> TokenModel:
    return oracles.model(Absorbing(2), 2, 3, time="unit", **settings)


TABLES = {last: AlphaTable(torch.tensor([0.7, 0.4, last])) for last in (0.0, 0.1)}
MODELS = {
    "counts": DATA.model(),
    "four steps": DATA.model(grid=grids.even(4)),
    "levels": timed(times=3, schedule=TABLES[0.0], grid=grids.full()),
    "matched prior": timed(times=3, schedule=TABLES[0.1], grid=grids.full(), prior=MatchedMask()),
}
_TABLE = oracles.TableNetwork(3, 3, 2, 1)


def between(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A network that is told any time: between its tables of t = 0 and t = 1."""
    zero, one = (_TABLE(z, torch.full_like(t, end)).double() for end in (0, 1))
    return torch.lerp(zero, one, t.double()[:, None, None])


MODELS["continuous"] = nelbo.tokens.from_callable(
    between, vocabulary=2, length=3, kernel=Absorbing(2), time="unit", schedule=Linear(), modules=[_TABLE]
)


def written(model: TokenModel, x: torch.Tensor, tmp_path, **settings):
    path = tmp_path / "x.nelbo"
    result = compress(model, x, path, **settings)
    back = decompress(model, path, batch_size=5)
    assert back.dtype == x.dtype and torch.equal(back, x)
    return result


def data_of(model: TokenModel, n: int) -> torch.Tensor:
    return nelbo.sample(model, n, seed=4).to(torch.int16)


@pytest.mark.parametrize("name", MODELS)
def test_round_trips(name, tmp_path):
    written(MODELS[name], data_of(MODELS[name], 30), tmp_path, batch_size=8)


def chain_rule(model: TokenModel, x: torch.Tensor) -> float:
    """−log₂ p(x) along the order that the archive's seed gives to every sequence, place by place, in bits."""
    v = Purpose.CODING_ORDER.uniform(0, torch.arange(len(x)), shape=(x.shape[1],))
    order = v.argsort(dim=1, descending=True)
    z, bits = torch.full_like(x, model.kernel.mask), 0.0  # type: ignore[attr-defined]
    for k in range(x.shape[1]):
        i = order[:, k : k + 1]
        log_p = model.predict(z, z == model.kernel.mask, None)  # type: ignore[attr-defined]
        bits -= float(log_p.gather(1, i[..., None].expand(-1, 1, log_p.shape[2]))[:, 0].gather(1, x.gather(1, i)).sum())
        z.scatter_(1, i, x.gather(1, i))
    return bits / math.log(2)


def test_the_file_is_the_chain_rule_and_a_header(tmp_path):
    """Of a network that is no posterior, whose orders differ; to 0.1 %."""
    model = oracles.model(Absorbing(2), 2, 3)
    x = nelbo.sample(model, 3000, seed=1)
    result = written(model, x, tmp_path, chunk_size=3000)
    bits = chain_rule(model, x)
    assert result.net_bits == pytest.approx(bits, rel=1e-3)
    assert result.tally.bits == pytest.approx(bits, rel=1e-12)
    assert 8 * result.bytes < 1.001 * bits + 8 * (len(result.header.to_bytes()) + 36)


def test_the_exact_network_codes_its_data_in_their_entropy(tmp_path):
    x = DATA.sample(60, seed=3)
    exact = -float(DATA.log_prob(x).sum()) / math.log(2)
    assert written(MODELS["counts"], x, tmp_path).net_bits == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("name", ["matched prior", "four steps", "continuous"])
@pytest.mark.filterwarnings("ignore:the network is worse than none")
def test_the_mean_length_is_the_bound(name, tmp_path):
    """Over orders: as many bits as the bound, by z."""
    model = MODELS[name]
    x = data_of(model, 1).expand(400, -1)
    bound = nelbo.evaluate(model, x.long(), tolerance=0.02)
    coder = SequenceCoder(model.in_precision(torch.float64), 400)
    steps, bits = list(coder._steps(400, 0, 400)), torch.zeros(400, dtype=torch.float64)
    for step in steps:
        z = x.long().masked_fill(step.hidden, coder.mask)
        for (rows, at), _, log_p in coder._laws(z, step, None):
            symbols = x.long()[rows, at]
            bits.index_add_(0, rows, -log_p.gather(-1, symbols[:, None])[:, 0])
    a_token = x.shape[1] * math.log(2)
    error = math.hypot(float(bits.std()) / 20, bound.standard_error.estimator * a_token)
    assert abs(float(bits.mean()) - bound.bits_per_dim * a_token) < 4 * error


def test_one_sequence_takes_its_own_bits(tmp_path):
    x = DATA.sample(1, seed=3)
    result = written(MODELS["counts"], x, tmp_path)
    assert result.bytes < result.net_bits / 8 + 100 and "1 sequences" in str(result) and result.borrowed == 0


def test_a_large_vocabulary(tmp_path):
    """More symbols than one table of frequencies has: blocks of them, at the same cost to 0.1 %."""
    V = 9000
    law = torch.linspace(0, 9, V, dtype=torch.float64).roll(4000)
    model = nelbo.tokens.from_callable(
        lambda z: law.expand(*z.shape, V), vocabulary=V, length=8, kernel=nelbo.tokens.absorbing(mask=V)
    )
    x = nelbo.sample(model, 60)
    bits = -float(law.log_softmax(0)[x].sum()) / math.log(2)
    assert written(model, x, tmp_path).net_bits == pytest.approx(bits, rel=1e-3)


def test_conditions_are_kept(tmp_path):
    tables = torch.stack([oracles.TableNetwork(2, 3, 2, seed=k).table[0] for k in range(2)])

    def fn(z, y):
        return tables[y, z[:, 0] * 1 + z[:, 1] * 3]

    model = nelbo.tokens.from_callable(fn, vocabulary=2, length=2, kernel=nelbo.tokens.absorbing(mask=2))
    y = torch.arange(40) % 2
    x = nelbo.sample(model, 40, condition={"y": y})
    compress(model, x, tmp_path / "x.nelbo", condition={"y": y})
    assert torch.equal(decompress(model, tmp_path / "x.nelbo"), x)


REFUSED = {
    "masked places": oracles.model(Uniform(), 2, 3, time="unit", times=3, schedule=TABLES[0.1], grid=grids.full()),
    "what is visible": oracles.model(Absorbing(2), 2, 3, carry_over=False),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_coded(words, tmp_path):
    with pytest.raises(UsageError, match=words):
        compress(REFUSED[words], torch.zeros(2, 3, dtype=torch.long), tmp_path / "x.nelbo")


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> bytes:
    """180 sequences in chunks of 60."""
    path = tmp_path_factory.mktemp("tokens") / "x.nelbo"
    compress(MODELS["four steps"], DATA.sample(180), path, chunk_size=60)
    return path.read_bytes()


def test_damage_costs_its_chunk(file, tmp_path):
    broken = bytearray(file)
    broken[places(file)[1] + 40] ^= 4
    (tmp_path / "x.nelbo").write_bytes(bytes(broken))
    with pytest.raises(ArchiveError, match="sequences 60–119 ") as caught:
        decompress(MODELS["four steps"], tmp_path / "x.nelbo")
    kept = [*range(60), *range(120, 180)]
    assert torch.equal(caught.value.recovered, DATA.sample(180)[kept])
    assert nelbo.codec.inspect(tmp_path / "x.nelbo")["images_lost"] == [[60, 120]]


def test_another_model_is_refused(file, tmp_path):
    (tmp_path / "x.nelbo").write_bytes(file)
    with pytest.raises(UsageError, match="was written by the model"):
        decompress(MODELS["counts"], tmp_path / "x.nelbo")
    with pytest.raises(UsageError, match="was written by the model"):
        decompress(models.exact(3), tmp_path / "x.nelbo")


def test_random_corruption(file, tmp_path):
    survive(MODELS["four steps"], file, 25, tmp_path / "x.nelbo", 0, DATA.sample(180))


@pytest.mark.slow
def test_ten_thousand_corruptions(file, tmp_path, monkeypatch):
    look_up(monkeypatch)
    survive(MODELS["four steps"], file, 10_000, tmp_path / "x.nelbo", 1, DATA.sample(180))


def byte_pairs(path: Path, normalizer: Any = None) -> dict[str, Any]:
    """The facts of data by a tokenizer's file, whose tokens are bytes and a few pairs of them."""
    tokenizers = pytest.importorskip("tokenizers")
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=258, initial_alphabet=letters, show_progress=False)
    made.train_from_iterator(["of of of", "many many"], trainer)
    made.save(str(path))
    return TokenizerFile(path).facts()


def spelled(tmp_path, tokenizer: str, alphabet: str = "") -> TokenModel:
    """A model of sequences of 10 symbols that was trained on a text, as its provenance says."""
    facts: dict[str, Any] = {"tokenizer": tokenizer, **({"alphabet": alphabet} if alphabet else {})}
    if tokenizer == "file":
        facts = byte_pairs(tmp_path / "tokenizer.json")
    V = len(alphabet) or facts.get("vocabulary", 256)
    law = torch.linspace(0, 3, V)
    model = nelbo.tokens.from_callable(
        lambda z: law.expand(*z.shape, V), vocabulary=V, length=10, kernel=nelbo.tokens.absorbing(mask=V)
    )
    return dataclasses.replace(model, provenance={"data": facts})


@pytest.mark.parametrize("text", ["", "a", "123456789é", "naïve text — of many lines\r\n\n" * 7])
@pytest.mark.parametrize("tokenizer", ["bytes", "chars", "file"])
def test_a_text_comes_back_to_the_byte(text, tokenizer, tmp_path):
    """Also what is behind the last whole sequence, and characters that a chunk's end cuts; an empty one is refused."""
    alphabet = "".join(sorted(set("naïve text — of many lines\r\n\n123456789é")))
    model = spelled(tmp_path, tokenizer, alphabet if tokenizer == "chars" else "")
    (tmp_path / "a.txt").write_bytes(text.encode())
    if not text:
        with pytest.raises(DataError, match="is empty"):
            compress(model, f"text:{tmp_path / 'a.txt'}", tmp_path / "x.nelbo")
        return
    result = compress(model, f"text:{tmp_path / 'a.txt'}", tmp_path / "x.nelbo", chunk_size=3, batch_size=2)
    assert decompress(model, tmp_path / "x.nelbo") == text.encode()
    decompress(model, tmp_path / "x.nelbo", tmp_path / "b.txt")
    assert (tmp_path / "b.txt").read_bytes() == text.encode()
    assert result.text_bytes == len(text.encode()) and "bits/byte" in str(result)
    tokens = {"bytes": len(text.encode()), "chars": len(text), "file": len(text.encode()) - 2 * text.count("of many")}
    assert result.tally.codes == tokens[tokenizer]


def test_a_text_that_its_tokens_change_is_refused_and_so_are_other_tokens(tmp_path):
    import tokenizers

    path = tmp_path / "a.txt"
    path.write_text("ABC")
    model = spelled(tmp_path, "file")
    compress(model, f"text:{path}", tmp_path / "x.nelbo")
    other = byte_pairs(tmp_path / "other.json", tokenizers.normalizers.Lowercase())
    with pytest.raises(UsageError, match="not of the model's"):
        decompress(dataclasses.replace(model, provenance={"data": other}), tmp_path / "x.nelbo")
    with pytest.raises(UsageError, match="does not come back"):
        compress(dataclasses.replace(model, provenance={"data": other}), f"text:{path}", tmp_path / "y.nelbo")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        decompress(model, tmp_path / "x.nelbo")


def test_a_text_beyond_the_alphabet_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("abc")
    with pytest.raises(DataError, match="'c'"):
        compress(spelled(tmp_path, "chars", "ab"), f"text:{tmp_path / 'a.txt'}", tmp_path / "x.nelbo")
    with pytest.raises(UsageError, match="by the tokenizer chars"):
        compress(spelled(tmp_path, "bytes"), f"text:{tmp_path / 'a.txt'}#tokenizer=chars", tmp_path / "x.nelbo")
