"""Networks of transformers: what they are read as against enumerations with the library alone, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import nelbo
from nelbo.adapters.transformers import is_folder
from nelbo.adapters.transformers.checkpoint import checkpoint_of
from nelbo.adapters.transformers.network import MaskedNetwork
from nelbo.bound.checks import NelboWarning
from nelbo.bound.estimators import Exhaustive
from nelbo.cli.main import execute
from nelbo.errors import DomainError, ModelFolderError, NelboError, UsageError
from tests.adapters import language
from tests.adapters.language import CLS, MASK, PAD, SEP, UNK, V
from tests.bound.tokens import oracles

ALLOWED = [UNK, 5, 6, 7, 8]


# ------------------------------------------------------------ by configuration alone
@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "only what is to the left"),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "only what is to the left"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"], "is_decoder": True}, "only what is to the left"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "encoder"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "no law of a hidden symbol"),
        ({"model_type": "bert"}, "no law of a hidden symbol"),
        ({"model_type": "diffusion_gemma", "architectures": ["X"]}, "its own logits of the step before"),
        ({"model_type": "llada2_moe", "architectures": ["X"]}, "attention mask of blocks"),
    ],
)
def test_what_defines_no_chain_is_refused(tmp_path, config, words):
    """Before anything is read, with the reason and what to do."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert is_folder(tmp_path)
    with pytest.raises(UsageError, match=words) as caught:
        nelbo.load(tmp_path)
    assert caught.value.hint


def test_kinds():
    assert checkpoint_of({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "it").trained is not None
    llada, dream = ({"model_type": kind, "auto_map": {}} for kind in ("llada", "Dream"))
    assert not checkpoint_of(llada, "it").shift and checkpoint_of(llada, "it").trained is None
    assert checkpoint_of(dream, "it").shift
    other = {"model_type": "mine", "architectures": ["MineForCausalLM"], "auto_map": {"AutoModel": "m.M"}}
    assert checkpoint_of({**other, "mask_token_id": 4}, "it").auto == "AutoModel"
    with pytest.raises(UsageError, match="only what is to the left"):
        checkpoint_of(other, "it")


def test_folders_that_are_none(tmp_path):
    (tmp_path / "config.json").write_text("[1]")
    for make in (nelbo.load, nelbo.from_transformers):
        with pytest.raises(ModelFolderError, match=r"config\.json holds a list"):
            make(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"')
    with pytest.raises(ModelFolderError, match="cannot be read as JSON"):
        nelbo.load(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    assert not is_folder(tmp_path)
    for value in (tmp_path / "nothing", "org/name", 3, torch.nn.Linear(2, 2)):
        with pytest.raises(UsageError, match="from_transformers was given"):
            nelbo.from_transformers(value)
    code = {"model_type": "llada", "architectures": ["LLaDAModelLM"], "auto_map": {"AutoModel": "modeling.LLaDA"}}
    (tmp_path / "config.json").write_text(json.dumps(code))
    with pytest.raises(ModelFolderError, match=r"would run: modeling\.LLaDA"):
        nelbo.load(tmp_path)


def test_what_a_network_is_shown():
    """The symbols around, and padding behind the end symbol and not attended."""
    given = []

    class Inner(torch.nn.Module):
        def forward(self, input_ids, attention_mask=None):
            given.append((input_ids.tolist(), None if attention_mask is None else attention_mask.tolist()))
            return SimpleNamespace(logits=input_ids[..., None].double())

    net = MaskedNetwork(Inner(), {}, [2], [3], 0)
    assert net(torch.tensor([[5, 6, 7]]))[..., 0].tolist() == [[5, 6, 7]]
    net(torch.tensor([[5, 0, 7], [5, 6, 0], [5, 0, 0]]))
    assert given[0] == ([[2, 5, 6, 7, 3]], None)
    assert given[1] == (
        [[2, 5, 0, 7, 3], [2, 5, 6, 3, 0], [2, 5, 3, 0, 0]],
        [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0]],
    )
    bare = MaskedNetwork(Inner(), {}, [], [], None)
    bare(torch.tensor([[0, 0]]))
    assert given[2] == ([[0, 0]], None) and bare.identity() != net.identity()


# ------------------------------------------------------------ real networks
@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("language") / "bert"
    language.bert(path)
    return path


@pytest.fixture(scope="module")
def network(folder):
    from transformers import BertForMaskedLM

    return BertForMaskedLM.from_pretrained(folder).eval()


@pytest.mark.slow
def test_a_folder_against_enumeration(folder, network):
    """The bound of the model in the folder is the mean over all orders, computed with transformers alone."""
    model = nelbo.load(folder)
    assert isinstance(model, nelbo.TokenModel)
    assert model.domain.vocabulary == V and model.domain.length == model.domain.longest == 10
    assert model.kernel.to_config() == {"kind": "absorbing", "mask": MASK}
    assert model.reverse.absent == (PAD, CLS, SEP) and not model.denoiser.training
    for x in ([5, 6, 8], [UNK, 7, 5]):
        short = model.for_data(torch.tensor([x]))
        expected = language.by_orders(network, x, ALLOWED)
        assert abs(oracles.by_terms(short, x) - expected) < 1e-5  # logits in float32
    data = torch.tensor([[5, 6, 8], [8, 8, 7], [6, 5, 5]])
    with pytest.warns(NelboWarning, match="not at all counts"):
        bound = nelbo.evaluate(folder, data, estimator=Exhaustive(64), per_example=True)
    exact = torch.tensor([language.by_orders(network, x, ALLOWED) for x in data.tolist()])
    error = (bound.per_example.nats - exact) / bound.per_example.standard_error.clamp_min(1e-6)
    assert float(error.abs().max()) < 4.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the network")
def test_padding_and_rules(folder, network):
    """Padding is not attended and not scored; a block of one place is the chain rule; the object is the folder."""
    x = [5, 8]
    padded = torch.tensor([[*x, PAD, PAD, PAD]])
    mask = padded != PAD
    bound = nelbo.evaluate(
        nelbo.from_transformers(folder, block=1), padded, mask=mask, estimator=Exhaustive(1), per_example=True
    )
    hidden = [language.log_law(network, x, list(range(i, 2)), 3, ALLOWED)[i, x[i]] for i in range(2)]
    assert abs(float(bound.per_example.nats) + float(sum(hidden))) < 1e-5
    other = nelbo.from_transformers(network, tokenizer=language.tokenizer())
    assert other.fingerprint() == nelbo.load(folder).fingerprint()
    assert nelbo.from_transformers(folder, around=False).fingerprint() != other.fingerprint()
    whole = nelbo.from_transformers(folder, remove_special=False).for_data(torch.tensor([x]))
    expected = language.by_orders(network, x, [k for k in range(V) if k != MASK])
    assert abs(oracles.by_terms(whole, x) - expected) < 1e-5
    assert oracles.by_terms(whole, x) > language.by_orders(network, x, ALLOWED)
    with pytest.raises(DomainError, match="holds symbol 3 at a place that is scored"):
        nelbo.evaluate(folder, torch.tensor([[5, SEP, 6]]))
    with pytest.raises(DomainError, match="holds the mask"):
        nelbo.evaluate(folder, torch.tensor([[5, MASK, 6]]))
    with pytest.raises(UsageError, match="takes 10 besides the 2 around them"):
        nelbo.from_transformers(folder, length=11)
    with pytest.raises(NelboError, match="up to 10 places"):
        nelbo.evaluate(folder, torch.full((1, 11), 5))


@pytest.mark.slow
def test_the_command_takes_a_folder(folder, tmp_path, capsys):
    """Text through the folder's own tokenizer, in bits a byte of the raw text."""
    text = tmp_path / "text.txt"
    text.write_text("a b c d a b é b c d")
    source = f"text:{text}#tokenizer={folder}#length=5"
    assert execute(["evaluate", str(folder), "--data", source, "--json", "--tolerance", "0.1"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["data"]["bytes"] == len("a b c d a b é b c d".encode()) and printed["data"]["tokens"] == 10
    assert any("not at all counts" in note for note in printed["warnings"])
    assert execute(["info", str(folder)]) == 0
    assert "BertForMaskedLM" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_damage_is_refused(folder, tmp_path, file):
    path = Path(shutil.copytree(folder, tmp_path / "bert"))
    (path / file).write_bytes((path / file).read_bytes()[:100])
    with pytest.raises(ModelFolderError, match="transformers cannot read the") as caught:
        nelbo.load(path)
    assert "\n" not in caught.value.message


@pytest.mark.slow
def test_weights_that_are_missing(folder, tmp_path):
    """An encoder without its head, and a folder without a tokenizer that names no mask."""
    from safetensors.torch import load_file, save_file

    path = Path(shutil.copytree(folder, tmp_path / "bert"))
    tensors = {k: v for k, v in load_file(path / "model.safetensors").items() if not k.startswith("cls.predictions.t")}
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelFolderError, match="which would be random"):
        nelbo.load(path)
    shutil.copy(folder / "model.safetensors", path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).unlink()
    with pytest.raises(UsageError, match="which symbol is the mask"):
        nelbo.load(path)


CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

class Config(PretrainedConfig):
    model_type = "{kind}"

    def __init__(self, vocab_size=9, mask_token_id=4, max_sequence_length=6, **more):
        super().__init__(**more)
        self.vocab_size, self.mask_token_id, self.max_sequence_length = vocab_size, mask_token_id, max_sequence_length

class Network(PreTrainedModel):
    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        self.table = torch.nn.Parameter(torch.randn(3, config.vocab_size, config.vocab_size))
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, input_ids, attention_mask=None, **more):
        left, right = input_ids.roll(1, 1), input_ids.roll(-1, 1)
        return CausalLMOutput(logits=self.table[0][input_ids] + self.table[1][left] + self.table[2][right])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llada", "Dream"])
def test_code_of_a_folder(tmp_path, monkeypatch, kind):
    """A network of masked diffusion with code of its own: read with consent, shifted where its kind is, bare of symbols
    around, and its number is that of the table inside."""
    import transformers.dynamic_module_utils as modules

    monkeypatch.setattr(modules, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "cache"))
    from safetensors.torch import save_file

    path = tmp_path / "model"
    path.mkdir()
    (path / f"modeling_{kind.lower()}.py").write_text(CODE.replace("{kind}", kind))
    table = torch.randn(3, V, V, generator=torch.Generator().manual_seed(0))
    save_file({"table": table}, path / "model.safetensors", {"format": "pt"})
    place = f"modeling_{kind.lower()}"
    config = {
        "model_type": kind,
        "architectures": ["Network"],
        "auto_map": {"AutoConfig": f"{place}.Config", "AutoModel": f"{place}.Network"},
        "mask_token_id": MASK,
    }
    (path / "config.json").write_text(json.dumps(config))
    language.tokenizer(around=False).save_pretrained(path)
    with pytest.raises(ModelFolderError, match="would run"):
        nelbo.load(path)
    model = nelbo.load(path, trust_code=True)
    assert isinstance(model, nelbo.TokenModel) and not model.notes
    assert model.domain.longest == 6 and model.reverse.absent == (PAD,)
    z = torch.tensor([[5, MASK, 7]])
    logits = (table[0][z] + table[1][z.roll(1, 1)] + table[2][z.roll(-1, 1)])[0, 0 if kind == "Dream" else 1]
    logits[[PAD, MASK]] = -torch.inf
    found = model.for_data(z).predict(z, z == MASK, None)[0, 1]
    assert float((found.exp() - logits.double().softmax(-1)).abs().max()) < 1e-6
    net = model.denoiser.net.inner  # type: ignore[attr-defined]
    net.config.max_sequence_length = None  # nothing says how many places it takes: any number
    free = nelbo.from_transformers(net, tokenizer=language.tokenizer(around=False))
    assert free.domain.length == 128 and free.for_data(torch.zeros(1, 300).long()).domain.length == 300
