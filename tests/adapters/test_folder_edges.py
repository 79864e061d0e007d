"""What may stand in a folder of diffusers besides weights: each is read where it has one meaning, else named."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import nelbo
from nelbo.bound.checks import NelboWarning
from nelbo.errors import ModelFolderError, NelboError, UnknownNameError, UsageError
from tests.adapters.pipelines import tiny
from tests.expected import early_end, untrained

pytestmark = [untrained, early_end]

diffusers = pytest.importorskip("diffusers")
CODES = torch.randint(0, 17, (3, 1, 8, 8), generator=torch.Generator().manual_seed(5))
SCHEDULER, UNET, PIPELINE = "scheduler/scheduler_config.json", "unet/config.json", "model_index.json"


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return tiny().eval()


@pytest.fixture
def saved(tmp_path, net):
    diffusers.DDPMPipeline(net, diffusers.DDPMScheduler(20)).save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


def read(folder: Path) -> nelbo.DiffusionModel:
    return nelbo.from_diffusers(folder, bins=17)


def edit(folder: Path, file: str, changes: dict[str, Any], without: tuple[str, ...] = ()) -> None:
    table = {**json.loads((folder / file).read_text()), **changes}
    (folder / file).write_text(json.dumps({k: v for k, v in table.items() if k not in without}))


# ---------------------------------------------------------------- numbers as text, keys that are missing or misspelt


TEXTS = {
    "a number": {"beta_start": "1e-4", "beta_end": "0.02"},
    "a count": {"num_train_timesteps": "20"},
    "a count with a point": {"num_train_timesteps": 20.0},
    "a truth": {"clip_sample": "True", "thresholding": "false"},
    "a table": {"trained_betas": [str(beta) for beta in torch.linspace(1e-4, 0.02, 20).double().tolist()]},
}


@pytest.mark.parametrize("case", TEXTS)
def test_texts_for_numbers(saved, case):
    """YAML reads 1e-4 as a text; the text "false" is true in Python."""
    numbers = {"trained_betas": torch.linspace(1e-4, 0.02, 20).double().tolist()} if case == "a table" else {}
    edit(saved, SCHEDULER, numbers)
    expected = read(saved)
    edit(saved, SCHEDULER, TEXTS[case])
    assert read(saved).fingerprint() == expected.fingerprint()
    assert (read(saved).reverse.clip is None) == (expected.reverse.clip is None) is False


def test_texts_for_numbers_of_a_network(saved):
    expected = read(saved)
    edit(saved, UNET, {"in_channels": "1", "norm_eps": "1e-05", "layers_per_block": 1.0, "add_attention": "false"})
    assert read(saved).fingerprint() == expected.fingerprint()


BAD = {
    "a word": ({"beta_start": "small"}, "beta_start = 'small'"),
    "a word for a truth": ({"clip_sample": "maybe"}, "clip_sample = 'maybe'"),
    "half a step": ({"num_train_timesteps": "20.5"}, r"num_train_timesteps = 20\.5"),
    "no steps": ({"num_train_timesteps": 0}, "num_train_timesteps = 0"),
    "null steps": ({"num_train_timesteps": None}, "num_train_timesteps = None"),
    "a word in a table": ({"trained_betas": [0.1, "x"]}, "trained_betas = 'x'"),
    "an unknown class": ({"_class_name": "MyScheduler"}, "unknown scheduler 'MyScheduler'"),
    "a distilled one": ({"_class_name": "LCMScheduler"}, "distilled"),
    "no class": ({"_class_name": None}, "names no scheduler"),
    "an unknown prediction": ({"prediction_type": "noise"}, "unknown prediction_type"),
    "an unknown variance": ({"variance_type": "fixed"}, "unknown variance_type"),
    "a variance that the network does not predict": ({"variance_type": "learned_range"}, "predicts no variance"),
    "an unknown table": ({"beta_schedule": "quadratic"}, "unknown beta_schedule"),
    "a β above 1": ({"beta_end": "2"}, "beta"),
}


@pytest.mark.parametrize("case", BAD)
def test_values_that_mean_nothing(saved, case):
    changes, match = BAD[case]
    edit(saved, SCHEDULER, changes)
    edit(saved, PIPELINE, {}, ("scheduler",))
    with pytest.raises(NelboError, match=match) as caught:
        read(saved)
    assert caught.value.hint


def test_a_misspelt_key_is_refused(saved):
    """diffusers ignores it and takes the default: 1000 steps for 20, in silence."""
    edit(saved, SCHEDULER, {"num_train_timestep": 20}, ("num_train_timesteps",))
    with pytest.raises(
        UsageError, match="'num_train_timestep', which its class does not know, and no 'num_train_timesteps'"
    ):
        read(saved)
    edit(saved, SCHEDULER, {"diffusion_steps": 20}, ("num_train_timestep",))
    with pytest.raises(
        UsageError, match="'diffusion_steps', which its class does not know, and no 'num_train_timesteps'"
    ):
        read(saved)


MISSING = {
    "num_train_timesteps": "1000",
    "beta_end": "0.02",
    "beta_schedule": "'linear'",
    "prediction_type": "'epsilon'",
}


@pytest.mark.parametrize("key", MISSING)
def test_a_default_is_named(saved, key):
    edit(saved, SCHEDULER, {}, (key,))
    with pytest.warns(NelboWarning, match=f"does not give {key}: the default of its class, {MISSING[key]}, is taken"):
        model = read(saved)
    assert model.steps == (1000 if key == "num_train_timesteps" else 20)


def test_old_versions_are_read_without_a_word(saved, recwarn):
    """Their schedulers have no prediction_type, and a table by name or by values has no ends."""
    edit(saved, SCHEDULER, {"_diffusers_version": "0.1.1", "tensor_format": "pt"}, ("prediction_type",))
    read(saved)
    edit(saved, SCHEDULER, {"beta_schedule": "squaredcos_cap_v2"}, ("beta_start", "beta_end"))
    read(saved)
    edit(saved, SCHEDULER, {"_diffusers_version": "0.10.2", "predict_epsilon": False})
    assert read(saved).denoiser.output.value == "x0"
    assert not [w for w in recwarn if issubclass(w.category, NelboWarning)]


# ---------------------------------------------------------------- which parts there are


def test_the_class_of_the_pipeline(saved):
    """model_index.json and the parts' own files name classes: other names of one chain are one, else both are named."""
    expected = read(saved)
    edit(saved, PIPELINE, {"scheduler": ["diffusers", "DDIMScheduler"], "_class_name": "MyPipeline"})
    assert read(saved).fingerprint() == expected.fingerprint()
    for other in ("FlowMatchEulerDiscreteScheduler", "MyScheduler"):
        edit(saved, PIPELINE, {"scheduler": ["diffusers", other]})
        with pytest.raises(UsageError, match=f"names the scheduler {other}, and .* is of a DDPMScheduler"):
            read(saved)
    edit(saved, PIPELINE, {"scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DConditionModel"]})
    with pytest.raises(ModelFolderError, match=r"names the network UNet2DConditionModel.*is of a UNet2DModel"):
        read(saved)


def test_a_network_of_another_name(saved):
    """Of a class that is known: read. Two networks: nobody wrote which of them is asked at a level."""
    expected = read(saved)
    shutil.move(saved / "unet", saved / "denoiser")
    edit(saved, PIPELINE, {"denoiser": ["diffusers", "UNet2DModel"]}, ("unet",))
    assert read(saved).fingerprint() == expected.fingerprint()
    for name, cls in (("refiner", "UNet2DModel"), ("controlnet", "ControlNetModel"), ("unet", "UNet2DModel")):
        edit(saved, PIPELINE, {name: ["diffusers", cls]})
        with pytest.raises(UsageError, match=f"several networks, denoiser and {name}"):
            read(saved)
        edit(saved, PIPELINE, {}, (name,))


def test_two_networks_of_an_object(net):
    pipe = diffusers.DDPMPipeline(net, diffusers.DDPMScheduler(20))
    pipe.register_modules(refiner=tiny())
    with pytest.raises(UsageError, match="the DDPMPipeline has several networks, unet and refiner"):
        nelbo.from_diffusers(pipe)


def test_an_autoencoder_of_another_name(saved):
    edit(saved, PIPELINE, {"first_stage": ["diffusers", "AutoencoderKL"]})
    with pytest.raises(ModelFolderError, match=r"first_stage/config.json is missing"):
        read(saved)
    edit(saved, PIPELINE, {"first_stage": [None, None]})
    assert read(saved).steps == 20


def test_averaged_weights_are_named(saved):
    """Training scripts write unet_ema next to unet; which of the two is evaluated is said."""
    torch.manual_seed(1)
    tiny().save_pretrained(saved / "unet_ema")
    (saved / "schema").mkdir()
    with pytest.warns(NelboWarning, match=r"also holds averaged weights \(unet_ema\), which are not evaluated"):
        model = read(saved)
    shutil.rmtree(saved / "unet_ema")
    assert read(saved).fingerprint() == model.fingerprint()
    shutil.move(saved / "unet", saved / "ema_model")
    edit(saved, PIPELINE, {}, ("unet",))
    with pytest.raises(ModelFolderError, match=r"averaged weights \(ema_model\) and has no network"):
        read(saved)


def test_a_part_alone(saved, tmp_path):
    """A network, a scheduler or an autoencoder alone: the folder that is meant, or what goes with it."""
    for part in ("unet", "scheduler"):
        with pytest.raises(ModelFolderError, match="no network") as caught:
            nelbo.load(saved / part)
        assert caught.value.hint == f"give the folder of its pipeline: {saved}"
    diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).save_pretrained(tmp_path / "vae")
    with pytest.raises(ModelFolderError, match="is a AutoencoderKL alone") as caught:
        nelbo.load(tmp_path / "vae")
    assert "bins=None" in caught.value.hint


def test_a_learned_time_of_another_length():
    """An embedding of 10 times under a table of 20 steps: one of them is not of this model."""
    net = tiny(time_embedding_type="learned", num_train_timesteps=10)
    with pytest.raises(UsageError, match=r"embeds 10 times.*20 steps"):
        nelbo.from_diffusers((net, diffusers.DDPMScheduler(20)))
    assert nelbo.from_diffusers((net, diffusers.DDPMScheduler(10))).steps == 10


def test_keys_of_a_network(saved):
    """A misspelt key is refused, since its default would be another function; one of no near name says nothing."""
    expected = read(saved)
    edit(saved, UNET, {"trained_by": "me"})
    assert read(saved).fingerprint() == expected.fingerprint()
    edit(saved, UNET, {"norm_epsilon": 1e-3}, ("norm_eps",))
    with pytest.raises(UsageError, match="'norm_epsilon', which its class does not know, and no 'norm_eps'"):
        read(saved)


# ---------------------------------------------------------------- networks of other classes


def test_signals(tmp_path):
    """UNet1DModel: examples (C, N); the network is asked as it stands, and a folder of nelbo keeps it."""
    from nelbo.model.folder import save

    torch.manual_seed(0)
    net = diffusers.UNet1DModel(
        sample_size=16, in_channels=2, out_channels=2, block_out_channels=(8, 8), time_embedding_type="positional",
        down_block_types=("DownResnetBlock1D",) * 2, up_block_types=("UpResnetBlock1D",), act_fn="mish",
        mid_block_type="MidResTemporalBlock1D", out_block_type="OutConv1DBlock", use_timestep_embedding=True,
    ).eval()  # fmt: skip
    model = nelbo.from_diffusers((net, diffusers.DDPMScheduler(10, clip_sample=False)), bins=17)
    assert model.domain.shape == (2, 16)
    i, z = torch.tensor([2, 7]), torch.randn(2, 2, 16)
    t = model.schedule.at_index(i)
    with torch.no_grad():
        eps = net(z, i).sample.double()
        x0 = (z.double() - t.sigma[:, None, None] * eps) / t.alpha[:, None, None]
        torch.testing.assert_close(model.predict(z.double(), t).x0, x0, rtol=1e-5, atol=1e-5)
    codes = torch.randint(0, 17, (3, 2, 16))
    nelbo.testing.check_model(model, codes, relative=1e-3)
    save(model, tmp_path / "signals")
    assert nelbo.load(tmp_path / "signals").fingerprint() == model.fingerprint()


def test_dit_of_an_old_version(tmp_path):
    """facebook/DiT-XL-2-256 calls its network Transformer2DModel, of which diffusers makes a DiTTransformer2DModel."""
    torch.manual_seed(0)
    small = {
        "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 1, "out_channels": 2, "num_layers": 1,
        "sample_size": 8, "num_embeds_ada_norm": 3, "norm_num_groups": 1, "norm_type": "ada_norm_zero",
    }  # fmt: skip
    dit = diffusers.DiTTransformer2DModel(**small)
    dit.save_pretrained(tmp_path / "transformer")
    diffusers.DDIMScheduler(10).save_pretrained(tmp_path / "scheduler")
    old = {"_class_name": "Transformer2DModel", "cross_attention_dim": None, "num_vector_embeds": None}
    edit(tmp_path, "transformer/config.json", {**small, **old, "only_cross_attention": False})
    expected = nelbo.from_diffusers((dit.eval(), diffusers.DDIMScheduler(10)), bins=17)
    assert read(tmp_path).fingerprint() == expected.fingerprint()


def wrapped_networks(folder: Path, cls: str) -> str:
    """The remedy for a folder whose network is of a class that is not read."""
    (folder / "transformer").mkdir()
    (folder / "transformer" / "config.json").write_text(json.dumps({"_class_name": cls}))
    diffusers.FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(UsageError, match=f"the network {cls} in .* is none of") as caught:
        nelbo.load(folder)
    return caught.value.hint


def test_flux(tmp_path):
    """Its input is packed: the remedy names what its forward takes besides."""
    hint = wrapped_networks(tmp_path, "FluxTransformer2DModel")
    for word in ("packs", "timestep=t", "pooled_projections", "img_ids", "txt_ids", "guidance", "schedules.flow()"):
        assert word in hint


def test_a_transformer_of_flow_matching():
    """A small SD3Transformer2DModel with its scheduler gives x̂ = z − τ û, and is told 1000 τ."""
    torch.manual_seed(0)
    net = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=1, out_channels=1, num_layers=1, attention_head_dim=4,
        num_attention_heads=2, joint_attention_dim=6, caption_projection_dim=8, pooled_projection_dim=5,
        pos_embed_max_size=8,
    ).eval()  # fmt: skip
    model = nelbo.from_diffusers((net, diffusers.FlowMatchEulerDiscreteScheduler()), bins=17)
    given = {"encoder_hidden_states": torch.randn(2, 3, 6), "pooled_projections": torch.randn(2, 5)}
    t, z = model.schedule.at(torch.tensor([0.2, 0.7])), torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        u = net(z, given["encoder_hidden_states"], given["pooled_projections"], (1000 * t.time).float()).sample
        x0 = z.double() - t.time[:, None, None, None] * u.double()
        found = model.predict(z, t, given).x0
    torch.testing.assert_close(found.double(), x0, rtol=1e-4, atol=1e-4)


OTHERS = ("PixArtTransformer2DModel", "UNet3DConditionModel", "HunyuanDiT2DModel", "Transformer2DModel", "MyUNet")


@pytest.mark.parametrize("cls", OTHERS)
def test_other_networks_say_what_to_pass(tmp_path, cls):
    hint = wrapped_networks(tmp_path, cls)
    assert "nelbo.from_callable(lambda z, t" in hint
    if hasattr(diffusers, cls):
        names = list(inspect.signature(getattr(diffusers, cls).forward).parameters)[1:]
        assert all(name in hint for name in names if name != "return_dict")


def test_quantised(saved):
    edit(saved, UNET, {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}})
    with pytest.raises(UsageError, match="quantised"):
        read(saved)


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "compiled": torch.compile,
    "replicas": torch.nn.DataParallel,
    "compiled replicas": lambda net: torch.nn.DataParallel(torch.compile(net)),
}


@pytest.mark.parametrize("case", WRAPPERS)
def test_wrapped_objects(net, case):
    """The network inside is the model, also within a pipeline."""
    scheduler = diffusers.DDPMScheduler(20)
    expected = nelbo.from_diffusers((net, scheduler), bins=17).fingerprint()
    assert nelbo.from_diffusers((WRAPPERS[case](net), scheduler), bins=17).fingerprint() == expected


def test_names_are_listed():
    with pytest.raises(UnknownNameError, match="DDPMScheduler"):
        nelbo.from_diffusers((tiny(), type("DDPMSheduler", (), {"config": {}})()))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory")
@pytest.mark.parametrize("change", [{"block_out_channels": [8192]}, {"layers_per_block": 10**6}])
def test_a_network_is_built_only_if_it_has_the_size_of_its_weights(saved, change):
    """The configuration of a small folder asks for 2 GB, or for a million layers."""

    def peak() -> int:
        return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])

    path = saved / UNET
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    before = peak()
    with pytest.raises(ModelFolderError, match=r"other shapes|asks for layers_per_block"):
        nelbo.load(saved)
    assert peak() - before < 300 << 10
