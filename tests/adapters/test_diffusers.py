"""Every family of schedulers and networks of diffusers as a chain, and the reasons for what is none."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch

import nelbo
from nelbo.adapters.diffusers import folder, is_folder, is_hub_id
from nelbo.adapters.diffusers.scheduler import EDM, FLOW, REFUSED, SCORE, TABLE, chain
from nelbo.errors import ModelFolderError, NelboError, UnknownNameError, UsageError
from nelbo.process.levels import column
from tests.adapters.pipelines import unet
from tests.expected import arrays, early_end, untrained

pytestmark = [arrays, untrained, early_end]

diffusers = pytest.importorskip("diffusers")
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
CODES = torch.randint(0, 17, (3, 1, 8, 8), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return unet().eval()


@pytest.fixture
def saved(tmp_path, net):
    diffusers.DDPMPipeline(net, diffusers.DDPMScheduler(20)).save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


def bits(model, codes=CODES, **options) -> float:
    return nelbo.evaluate(model, codes, estimator="stratified", **options).bits_per_dim


# ---------------------------------------------------------------- families


def test_schedulers_of_one_table_are_one_model(net):
    """Whatever solver samples from it, the trained chain is the same: one bound, but for DDPM's and DDIM's clipping."""
    table = {"num_train_timesteps": 20, "beta_start": 0.001, "beta_end": 0.2}
    seen = {}
    for name in TABLE:
        if name == "UnCLIPScheduler":
            continue  # one table of its own
        scheduler = getattr(diffusers, name)(**table)
        model = nelbo.from_diffusers((net, scheduler), bins=17, clip=False)
        seen[name] = model.fingerprint()
        clips = nelbo.from_diffusers((net, scheduler), bins=17).reverse.clip is not None
        assert clips == name.startswith(("DDPM", "DDIM", "RePaint")), name
    assert len(set(seen.values())) == 1, seen


def test_every_known_scheduler_exists():
    known = {n for n in dir(diffusers) if n.endswith("Scheduler")}
    assert {*TABLE, *FLOW, *EDM, *SCORE} <= known
    assert {"LCMScheduler", "CMStochasticIterativeScheduler"} <= set(REFUSED) & known


def test_sampling_options_change_nothing(net):
    """Spacing, offsets, final α, solver order and σ spacings say how to sample, not which chain was trained."""
    plain = nelbo.from_diffusers((net, diffusers.DDIMScheduler(20))).fingerprint()
    for options in ({"timestep_spacing": "trailing"}, {"steps_offset": 1}, {"set_alpha_to_one": False}):
        assert nelbo.from_diffusers((net, diffusers.DDIMScheduler(20, **options))).fingerprint() == plain
    plain = nelbo.from_diffusers((net, diffusers.EulerDiscreteScheduler(20))).fingerprint()
    karras = diffusers.EulerDiscreteScheduler(20, use_karras_sigmas=True)
    assert nelbo.from_diffusers((net, karras)).fingerprint() == plain


@pytest.mark.parametrize("name", FLOW)
def test_flow(net, name):
    """x̂ = z − τ û with the network told T τ; shift moves the first level only; the continuous bound by default."""
    model = nelbo.from_diffusers((net, getattr(diffusers, name)(100, shift=2.0)), bins=17)
    assert model.grid.continuous and model.schedule.t_min == pytest.approx(0.02 / 1.01)
    assert float(model.schedule.logsnr(torch.tensor(1.0))) == pytest.approx(-24 * math.log(2))
    t = model.schedule.at(torch.tensor([0.2, 0.5, 0.9]))
    z = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        out = net(z.float(), (100 * t.time).float()).sample.double()
        torch.testing.assert_close(model.predict(z, t).x0, z - column(t.time, z) * out, rtol=1e-5, atol=1e-5)
    assert 0 < bits(model) < 100


def test_flow_through_another_solver(net):
    """use_flow_sigmas is the same law as FlowMatchEuler's with the same shift."""
    solver = diffusers.UniPCMultistepScheduler(
        100, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=2.0
    )
    plain = nelbo.from_diffusers((net, diffusers.FlowMatchEulerDiscreteScheduler(100, shift=2.0)))
    assert nelbo.from_diffusers((net, solver)).fingerprint() == plain.fingerprint()


@pytest.mark.parametrize("name", EDM)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_edm(net, name, prediction):
    """The scheduler's own preconditioning of the same network gives the same x̂; the sampler's start is the prior."""
    scheduler = getattr(diffusers, name)(sigma_schedule="exponential", prediction_type=prediction)
    model = nelbo.from_diffusers((net, scheduler), bins=17)
    t = model.schedule.at(torch.tensor([0.1, 0.5, 1.0]))
    z = torch.randn(3, 1, 8, 8, dtype=torch.float64) * column(t.sigma, torch.empty(3, 1, 1, 1))
    sigma = column(t.sigma, z)
    with torch.no_grad():
        shown = scheduler.precondition_inputs(z, sigma).float()
        out = net(shown, scheduler.precondition_noise(t.sigma).float()).sample.double()
        expected = scheduler.precondition_outputs(z, out, sigma)
        torch.testing.assert_close(model.predict(z, t).x0, expected, rtol=1e-5, atol=1e-5)
    ends = torch.tensor([scheduler.sigmas[-2], scheduler.sigmas[0]]).double()
    torch.testing.assert_close(model.schedule.at(torch.tensor([0.0, 1.0])).sigma, ends, rtol=1e-6, atol=0)
    assert model.prior.variance == pytest.approx(float(scheduler.init_noise_sigma) ** 2)
    assert 0 < bits(model) < 200


def test_euler_told_log_sigma(net):
    """timestep_type="continuous" with v_prediction: EDM with sigma_data = 1, between the ends of its table."""
    scheduler = diffusers.EulerDiscreteScheduler(100, timestep_type="continuous", prediction_type="v_prediction")
    model = nelbo.from_diffusers((net, scheduler), bins=17)
    ends = torch.tensor([scheduler.sigmas[-2], scheduler.sigmas[0]]).double()
    torch.testing.assert_close(model.levels().sigma, ends, rtol=1e-3, atol=0)
    z, log_sigma = 3.0 * torch.randn(1, 1, 8, 8, dtype=torch.float64), torch.tensor([3.0]).double().log()
    t = model.schedule.at(model.schedule.time_of(-2 * log_sigma))
    with torch.no_grad():
        out = net((z / 10**0.5).float(), 0.25 * log_sigma.float()).sample.double()
    torch.testing.assert_close(model.predict(z, t).x0.detach(), z / 10 - 3 / 10**0.5 * out, rtol=1e-4, atol=1e-4)


def test_score(net):
    """NCSN++: score at σ, images in [0, 1], σ geometric."""
    scheduler = diffusers.ScoreSdeVeScheduler(2000, sigma_max=50.0)
    model = nelbo.from_diffusers((net, scheduler), bins=17)
    assert (model.domain.low, model.domain.high) == (0.0, 1.0)
    scheduler.set_sigmas(1000)
    levels = nelbo.grids.even(999).levels(model.schedule, False)
    torch.testing.assert_close(levels.sigma.float(), scheduler.discrete_sigmas, rtol=1e-4, atol=0)
    assert bits(model) > 0


def test_zero_terminal_snr(net):
    """The bound has a limit as ᾱ_T → 0, and ours is it: 2^-64 and 2^-40 differ by nothing that float32 would see."""
    from nelbo.process.schedule import Table

    scheduler = diffusers.DDIMScheduler(
        20, beta_end=0.3, rescale_betas_zero_snr=True, prediction_type="v_prediction", clip_sample=False
    )
    model = nelbo.from_diffusers((net, scheduler), bins=17)
    assert float(model.schedule.table[-1]) == pytest.approx(-64 * 0.6931471805599453)
    table = model.schedule.table.clone()
    table[-1] = -40 * 0.6931471805599453
    other = nelbo.DiffusionModel(**{**vars(model), "schedule": Table(table)})
    a, b = (nelbo.evaluate(m, CODES, estimator="exhaustive") for m in (model, other))
    assert a.bits_per_dim == pytest.approx(b.bits_per_dim, rel=1e-6) and a.terms.prior.bits_per_dim < 1e-15
    with pytest.raises(UsageError, match="epsilon"):
        nelbo.from_diffusers((net, diffusers.DDIMScheduler(20, rescale_betas_zero_snr=True)))


def test_learned_is_a_plain_variance():
    """variance_type "learned" is the variance itself in diffusers (its step takes the root), not its logarithm."""
    net = unet(out_channels=2)
    with torch.no_grad():
        net.conv_out.bias[1] = 0.3
        net.conv_out.weight[1] = 0
    model = nelbo.from_diffusers((net, diffusers.DDPMScheduler(20, variance_type="learned")), bins=17)
    z = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    s, t = (model.levels()[i].expand(2) for i in (4, 5))
    with torch.no_grad():
        _, v = model.reverse.step(z, model.predict(z, t), s, t)
    torch.testing.assert_close(v, torch.full_like(v, 0.3), rtol=1e-6, atol=0)


# ---------------------------------------------------------------- networks and choices


@pytest.mark.parametrize("kind", ["table", "learned", "flow", "edm", "score", "labels"])
def test_laws_of_models(kind):
    """`nelbo.testing.check_model`: each example alone, at its own level, with its own condition."""
    torch.manual_seed(0)
    net = unet(out_channels=2 if kind == "learned" else 1, num_class_embeds=17 if kind == "labels" else None).eval()
    scheduler = {
        "learned": diffusers.DDPMScheduler(20, variance_type="learned_range"),
        "flow": diffusers.FlowMatchEulerDiscreteScheduler(100),
        "edm": diffusers.EDMEulerScheduler(),
        "score": diffusers.ScoreSdeVeScheduler(sigma_max=50.0),
    }.get(kind, diffusers.DDPMScheduler(20))
    model = nelbo.from_diffusers((net, scheduler), bins=17)
    labels = {"class_labels": torch.arange(3)} if kind == "labels" else None
    nelbo.testing.check_model(model, CODES, labels, relative=1e-3)


def test_class_labels():
    """Labels go in as a condition, one an example; without them the error says which condition is missing."""
    torch.manual_seed(0)
    net = unet(num_class_embeds=4).eval()
    model = nelbo.from_diffusers((net, diffusers.DDPMScheduler(10)), bins=17)
    labels = [torch.full((3,), k) for k in (0, 1)]
    a, b = (bits(model, condition={"class_labels": k}) for k in labels)
    assert a != b
    with pytest.raises(UsageError, match="class_labels"):
        bits(model)
    with pytest.raises(UsageError, match="index"):
        bits(model, condition={"class_labels": torch.full((3,), 9)})


def test_other_networks(tmp_path):
    """DiT with its learned range, a text-conditional U-Net with its states; and both through nelbo's own folder."""
    from nelbo.model.folder import save

    torch.manual_seed(0)
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, out_channels=2, num_layers=1, sample_size=8,
        num_embeds_ada_norm=3, norm_num_groups=1,
    )  # fmt: skip
    text = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=6, attention_head_dim=2,
    )  # fmt: skip
    for net, condition in (
        (dit, {"class_labels": torch.tensor([0, 1, 2])}),
        (text, {"encoder_hidden_states": torch.randn(3, 4, 6)}),
    ):
        model = nelbo.from_diffusers((net.eval(), diffusers.DDIMScheduler(10)), bins=17)
        assert model.reverse.variance.kind == ("learned_range" if net is dit else "beta_tilde")
        found = bits(model, condition=condition)
        save(model, tmp_path / type(net).__name__)
        back = nelbo.load(tmp_path / type(net).__name__)
        assert back.fingerprint() == model.fingerprint() and bits(back, condition=condition) == found


def test_choices(net):
    """variance, decoder, bins, range and clip of the user stand over the configuration's."""
    pair = (net, diffusers.DDPMScheduler(20))
    model = nelbo.from_diffusers(pair, variance="beta", decoder="categorical", bins=5, range=(0.0, 1.0), clip=(-2, 2))
    assert model.reverse.variance.kind == "beta" and model.decoder.kind == "categorical"
    assert (model.domain.bins, model.domain.low, model.domain.high) == (5, 0.0, 1.0)
    assert (model.reverse.clip.low, model.reverse.clip.high) == (-2.0, 2.0)
    assert nelbo.from_diffusers(pair, bins=None).decoder.kind == "continuous_gaussian"
    twice = (unet(out_channels=2), diffusers.DDPMScheduler(20))
    assert nelbo.from_diffusers(twice, variance="beta").reverse.variance.kind == "beta"
    assert 0 < bits(nelbo.from_diffusers(twice, variance="beta", bins=17)) < 2000


def test_thresholding_stays(net):
    scheduler = diffusers.DDPMScheduler(20, thresholding=True, sample_max_value=2.0)
    model = nelbo.from_diffusers((net, scheduler), bins=17)
    assert model.reverse.clip.kind == "threshold"
    bound = nelbo.evaluate(model, CODES, estimator="stratified")
    assert "thresholded at its 0.995 quantile" in str(bound)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("scheduler", "options", "match"),
    [
        ("LCMScheduler", {}, "distilled"),
        ("CMStochasticIterativeScheduler", {}, "distilled"),
        ("VQDiffusionScheduler", {"num_vec_classes": 4}, "no network over codes"),
        ("CosineDPMSolverMultistepScheduler", {}, "unknown scheduler"),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "invert_sigmas"),
        ("DDPMScheduler", {"variance_type": "learned_range"}, "predicts no variance"),
        ("DDPMScheduler", {"prediction_type": "flow"}, "unknown prediction_type"),
        ("DDPMScheduler", {"trained_betas": [0.1, 0.2]}, "2 trained_betas"),
    ],
)
def test_refused_schedulers(net, scheduler, options, match):
    with pytest.raises(NelboError, match=match):
        nelbo.from_diffusers((net, getattr(diffusers, scheduler)(**options)))


def test_refused_networks(net):
    scheduler = diffusers.DDPMScheduler(20)
    refusals = {
        "a variance": (unet(out_channels=2), {}),
        "takes 5 channels and returns 1": (unet(5, 1), {}),
        "latents": (unet(4), {}),
        "sample_size": (unet(size=None), {}),
        "AutoencoderKL": (diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4), {}),
    }
    for match, (other, options) in refusals.items():
        with pytest.raises(UsageError, match=match):
            nelbo.from_diffusers((other, scheduler), **options)
    for nothing in (net, 3, (net, 3), None):
        with pytest.raises(UsageError, match="given a"):
            nelbo.from_diffusers(nothing)
    assert nelbo.from_diffusers((unet(4), scheduler), bins=None).domain.shape == (4, 8, 8)
    assert nelbo.from_diffusers((unet(size=None), scheduler), shape=(1, 8, 8)).domain.shape == (1, 8, 8)


def test_latent_pipelines(tmp_path):
    """A pipeline with a VAE is refused, by name; its latents are scored where the user declares them as such."""
    vae = diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4, num_vq_embeddings=4, latent_channels=3)
    pipe = diffusers.LDMPipeline(vae, unet(3), diffusers.DDIMScheduler(10, clip_sample=False))
    pipe.save_pretrained(tmp_path / "ldm")
    for source in (pipe, tmp_path / "ldm"):
        with pytest.raises(UsageError, match=r"LDMPipeline is a latent model.*vqvae") as told:
            nelbo.from_diffusers(source)
        assert "bins=None" in told.value.hint
        model = nelbo.from_diffusers(source, bins=None)
        assert model.decoder.kind == "continuous_gaussian"
        assert bits(model, torch.randn(2, 3, 8, 8)) < 100
        with pytest.raises(UsageError, match="discretized_gaussian"):  # facebookresearch/DiT#52
            nelbo.from_diffusers(source, bins=None, decoder="discretized_gaussian")


# ---------------------------------------------------------------- folders


def test_what_is_a_folder(saved, tmp_path):
    assert is_folder(saved) and is_folder(saved / "unet") and not is_folder(tmp_path)
    with pytest.raises(ModelFolderError, match="no network named unet"):
        nelbo.load(saved / "unet")
    (tmp_path / "bare").mkdir()
    shutil.copytree(saved / "unet", tmp_path / "bare" / "unet")
    shutil.copytree(saved / "scheduler", tmp_path / "bare" / "scheduler")
    assert nelbo.load(tmp_path / "bare").fingerprint() == nelbo.load(saved).fingerprint()
    assert nelbo.load(tmp_path, subfolder="bare").fingerprint() == nelbo.load(saved).fingerprint()


@pytest.mark.parametrize(
    ("file", "change", "match"),
    [
        (
            "unet/diffusion_pytorch_model.safetensors",
            lambda p: p.write_bytes(p.read_bytes()[:5000]),
            "cannot be loaded",
        ),
        ("unet/diffusion_pytorch_model.safetensors", lambda p: p.unlink(), "cannot be loaded"),
        ("unet/config.json", lambda p: p.write_text("{"), "JSON"),
        ("unet/config.json", lambda p: p.unlink(), "missing"),
        ("scheduler/scheduler_config.json", lambda p: p.unlink(), "missing"),
        ("scheduler/scheduler_config.json", lambda p: p.write_text("[1]"), "not a table"),
        ("scheduler/scheduler_config.json", lambda p: p.write_text("{}"), "names no scheduler"),
    ],
)
def test_damaged_folders(saved, file, change, match):
    change(saved / file)
    with pytest.raises(ModelFolderError, match=match):
        nelbo.load(saved)


def test_weights_must_all_be_there(saved):
    """diffusers fills what is missing with random numbers and a log line; here it is an error."""
    from safetensors.torch import load_file, save_file

    path = saved / WEIGHTS
    tensors = load_file(path)
    tensors.pop("conv_out.bias")
    save_file(tensors, path)
    with pytest.raises(ModelFolderError, match=r"missing keys.*conv_out\.bias"):
        nelbo.load(saved)


def test_foreign_code_is_not_run(saved):
    config = saved / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": "MyUNet"}))
    with pytest.raises(UsageError, match="MyUNet"):
        nelbo.load(saved)


# ---------------------------------------------------------------- the hub


def test_hub_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        is_hub_id("google/ddpm-cifar10-32") and not is_hub_id("a/b/c") and not is_hub_id("../b") and not is_hub_id("b")
    )
    (tmp_path / "runs").mkdir()
    assert not is_hub_id("runs/digits")
    with pytest.raises(ModelFolderError, match="no model folder"):
        nelbo.load("runs/digits")


@pytest.mark.slow
def test_hub_offline(tmp_path, saved, run_nelbo):
    """Without a connection: one clear sentence; and the hub's cache is used where it has the model."""
    cache = tmp_path / "cache"
    env = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    np.save(tmp_path / "data.npy", CODES.numpy().astype(np.uint8))
    data = tmp_path / "data.npy"
    arguments = (
        "evaluate",
        "someone/something",
        "--data",
        data,
        "--json",
        "--bins",
        "17",
        "--no-clip",
        "--tolerance",
        "0.5",
    )
    told = run_nelbo(*arguments, env=env)
    assert told.returncode == 2 and len(told.stderr.strip().splitlines()) == 2
    assert (
        told.stderr.startswith("error: there is no folder someone/something, and the model") and "hint:" in told.stderr
    )
    home = cache / "models--someone--something"
    shutil.copytree(saved, home / "snapshots" / ("a" * 40))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("a" * 40)
    done = run_nelbo(*arguments, env=env)
    assert done.returncode == 0, done.stderr
    found, model = json.loads(done.stdout), nelbo.from_diffusers(saved, bins=17, clip=False)
    assert found["bits_per_dim"] == pytest.approx(nelbo.evaluate(model, CODES, tolerance=0.5).bits_per_dim, rel=1e-6)
    assert found["overrides"] == {"bins": 17, "clip": False} and found["model"]["fingerprint"] == model.fingerprint()
    assert folder.weights_of(home / "snapshots" / ("a" * 40)) == ("unet/diffusion_pytorch_model*.safetensors",)


def test_unknown_names_list_the_choices():
    for name, config, match in (
        ("DDPMSheduler", {}, "DDPMScheduler"),
        ("DDPMScheduler", {"num_train_timesteps": 10, "beta_schedule": "sigmoidal"}, "sigmoid"),
    ):
        with pytest.raises(UnknownNameError, match=match):
            chain(name, config)
