"""In the place of a model: pipelines are read; of anything else the error names the class and what makes a model."""

from __future__ import annotations

import functools
import re
import types

import numpy as np
import pytest
import torch
from torch import nn

import nelbo
from nelbo.errors import ModelFolderError, UsageError
from tests.adapters.pipelines import tiny
from tests.expected import early_end, untrained
from tests.parity.peers import peer

pytestmark = [untrained, early_end]

diffusers = pytest.importorskip("diffusers")
CODES = torch.randint(0, 17, (4, 1, 8, 8), generator=torch.Generator().manual_seed(5))
MANY = CODES.repeat(8, 1, 1, 1).roll(1, 0) + torch.arange(32)[:, None, None, None]
LINE = re.compile(r"nelbo\.from_\w+\(.*\)")


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    return diffusers.DDPMPipeline(tiny().eval(), diffusers.DDPMScheduler(20))


VERBS = {
    "evaluate": lambda m, out: nelbo.evaluate(m, CODES, estimator="stratified").bits_per_dim,
    "ode_likelihood": lambda m, out: nelbo.ode_likelihood(m, CODES[:1], steps=2, probes=1).bits_per_dim,
    "compare first": lambda m, out: nelbo.compare(m, zero(), CODES, tolerance=2, max_nfe=4000).difference,
    "compare second": lambda m, out: nelbo.compare(zero(), m, CODES, tolerance=2, max_nfe=4000).difference,
    "sample": lambda m, out: nelbo.sample(m, 1, steps=2).tolist(),
    "encode": lambda m, out: nelbo.samplers.encode(m, CODES[:1], steps=2).tolist(),
    "tighten": lambda m, out: nelbo.tighten(m, MANY, steps=2, first_level="own", out=out / "t")[1].after.bits_per_dim,
    "save_pretrained": lambda m, out: nelbo.load(nelbo.save_pretrained(m, out / "s")).fingerprint(),
    "compress": lambda m, out: nelbo.codec.compress(m, CODES[:1], out / "x.nelbo", few=True, verify=False).bytes,
    "check_model": lambda m, out: nelbo.testing.check_model(m, CODES),
    "load": lambda m, out: nelbo.load(m).fingerprint(),
}


def zero():
    return nelbo.from_callable(
        lambda z, t: 0 * z,
        schedule=nelbo.schedules.linear(20),
        domain=nelbo.DataDomain((1, 8, 8), bins=256),
    )


@pytest.mark.filterwarnings(
    "ignore:the model does not say", "ignore:only 16", "ignore:between the levels of its table", "ignore:the tolerance"
)
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "check_model"])
def test_every_verb_reads_a_pipeline(pipeline, tmp_path, verb):
    ask = VERBS[verb]
    (tmp_path / "b").mkdir()
    assert ask(pipeline, tmp_path) == ask(nelbo.from_diffusers(pipeline), tmp_path / "b")


@pytest.mark.parametrize("verb", [*VERBS, "decompress"])
def test_every_verb_refuses_a_network(tmp_path, verb):
    if verb == "decompress":
        VERBS["compress"](zero(), tmp_path)
        ask = lambda m, out: nelbo.codec.decompress(m, out / "x.nelbo")  # noqa: E731
    else:
        ask = VERBS[verb]
    with pytest.raises(UsageError, match=r"class UNet2DModel.*\n.*nelbo\.from_diffusers\(\(net, scheduler\)\)"):
        ask(tiny(), tmp_path)


def test_choices_reach_a_pipeline(pipeline):
    """Overrides of the verb are those of `from_diffusers`: they settle what the pipeline leaves open."""
    chosen = nelbo.Overrides(bins=17, clip=False, variance="beta")
    bound = nelbo.evaluate(pipeline, CODES, estimator="stratified", overrides=chosen)
    model = nelbo.from_diffusers(pipeline, bins=17, clip=False, variance="beta")
    assert bound.bits_per_dim == nelbo.evaluate(model, CODES, estimator="stratified").bits_per_dim
    assert bound.overrides == {"bins": 17, "clip": False, "variance": "beta"}


class Network(nn.Module):
    def forward(self, z, t):
        return z


def network(z, t):
    return z


def makes():
    return zero()


OTHERS = {
    "nothing": (lambda: None, "the model is None", "a model of nelbo"),
    "a module": (Network, "class Network", r"nelbo\.from_callable\(net, schedule=…, domain=…"),
    "a class of networks": (lambda: Network, "the class Network, not an object", r"Network\(…\).*from_callable\(net"),
    "a class of diffusers": (lambda: diffusers.UNet2DModel, "the class UNet2DModel", r"nelbo\.from_diffusers"),
    "a class of models": (lambda: nelbo.DiffusionModel, "the class DiffusionModel", r"DiffusionModel\(…\)"),
    "a function": (lambda: network, "the function network", r"nelbo\.from_callable\(network, schedule"),
    "a lambda": (lambda: lambda z, t: z, "the function <lambda>", r"nelbo\.from_callable\(function, schedule"),
    "a method": (lambda: Network().forward, "the function forward", r"nelbo\.from_callable\(forward"),
    "a partial": (lambda: functools.partial(network, t=0), "class partial", r"nelbo\.from_callable\(net"),
    "a function that makes one": (lambda: makes, "the function makes", r"makes\(\)"),
    "a pair": (lambda: (tiny(), diffusers.DDPMScheduler(5)), "UNet2DModel, DDPMScheduler", r"_diffusers\(\(network"),
    "a list": (lambda: [Network()] * 5, r"Network, Network, Network, Network, …", "one at a time"),
    "a scheduler": (lambda: diffusers.DDPMScheduler(5), "class DDPMScheduler", r"from_diffusers\(\(network, scheduler"),
    "an autoencoder": (
        lambda: diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4), "class AutoencoderKL", "bins=None",
    ),
    "a compiled network": (lambda: torch.compile(Network()), "class OptimizedModule", r"from_callable\(net\._orig_mod"),
    "replicas": (lambda: nn.DataParallel(Network()), "class DataParallel", r"from_callable\(net\.module"),
    "weights": (lambda: Network().state_dict(), "OrderedDict of 0 entries", "load_state_dict"),
    "a tensor": (lambda: CODES, "class Tensor", r"\(model, data\)"),
    "an array": (CODES.numpy, "class ndarray", r"\(model, data\)"),
    "a number": (lambda: 3, "class int", "a model of nelbo"),
    "a schedule": (lambda: nelbo.schedules.linear(5), "class Table", "a model of nelbo"),
    "the text of a network": (lambda: str(tiny()), r"a text of \d+ characters, 'UNet2DModel\(", "a model of nelbo"),
    "an address": (lambda: "https://somewhere/org/name", "is an address", "org/name"),
    "a zero byte": (lambda: "run\0", "a text of 4 characters", "a model of nelbo"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_no_model(case):
    """One error, whose text is short, names the class and gives the remedy."""
    make, match, hint = OTHERS[case]
    with pytest.raises(UsageError, match=match) as caught:
        nelbo.evaluate(make(), CODES)
    assert re.search(hint, caught.value.hint) and len(str(caught.value)) < 600


FILES = {
    "model.pt": ("weights alone", r"torch\.load\(path\)"),
    "last.ckpt": ("weights alone", r"torch\.load\(path\)"),
    "model.safetensors": ("weights alone", r"safetensors\.torch\.load_file"),
    "pipe/unet/diffusion_pytorch_model.safetensors": ("give the folder", "pipe$"),
    "pipe/model_index.json": ("give the folder", "pipe$"),
    "run/model.json": ("give the folder", "run$"),
    "mine.py": ("function in it", "mine:function"),
    "data.nelbo": ("a model of nelbo", "package"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_in_place_of_a_model(tmp_path, name):
    for file in ("pipe/model_index.json", "run/model.json", name):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("{}")
    for path in (tmp_path / name, str(tmp_path / name)):
        with pytest.raises(ModelFolderError, match=re.escape(name)) as caught:
            nelbo.evaluate(path, CODES)
        assert all(re.search(word, caught.value.hint) for word in FILES[name])


FOLDERS = {
    "two models": (("model.json", "model_index.json"), "holds two models", "of its own"),
    "folders of models": (("a/model.json", "b/model_index.json"), "there are models in a, b below it", "one of them"),
    "an unfinished run": (("checkpoints/step-1.pt",), "did not end", "resume=True"),
    "weights": (("pytorch_lora_weights.safetensors",), r"holds weights \(pytorch_lora_weights", r"from_callable\(net"),
    "nothing": ((), r"model\.json is missing", "model folder"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_is_no_model(tmp_path, case):
    files, match, hint = FOLDERS[case]
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("{}")
    with pytest.raises(ModelFolderError, match=match) as caught:
        nelbo.load(tmp_path)
    assert re.search(hint, caught.value.hint)


def test_the_home_folder(tmp_path, monkeypatch, pipeline):
    """~ is the home folder, as in a shell."""
    pipeline.save_pretrained(tmp_path / "pipe")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert nelbo.load("~/pipe").fingerprint() == nelbo.load(tmp_path / "pipe").fingerprint()


def test_a_place_in_an_object(pipeline):
    for model in (pipeline, zero()):
        with pytest.raises(UsageError, match=r"subfolder='unet' and revision=None with a \w+"):
            nelbo.load(model, subfolder="unet")


def test_no_model_is_written_into_a_pipelines_folder(tmp_path, pipeline):
    """nelbo reads model.json first: the pipeline would be there and never be read."""
    pipeline.save_pretrained(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    for write in (
        lambda out: nelbo.train(MANY, out, {"steps": 1, "bins": 256}),
        lambda out: nelbo.tighten(pipeline, MANY, steps=2, out=out),
    ):
        with pytest.raises(UsageError, match="holds a pipeline of diffusers"):
            write(tmp_path / "pipe")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_on_the_command_line(tmp_path, run_nelbo):
    torch.save(Network().state_dict(), tmp_path / "net.pt")
    shown = run_nelbo("evaluate", tmp_path / "net.pt", "--data", "digits:test")
    assert shown.returncode == 2 and "net.pt is a file" in shown.stderr and "from_callable" in shown.stderr


# ---------------------------------------------------------------- the lines of code of the remedies are right


def remade(value, **names):
    """The model that the remedy's own line makes."""
    with pytest.raises(UsageError, match=type(value).__name__) as caught:
        nelbo.load(value)
    line = LINE.search(caught.value.hint)
    assert line, caught.value.hint
    names |= {"nelbo": nelbo, "domain": nelbo.DataDomain((1, 8, 8), bins=17)}
    return eval(line[0].replace("domain=…", "domain=domain"), names)


class Small(nn.Module):
    """What denoising-diffusion-pytorch asks of a network."""

    channels, out_dim, self_condition = 1, 1, False

    def __init__(self, continuous: bool = False):
        super().__init__()
        self.random_or_learned_sinusoidal_cond = continuous
        torch.manual_seed(1)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, z, t, *_):
        return self.conv(z) * (1 + t.to(z.dtype)[:, None, None, None] / 20)


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
def test_the_line_of_denoising_diffusion_pytorch(objective):
    """x̂ of the remedy's model is the library's own, without clipping."""
    module = peer("denoising_diffusion_pytorch", "denoising_diffusion_pytorch")
    diffusion = module.GaussianDiffusion(Small(), image_size=8, timesteps=20, objective=objective)
    model = remade(diffusion, diffusion=diffusion)
    i = torch.tensor([0, 3, 15])
    z = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        theirs = diffusion.model_predictions(z, i).pred_x_start.double()
        ours = model.predict(z.double(), model.schedule.at_index(i)).x0
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert model.domain.shape == (1, 8, 8)


def test_the_line_of_elucidated_diffusion():
    module = peer("denoising_diffusion_pytorch", "elucidated_diffusion")
    diffusion = module.ElucidatedDiffusion(Small(True), image_size=8, channels=1, sigma_max=10)
    model = remade(diffusion, diffusion=diffusion)
    t = model.schedule.at(torch.tensor([0.1, 0.6]))
    z = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        theirs = diffusion.preconditioned_network_forward(z, t.sigma.float()).double()
        torch.testing.assert_close(model.predict(z.double(), t).x0, theirs, rtol=1e-4, atol=1e-4)


def test_the_line_of_guided_diffusion():
    """An object that holds the table, and what the network predicts as members of enums; the network is elsewhere."""
    diffusion = types.SimpleNamespace(
        betas=np.linspace(0.01, 0.2, 20),
        model_mean_type=types.SimpleNamespace(name="START_X"),
        model_var_type=types.SimpleNamespace(name="FIXED_LARGE"),
    )
    with pytest.raises(UsageError) as caught:
        nelbo.load(diffusion)
    for words in ("from_callable(net, predicts='x0', variance='beta'", "from_betas(diffusion.betas)"):
        assert words in caught.value.hint


def test_the_lines_of_k_diffusion():
    layers, external = peer("k_diffusion", "layers"), peer("k_diffusion", "external")
    denoiser = layers.Denoiser(Small(), sigma_data=0.5)
    model = remade(denoiser, denoiser=denoiser, sigma_min=0.01, sigma_max=10.0)
    t, z = model.schedule.at(torch.tensor([0.1, 0.6])), torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        theirs = denoiser(z, t.sigma.float()).double()
        torch.testing.assert_close(model.predict(z.double(), t).x0, theirs, rtol=1e-4, atol=1e-4)
    betas = torch.linspace(0.01, 0.2, 20).double()
    for cls in (external.DiscreteEpsDDPMDenoiser, external.DiscreteVDDPMDenoiser):
        wrapper = cls(Small(), torch.cumprod(1 - betas, 0), quantize=True)
        model = remade(wrapper, wrapper=wrapper, betas=betas)
        i = torch.tensor([2, 11])
        t, y = model.schedule.at_index(i), torch.randn(2, 1, 8, 8)
        with torch.no_grad():
            theirs = wrapper(y, wrapper.sigmas[i].float()).double()
            ours = model.predict(t.alpha[:, None, None, None] * y.double(), t).x0
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
