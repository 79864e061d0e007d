"""lm-evaluation-harness on local tasks whose right answers an enumerated model knows."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import nelbo

pytest.importorskip("lm_eval")
from nelbo.adapters.harness import NelboLM
from nelbo.errors import UsageError
from nelbo.model.tokens.model import TokenModel
from tests.bound.tokens import oracles

L = 4
DATA = oracles.joint(2, L)
LETTERS = "ab"


def model() -> TokenModel:
    return dataclasses.replace(DATA.model(), provenance={"data": {"tokenizer": "chars", "alphabet": LETTERS}})


def asked(*arguments) -> SimpleNamespace:
    return SimpleNamespace(args=arguments)


def log_p(context: str, answer: str) -> float:
    """log p(answer | context) of the joint, by sums over whatever follows."""

    def mass(text: str) -> float:
        index = tuple(LETTERS.index(c) for c in text)
        return float(DATA.joint[index].sum())

    return math.log(mass(context + answer) / mass(context))


def test_log_likelihoods_are_those_of_the_joint():
    """Sums, never means; an empty context, an empty answer; whatever the batch size."""
    requests = [asked("ab", "ab"), asked("", "abba"), asked("b", "bbb"), asked("abab", "")]  # whole sequences
    lm = NelboLM(model())
    found = lm.loglikelihood(requests)
    for request, (value, _), row in zip(requests, found, lm.records, strict=True):
        assert value == pytest.approx(log_p(*request.args), abs=1e-9) and row["standard_error"] < 1e-9
    again = NelboLM(model(), batch_size="1").loglikelihood(requests)
    assert again == [(pytest.approx(value), greedy) for value, greedy in found]
    assert found[-1] == (0.0, True)


def test_greedy_is_left_to_right():
    whole = "a"
    while len(whole) < L:
        whole += max(LETTERS, key=lambda c, so_far=whole: log_p(so_far, c))
    other = "".join(LETTERS[1 - LETTERS.index(c)] for c in whole[1:])
    found = NelboLM(model()).loglikelihood([asked("a", whole[1:]), asked("a", other)])
    assert [greedy for _, greedy in found] == [True, False]


def test_what_is_longer_than_a_sequence_is_scored_once():
    """By windows that are given what stands before: the same network for every window, each symbol in one."""
    V = 3
    law = torch.tensor([0.5, 0.3, 0.2]).double().log()
    flat = nelbo.tokens.from_callable(
        lambda z: law.expand(*z.shape, V), vocabulary=V, length=4, kernel=nelbo.tokens.absorbing(mask=V)
    )
    lm = NelboLM(flat, alphabet="abc")
    text = "abcacbbaacbab"
    exact = sum(float(law["abc".index(c)]) for c in text)
    (rolled,) = lm.loglikelihood_rolling([asked(text)])
    ((option, _),) = lm.loglikelihood([asked("ccccccc", text)])
    assert rolled == pytest.approx(exact, rel=1e-6) and option == pytest.approx(exact, rel=1e-6)
    assert lm.loglikelihood_rolling([asked("")]) == [0.0] and lm.records[0]["bytes"] == len(text)


def test_text_of_several_bytes_a_character():
    """Bytes are scored and counted, those of the answer alone; text and answer are cut between characters."""
    flat = nelbo.tokens.from_callable(
        lambda z: torch.zeros(*z.shape, 256), vocabulary=256, length=16, kernel=nelbo.tokens.absorbing(mask=256)
    )
    lm = NelboLM(flat, tokenizer="bytes")
    ((value, _),) = lm.loglikelihood([asked("é", "ü€")])
    (rolled,) = lm.loglikelihood_rolling([asked("naïve €")])
    assert value == pytest.approx(-5 * math.log(256)) and rolled == pytest.approx(-10 * math.log(256))
    assert [row["bytes"] for row in lm.records] == [5, 10]


def test_generation_ends_where_it_is_told():
    lm = NelboLM(model())
    (text,) = lm.generate_until([asked("ab", {"until": [], "max_gen_toks": 2})])
    assert len(text) == 2 and set(text) <= set(LETTERS)
    (cut,) = lm.generate_until([asked("ab", {"until": [text[0]], "max_gen_toks": 2})])
    assert cut == ""


def test_what_is_refused():
    bare = dataclasses.replace(model(), provenance={})
    with pytest.raises(UsageError, match="stand for"):
        NelboLM(bare)
    with pytest.raises(UsageError, match="masked places"):
        NelboLM(DATA.model(nelbo.tokens.uniform(), schedule=nelbo.tokens.linear()))


def test_the_command_is_that_of_lm_eval(monkeypatch, capsys):
    """`nelbo-lm-eval` runs it with the model nelbo known; what is refused is an error and a hint."""
    from lm_eval.api.registry import model_registry

    from nelbo.cli import lm_eval as command

    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["nelbo-lm-eval"] == "nelbo.cli.lm_eval:run"
    monkeypatch.setattr(sys, "argv", ["pytest"])
    assert command.execute(["--help"]) == 0 and "run" in capsys.readouterr().out
    assert "nelbo" in model_registry
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: NelboLM(dataclasses.replace(model(), provenance={})))
    assert command.execute(["run"]) == 2
    assert capsys.readouterr().err.startswith("error: it is not known what the model's symbols stand for\nhint: ")
    monkeypatch.delitem(sys.modules, "nelbo.adapters.harness")
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    assert command.execute(["run"]) == 2 and "pip install 'nelbo[text]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_local_task(tmp_path: Path, monkeypatch):
    """The real package, offline: the accuracy on the answers that the joint holds for likelier is 1, and the rolling
    bits a byte are those of the joint."""
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import lm_eval
    from lm_eval.tasks import TaskManager

    docs = []
    for context in ("aa", "ab", "ba", "bb"):
        options = ["aa", "ab", "ba", "bb"]
        docs.append({"c": context, "o": options, "y": max(range(4), key=lambda k: log_p(context, options[k]))})
    (tmp_path / "docs.json").write_text("\n".join(json.dumps(doc) for doc in docs))
    texts = ["abab", "bbaa", "aabb"]
    (tmp_path / "texts.json").write_text("\n".join(json.dumps({"t": t}) for t in texts))
    head = "dataset_path: json\ntest_split: test\ndataset_kwargs:\n  data_files:\n    test: {}\n"
    (tmp_path / "letters.yaml").write_text(
        "task: letters\n" + head.format(tmp_path / "docs.json") + "output_type: multiple_choice\n"
        "doc_to_text: '{{c}}'\ndoc_to_choice: '{{o}}'\ndoc_to_target: '{{y}}'\ntarget_delimiter: ''\n"
        "metric_list:\n  - metric: acc\n"
    )
    (tmp_path / "rolling.yaml").write_text(
        "task: rolling_letters\n" + head.format(tmp_path / "texts.json") + "output_type: loglikelihood_rolling\n"
        "doc_to_text: ''\ndoc_to_target: '{{t}}'\nmetric_list:\n  - metric: bits_per_byte\n"
    )
    results = lm_eval.simple_evaluate(
        model=NelboLM(model()),
        tasks=["letters", "rolling_letters"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
        cache_requests=False,
    )
    assert results is not None
    assert results["results"]["letters"]["acc,none"] == 1.0
    exact = -sum(log_p("", t) for t in texts) / (math.log(2) * sum(map(len, texts)))
    assert results["results"]["rolling_letters"]["bits_per_byte,none"] == pytest.approx(exact, rel=1e-6)


def test_the_mean_over_orders_is_the_bound():
    """Of a network that is no posterior, whose orders differ: by z against all orders; paired options share them."""
    table = oracles.model(nelbo.tokens.absorbing(mask=2), 2, 3)
    lm = NelboLM(table, alphabet=LETTERS, orders=400)
    ((value, _),) = lm.loglikelihood([asked("", "aba")])
    error = lm.records[0]["standard_error"]
    assert error > 0 and abs(-value - oracles.by_orders(table, [0, 1, 0])) < 4 * error
    with pytest.raises(UsageError, match="2 or more"):
        NelboLM(table, alphabet=LETTERS, orders=1)
