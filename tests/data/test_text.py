"""Texts as sequences of symbols: bytes and characters are counted right, and nothing is dropped in silence."""

from __future__ import annotations

import gzip

import pytest
import torch

from nelbo.data import read
from nelbo.errors import DataError, UnknownNameError

TEXT = "aé€😀b\n\nñ"
BYTES = TEXT.encode()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.txt"
    path.write_bytes(BYTES)
    return path


def test_bytes(file):
    examples = read(f"text:{file}#length=4")
    assert torch.equal(examples.data.flatten(), torch.tensor(list(BYTES[:12]), dtype=torch.int32))
    assert examples.facts == {"tokenizer": "bytes", "left_over": {"tokens": len(BYTES) - 12}, "bytes": 12}


def test_characters(file):
    examples = read(f"text:{file}#length=3#tokenizer=chars")
    alphabet = "".join(sorted(set(TEXT)))
    assert examples.facts["alphabet"] == alphabet
    assert "".join(alphabet[k] for k in examples.data.flatten()) == TEXT[:6]
    assert examples.facts["bytes"] == len(TEXT[:6].encode()) and examples.facts["left_over"] == {"tokens": 2}
    one = read(f"text:{file}#length=3#tokenizer=chars", limit=1)
    assert one.facts["bytes"] == len(TEXT[:3].encode()) and "left_over" not in one.facts
    assert "bytes" not in examples.first(1).facts and examples.first(1).facts["alphabet"] == alphabet


def test_what_is_refused(file):
    with pytest.raises(UnknownNameError, match="chars"):
        read(f"text:{file}#tokenizer=words")
    with pytest.raises(DataError, match="less than a sequence of 128"):
        read(f"text:{file}")
    with pytest.raises(DataError, match="length=0"):
        read(f"text:{file}#length=0")
    file.write_bytes(b"ab\xffcd")
    with pytest.raises(DataError, match="byte 2 is 0xff"):
        read(f"text:{file}#length=2#tokenizer=chars")
    with pytest.raises(DataError, match="there is no file"):
        read("text:nowhere.txt")


# ---------------------------------------------------------------- windows and documents


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [3, 5, 6, 13, 25])
def test_rolling_windows_score_every_symbol_once(tmp_path, n, stride):
    """And each is given the symbols before it, as many as the window holds."""
    (tmp_path / "t.txt").write_text("abcdefghijklmnopqrstuvwxyz"[:n])
    examples = read(f"text:{tmp_path / 't.txt'}#length=5#stride={stride}")
    scored = torch.ones_like(examples.data, dtype=torch.bool)
    scored &= ~examples.prompt if examples.prompt is not None else True
    scored &= examples.mask if examples.mask is not None else True
    assert bytes(examples.data[scored].tolist()).decode() == "abcdefghijklmnopqrstuvwxyz"[:n]
    assert "left_over" not in examples.facts and examples.facts["bytes"] == n
    assert (examples.mask is None) == (n >= 5)
    if n >= 5:
        rows = ["".join(map(chr, row)) for row in examples.data]
        assert all(row in "abcdefghijklmnopqrstuvwxyz"[:n] for row in rows)
        assert int(scored[1:].sum(1).max() if n > 5 else 0) <= stride


def test_documents(tmp_path):
    """Empty ones are left out, short ones padded, long ones cut; bytes between them are counted."""
    text = "\n\nkurz\n \n\nein längeres\nDokument\n\n€\n\n\n"
    (tmp_path / "t.txt").write_text(text)
    examples = read(f"text:{tmp_path / 't.txt'}#length=8#documents=blank#tokenizer=chars")
    alphabet, facts = examples.facts["alphabet"], examples.facts
    shown = ["".join(alphabet[k] for k in row[kept]) for row, kept in zip(examples.data, examples.mask, strict=True)]
    assert shown == ["kurz", "ein läng", "€"]
    assert facts["cut"] == {"tokens": len("eres\nDokument"), "documents": 1} and facts["empty"] == 1
    held = sum(len(document.encode()) for document in ("kurz", "ein längeres\nDokument", "€"))
    assert facts["separators"]["bytes"] == len(text.encode()) - held
    assert facts["bytes"] == sum(len(document.encode()) for document in shown)
    assert torch.equal(examples.place_bytes.sum(1), torch.tensor([len(document.encode()) for document in shown]))
    rolled = read(f"text:{tmp_path / 't.txt'}#length=8#documents=blank#tokenizer=chars#stride=4")
    assert rolled.facts["bytes"] == held and "cut" not in rolled.facts
    # a document has one hash, whatever it is padded to
    longer = read(f"text:{tmp_path / 't.txt'}#length=9#documents=blank#tokenizer=chars")
    assert torch.equal(longer.hashes[[0, 2]], examples.hashes[[0, 2]]) and longer.fingerprint != examples.fingerprint
    first = examples.first(2)
    assert torch.equal(first.mask, examples.mask[:2]) and torch.equal(first.hashes, examples.hashes[:2])


def test_other_separators_files_and_folders(tmp_path):
    (tmp_path / "b.txt").write_text("zwei<|end|>drei\n<|end|>")
    (tmp_path / "a.txt").write_text("eins")
    (tmp_path / "c.md").write_text("not read")
    (tmp_path / "e.txt").write_text("")

    def rows(spec: str) -> list[str]:
        examples = read(f"text:{spec}#length=6")
        kept = torch.ones_like(examples.data, dtype=torch.bool) if examples.mask is None else examples.mask
        return [bytes(r[m].tolist()).decode() for r, m in zip(examples.data, kept, strict=True)]

    assert rows(f"{tmp_path}#documents=<|end|>") == ["eins", "zwei", "drei\n"]
    assert rows(f"{tmp_path / 'b.txt'},{tmp_path / 'a.txt'}#documents=lines") == ["zwei<|", "<|end|", "eins"]
    whole = read(f"text:{tmp_path}#length=4")  # no window reaches over the end of a file
    assert [bytes(r.tolist()) for r in whole.data][:2] == [b"eins", b"zwei"] and whole.facts["empty"] == 1
    assert whole.facts["passed_over"]["entries"][0]["name"] == "c.md"
    assert rows(f"{tmp_path / 'b.txt'}#documents=\\x64rei\\n") == ["zwei<|", "<|end|"]


def test_an_alphabet_from_another_file(tmp_path):
    (tmp_path / "train.txt").write_text("abcdef")
    (tmp_path / "test.txt").write_text("fade")
    spec = f"text:{tmp_path / 'test.txt'}#length=4#tokenizer=chars#alphabet={tmp_path / 'train.txt'}"
    assert read(spec).data.tolist() == [[5, 0, 3, 4]]
    (tmp_path / "test.txt").write_text("fädé")
    with pytest.raises(DataError, match="character 'ä', which is not in the alphabet of 6"):
        read(spec)


@pytest.fixture
def tokenizer(tmp_path):
    """A byte-level BPE file with a few merges, which was saved with truncation and padding."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, show_progress=False, special_tokens=["<pad>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator([TEXT * 3, "the cat sat on the mat " * 5], trainer)
    made.enable_truncation(3)
    made.enable_padding(length=50, pad_id=0, pad_token="<pad>")
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_the_tokens_of_a_file(tokenizer, tmp_path):
    """Nothing is truncated; every byte belongs to one token, also where a character is several tokens."""
    import tokenizers

    text = "the cat 😀 sañt on€ mat\n\nthe end"
    (tmp_path / "t.txt").write_text(text)
    ids = tokenizers.Tokenizer.from_file(str(tokenizer))
    ids.no_truncation(), ids.no_padding()
    expected = ids.encode(text).ids
    examples = read(f"text:{tmp_path / 't.txt'}#length=200#stride=9#tokenizer={tokenizer}")
    assert examples.data[0, : len(expected)].tolist() == expected and int(examples.mask.sum()) == len(expected)
    assert examples.facts["bytes"] == len(text.encode()) == int(examples.place_bytes.sum())
    assert examples.facts["vocabulary"] == ids.get_vocab_size() and "lossless" not in examples.facts
    short = read(f"text:{tmp_path / 't.txt'}#length=7#tokenizer={tokenizer.parent}")
    kept = ids.decode(short.data.flatten().tolist())
    assert text.startswith(kept.rstrip("\ufffd")) and abs(short.facts["bytes"] - len(kept.encode())) <= 3
    assert short.facts.get("left_over", {"tokens": 0})["tokens"] == len(expected) % 7


def test_a_tokenizer_that_loses_text_says_so(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "cat": 1, "the": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.save(str(tmp_path / "words.json"))
    (tmp_path / "t.txt").write_text("The  cat dög  \n")
    examples = read(f"text:{tmp_path / 't.txt'}#length=3#tokenizer={tmp_path / 'words.json'}")
    assert examples.data.tolist() == [[2, 1, 0]]
    assert examples.facts["unknown"] == 1 and examples.facts["lossless"] is False
    assert examples.place_bytes.tolist() == [[3, 5, 8]] and examples.facts["bytes"] == len("The  cat dög  \n".encode())
    with pytest.raises(DataError, match="no symbol to pad them with"):
        read(f"text:{tmp_path / 't.txt'}#length=4#documents=lines#tokenizer={tmp_path / 'words.json'}")
    padded = read(f"text:{tmp_path / 't.txt'}#length=4#pad=0#documents=lines#tokenizer={tmp_path / 'words.json'}")
    assert padded.facts["pad"] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("#length=4#stride=5", "some would be in none"),
        ("#stride=0", "stride=0"),
        ("#pad=-1", "pad=-1"),
        ("#length=४", "length=४"),
        ("#documents=", "without a separator"),
        ("#tokenizer=./nowhere.json", "there is no file"),
        ("#tokenizer=some.txt.json", "there is no file"),
        ("#alphabet=x", "it is for #tokenizer=chars"),
        ("#size=3", "size"),
        ("#3", "no option of such data"),
    ],
)
def test_bad_options(file, options, words):
    with pytest.raises((DataError, UnknownNameError)) as caught:
        read(f"text:{file}{options}")
    assert words in str(caught.value) + (caught.value.hint or "")


def test_a_compressed_text(tmp_path):
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(BYTES))
    assert bytes(read(f"text:{tmp_path / 't.txt.gz'}#length=5").data[0].tolist()) == BYTES[:5]
    for damaged, words in (
        (gzip.compress(BYTES)[:-9], "no readable gzip"),
        (gzip.compress(bytes(4 << 20)), "declares"),
    ):
        (tmp_path / "t.txt.gz").write_bytes(damaged)
        with pytest.raises(DataError, match=words):
            read(f"text:{tmp_path / 't.txt.gz'}#length=5")


def test_no_tokenizer(file, tmp_path):
    with pytest.raises(DataError, match="is no tokenizer's file"):
        read(f"text:{file}#tokenizer={file}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"has no \.txt file"):
        read(f"text:{tmp_path / 'empty'}")
