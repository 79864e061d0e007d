"""Whole latent pipelines from their folders: KL + DiT, KL + UNet2DCondition, KL + a flow transformer."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import nelbo
from nelbo.adapters.diffusers.autoencoder import units_of
from nelbo.bound.estimators import Exhaustive, Stratified
from nelbo.errors import ModelFolderError, UsageError

diffusers = pytest.importorskip("diffusers")
TABLE = {"num_train_timesteps": 6, "beta_start": 0.05, "beta_end": 0.6, "clip_sample": False}
SCALE = 1.5
X = (torch.arange(3 * 3 * 64).reshape(3, 3, 8, 8) * 37 + 11) % 256
pytestmark = pytest.mark.filterwarnings(
    "ignore:the scale of the likelihood was not fitted", "ignore:the network is worse than none",
    "ignore:the chain does not end at its prior",
)  # fmt: skip


def kl(**settings: Any) -> Any:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8), norm_num_groups=2, latent_channels=4, sample_size=8, layers_per_block=1,
        scaling_factor=0.6, **blocks, **settings,
    )  # fmt: skip


def dit() -> Any:
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=4, num_layers=1, sample_size=4,
        patch_size=2, num_embeds_ada_norm=10, norm_num_groups=2,
    )  # fmt: skip


def conditional() -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=4, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8, attention_head_dim=2, norm_num_groups=2,
    )  # fmt: skip


def flow() -> Any:
    return diffusers.SD3Transformer2DModel(
        sample_size=4, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=4, num_attention_heads=2,
        joint_attention_dim=8, caption_projection_dim=8, pooled_projection_dim=6, out_channels=4, pos_embed_max_size=4,
    )  # fmt: skip


NETWORKS = {
    "dit": ("transformer", dit, diffusers.DDIMScheduler(**TABLE), {"class_labels": torch.tensor([1, 4, 7])}),
    "unet": (
        "unet", conditional, diffusers.DDPMScheduler(**TABLE, prediction_type="v_prediction"),
        {"encoder_hidden_states": torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))},
    ),
    "flow": (
        "transformer", flow, diffusers.FlowMatchEulerDiscreteScheduler(),
        {
            "encoder_hidden_states": torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1)),
            "pooled_projections": torch.randn(3, 6, generator=torch.Generator().manual_seed(2)),
        },
    ),
}  # fmt: skip


def saved(folder: Path, name: str, **settings: Any) -> tuple[Any, Any]:
    """A pipeline as its parts and an index, written by the parts' own save_pretrained; (vae, network)."""
    place, make, scheduler, _ = NETWORKS[name]
    vae, net = kl(**settings).eval(), make().eval()
    with torch.no_grad():
        for p in net.parameters():  # fresh networks of diffusers end in zeros
            p.add_(0.05 * torch.randn(p.shape))
        vae.quant_conv.bias[4:] -= 4.0  # a q(z | x) of small variance, so that wrong units are seen
    parts = {"vae": vae, place: net, "scheduler": scheduler}
    for part, inner in parts.items():
        inner.save_pretrained(folder / part)
    index = {part: ["diffusers", type(inner).__name__] for part, inner in parts.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "LatentPipeline", **index}))
    return vae, net


def loop(vae: Any, net: Any, name: str, scheduler: Any, condition: dict[str, Tensor], draws: int) -> Tensor:
    """The bound of every image, (draws, N), as diffusers' own objects say it: z and z_t drawn one after the other."""
    x, out = 2 * X / 255 - 1, []
    betas = torch.linspace(TABLE["beta_start"], TABLE["beta_end"], 6, dtype=torch.float64)
    bars = (1 - betas).cumprod(0)
    generator = torch.Generator().manual_seed(5)
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0
    with torch.no_grad():
        q = vae.encode(x.float()).latent_dist
        for _ in range(draws):
            latents = q.mean + q.std * torch.randn(q.mean.shape, generator=generator)
            middle = vae.decode(latents).sample.double()
            z = ((latents - shift) * scale).double()
            nats = _pixels(X, middle)
            nats -= (0.5 * (1 + math.log(2 * math.pi)) + (q.std * scale).double().log()).flatten(1).sum(1)
            if name == "flow":
                out.append(nats + _flow_terms(net, z, condition, generator))
                continue
            for i in range(6):
                eps = torch.randn(z.shape, generator=generator, dtype=torch.float64)
                a = bars[i]
                z_t = a.sqrt() * z + (1 - a).sqrt() * eps
                said = net(z_t.float(), timestep=torch.full((3,), i), return_dict=False, **condition)[0].double()
                if scheduler.config.prediction_type == "v_prediction":
                    z_hat = a.sqrt() * z_t - (1 - a).sqrt() * said
                else:
                    z_hat = (z_t - (1 - a).sqrt() * said) / a.sqrt()
                error = (z - z_hat).square().flatten(1).sum(1)
                if i == 0:  # the decoder's variance: β_2 (1 − ᾱ_1)/(1 − ᾱ_2)
                    v = betas[1] * (1 - bars[0]) / (1 - bars[1])
                    nats += 0.5 * (error / v + 64 * torch.log(2 * math.pi * v))
                else:
                    before = bars[i - 1]
                    nats += 0.5 * (before / (1 - before) - a / (1 - a)) * error
            a = bars[-1]
            nats += 0.5 * (a * z.square() - a - torch.log(1 - a)).flatten(1).sum(1)
            out.append(nats)
    return torch.stack(out)


def _pixels(codes: Tensor, middle: Tensor, scale: float = SCALE) -> Tensor:
    upper = torch.where(codes == 255, math.inf, (2 * codes + 1) / 255 - 1 - middle)
    lower = torch.where(codes == 0, -math.inf, (2 * codes - 1) / 255 - 1 - middle)
    mirrored = lower > 0  # by the nearer tail, which has the digits
    lower, upper = torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper)
    log_upper, log_lower = (torch.special.log_ndtr(v / scale) for v in (upper, lower))
    return -(log_upper + torch.log1p(-(log_lower - log_upper).exp())).flatten(1).sum(1)


FLOW_PLACES = 48


def _flow_terms(net: Any, z: Tensor, condition: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """½ ∫ ‖ε − ε̂‖² dλ by stratified λ between the ends of the model, with both ends' terms."""
    levels = nelbo.schedules.flow(*FLOW_ENDS).at(torch.tensor([0.0, 1.0], dtype=torch.float64)).logsnr
    first, last = (float(v) for v in levels)
    nats = 0.5 * z[0].numel() * (1 + math.log(2 * math.pi) - first) * torch.ones(3, dtype=torch.float64)
    width = (first - last) / FLOW_PLACES
    for k in range(FLOW_PLACES):
        u = torch.rand((3, 1, 1, 1), generator=generator, dtype=torch.float64)
        logsnr = last + (k + u) * width
        sigma = torch.sigmoid(-logsnr / 2)
        eps = torch.randn(z.shape, generator=generator, dtype=torch.float64)
        z_t = (1 - sigma) * z + sigma * eps
        velocity = net(z_t.float(), timestep=1000 * sigma.flatten().float(), return_dict=False, **condition)[0].double()
        eps_hat = z_t + (1 - sigma) * velocity
        nats += 0.5 * width * (eps - eps_hat).square().flatten(1).sum(1)
    a, s = torch.sigmoid(torch.tensor(last) / 2).double(), torch.sigmoid(-torch.tensor(last) / 2).double()
    return nats + 0.5 * ((a * z).square() + s.square() - 1 - 2 * s.log()).flatten(1).sum(1)


FLOW_ENDS = (0.01, 0.9)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_agrees_with_a_loop_of_diffusers_own_objects(tmp_path, name):
    """Every image's bound within 4 standard errors of both."""
    vae, net = saved(tmp_path, name, shift_factor=0.5 if name == "flow" else None)
    _, _, scheduler, condition = NETWORKS[name]
    assert float(nelbo.load(tmp_path).likelihood.scale) == 0.1
    model = nelbo.from_diffusers(tmp_path, decoder=nelbo.latent.ScaledGaussian(SCALE))
    assert isinstance(model, nelbo.LatentModel) and model.domain.shape == (3, 8, 8) and model.latent_shape == (4, 4, 4)
    grid, estimator = (None, Exhaustive(64))
    if name == "flow":
        first, last = (float(v) for v in model.prior.schedule.at(torch.tensor([0.0, 1.0]).double()).time)
        globals()["FLOW_ENDS"] = (first, last)
        estimator = Stratified(32, 32)
    options = {"estimator": estimator, "per_example": True, "progress": False, "grid": grid}
    theirs = loop(vae, net, name, scheduler, condition, 48).mean(1)

    def deviations(units: nelbo.latent.LatentUnits) -> float:
        of = dataclasses.replace(model, units=units)
        rows = nelbo.evaluate(of, X, condition=condition, **options).per_example
        error = (theirs.var() / len(theirs) + rows.standard_error.square().sum() / 9).sqrt()
        return abs(float((theirs.mean() - rows.nats.mean()) / error))

    assert deviations(model.units) < 4
    missing, squared = nelbo.latent.LatentUnits(1.0), nelbo.latent.LatentUnits(0.36)
    for units in (missing, squared, *([nelbo.latent.LatentUnits(0.6)] if name == "flow" else [])):
        assert deviations(units) > 4  # a forgotten shift, too
    fitted = nelbo.latent.fit_likelihood(nelbo.load(tmp_path), X)
    assert (
        "likelihood not fitted" in nelbo.load(tmp_path).provenance and "likelihood not fitted" not in fitted.provenance
    )


def test_units_follow_the_configuration():
    z = torch.ones(1, 2, 1, 1, dtype=torch.float64)
    for config, expected in (
        ({"scaling_factor": 0.5}, [0.5, 0.5]),
        ({"scaling_factor": 0.5, "shift_factor": 0.2}, [0.4, 0.4]),
        ({"scaling_factor": 0.5, "latents_mean": [0.0, 3.0], "latents_std": [2.0, 0.1]}, [0.25, -10.0]),
        ({}, [1.0, 1.0]),
    ):
        units = units_of(config)
        assert units.to_prior(z).flatten().tolist() == pytest.approx(expected)
        assert torch.allclose(units.from_prior(units.to_prior(z)), z)


def test_what_is_refused(tmp_path):
    saved(tmp_path, "dit")
    with pytest.raises(UsageError, match="whose images need a likelihood with a scale"):
        nelbo.from_diffusers(tmp_path, decoder="discretized_gaussian")
    assert isinstance(nelbo.from_diffusers(tmp_path, bins=None), nelbo.DiffusionModel)
    model = nelbo.from_diffusers(tmp_path, decoder=nelbo.latent.ScaledLogistic(0.05))
    assert isinstance(model, nelbo.LatentModel) and model.likelihood.kind == "scaled_logistic"
    with pytest.warns(UserWarning, match="the network is worse than none|does not end"):
        nelbo.evaluate(
            model, X, condition={"class_labels": torch.zeros(3).long()}, progress=False, estimator=Stratified(2, 2)
        )
    for cls, reason in (
        ("VQModel", "entries of a codebook"), ("ConsistencyDecoderVAE", "itself a sampler"),
        ("AutoencoderTiny", "DeterministicEncoder"), ("AutoencoderDC", "not known here"),
    ):  # fmt: skip
        index = json.loads((tmp_path / "model_index.json").read_text())
        (tmp_path / "model_index.json").write_text(json.dumps({**index, "vae": ["diffusers", cls]}))
        with pytest.raises(UsageError, match=rf"is a latent model.*{cls}.*{reason}"):
            nelbo.load(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "vae": ["diffusers", "AutoencoderKL"]}))
    (tmp_path / "vae" / "config.json").unlink()
    with pytest.raises(ModelFolderError, match=r"vae/config.json is missing"):
        nelbo.load(tmp_path)


def test_texts_become_a_condition_by_the_pipelines_own_encoder(tmp_path):
    """Rows are the text encoder's last hidden state at full length, from the folder and from the object alike."""
    transformers = pytest.importorskip("transformers")
    saved(tmp_path, "unet")
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefg", *(f"{c}</w>" for c in "abcdefg")]
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (tmp_path / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / "tokenizer", model_max_length=6)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    torch.manual_seed(0)
    encoder = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(words), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=6, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    ).eval()  # fmt: skip
    encoder.save_pretrained(tmp_path / "text_encoder")
    index = json.loads((tmp_path / "model_index.json").read_text())
    index |= {"tokenizer": ["transformers", "CLIPTokenizer"], "text_encoder": ["transformers", "CLIPTextModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    condition = nelbo.latent.encode_text(tmp_path, ["a", "b c", "a b c d e f g"])
    ids = tokenizer(["b c"], padding="max_length", max_length=6, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = encoder(ids)[0][0]
    assert condition["encoder_hidden_states"].shape == (3, 6, 8)
    assert torch.allclose(condition["encoder_hidden_states"][1], expected, atol=1e-6)
    model = nelbo.load(tmp_path)
    bound = nelbo.evaluate(model, X, condition=condition, estimator=Stratified(1, 2), progress=False)
    assert math.isfinite(bound.bits_per_dim)
    with pytest.raises(UsageError, match="conditional and was not given 'encoder_hidden_states'"):
        nelbo.evaluate(model, X, progress=False)
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "text_encoder_2": ["transformers", "T5"]}))
    with pytest.raises(UsageError, match=r"text_encoder_2 \(T5\), and only one CLIPTextModel"):
        nelbo.latent.encode_text(tmp_path, ["a"])
    with pytest.raises(UsageError, match="list of strings"):
        nelbo.latent.encode_text(tmp_path, "a")
