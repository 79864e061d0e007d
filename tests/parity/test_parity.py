"""Comparison with the real packages of PyPI: equal to float32 rounding where they are right, else by how much not.

Every disagreement states the peer's value, ours, and the oracle that decides: mpmath, exact fractions, the definition.
"""

from __future__ import annotations

import math

import mpmath
import pytest
import torch

import nelbo
from nelbo.adapters.diffusers.scheduler import chain
from nelbo.model.denoiser import NetworkDenoiser
from nelbo.process import forward
from nelbo.process.prediction import Prediction, x0_from
from nelbo.testing import at_noise
from tests.expected import arrays
from tests.parity.peers import peer

pytestmark = arrays

diffusers = pytest.importorskip("diffusers")
T, D = 1000, 3 * 4 * 4
FLOAT32 = {"rtol": 1e-4, "atol": 2e-5}
"""Accuracy of float32 tables that are cumulated over 1000 steps."""


def batch(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 256, (n, 3, 4, 4), generator=g)
    return codes / 127.5 - 1, torch.randn(n, 3, 4, 4, generator=g)


def ours(scheduler) -> nelbo.DiffusionModel:
    """The chain of a scheduler with a network that is never called."""
    trained = chain(type(scheduler).__name__, dict(scheduler.config))
    variance = trained.variance or "beta_tilde"
    model = nelbo.from_callable(
        lambda z, t: torch.zeros_like(z), schedule=trained.schedule, domain=nelbo.DataDomain((3, 4, 4), 256),
        predicts=trained.predicts, variance=variance if variance[:5] != "learn" else "beta_tilde",
    )  # fmt: skip
    return nelbo.DiffusionModel(**{**vars(model), "reverse": type(model.reverse)(model.reverse.variance, trained.clip)})


# ---------------------------------------------------------------- diffusers


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"])
def test_diffusers_marginals(name):
    """add_noise is q(z_t | x)."""
    scheduler = diffusers.DDPMScheduler(T, beta_schedule=name)
    i = torch.tensor([0, 1, 10, 300, 700, 998, 999])
    x, eps = batch(len(i))
    t = ours(scheduler).schedule.at_index(i)
    z = forward.noised(x.double(), eps.double(), t)
    torch.testing.assert_close(scheduler.add_noise(x, eps, i).double(), z, **FLOAT32)


@pytest.mark.parametrize("steps", [20, T])
@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "exp"])
def test_diffusers_tables(name, steps):
    """Every β, the capped last ones included. Only Heun knows `exp` and only the others `laplace` and `sigmoid`."""
    scheduler = getattr(diffusers, "HeunDiscreteScheduler" if name == "exp" else "DDPMScheduler")
    config = {"num_train_timesteps": steps, "beta_schedule": name}
    alpha_bar = torch.sigmoid(ours(scheduler(**config)).schedule.table)
    betas = 1 - alpha_bar / torch.cat([torch.ones(1).double(), alpha_bar[:-1]])
    torch.testing.assert_close(scheduler(**config).betas.double(), betas, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large"])
def test_diffusers_step(prediction, variance, clip):
    """step() is a draw of p_θ(z_s | z_t): its mean and variance, from the same network output."""
    scheduler = diffusers.DDPMScheduler(T, prediction_type=prediction, variance_type=variance, clip_sample=clip)
    model = ours(scheduler)
    for i in (1, 2, 50, 500, 999):
        z, out = batch(4, seed=i)
        z = 0.7 * z + 0.7 * out
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(i))
        s, t = (model.schedule.at_index(torch.full((4,), k)) for k in (i - 1, i))
        x0 = x0_from(model.denoiser.output, out.double(), z.double(), t)
        mean, v = model.reverse.step(z.double(), model.reverse.clipped(Prediction(x0)), s, t)
        drawn = scheduler.step(out, i, z, generator=torch.Generator().manual_seed(i)).prev_sample
        scale = 1 + float(x0.abs().max())  # ε amplified by 1/α at the noisy end
        torch.testing.assert_close(
            drawn.double(), mean + v.sqrt() * noise.double(), rtol=2e-4, atol=2e-4 * scale if not clip else 2e-4
        )


def test_diffusers_thresholding():
    scheduler = diffusers.DDPMScheduler(T, thresholding=True, sample_max_value=4.0, dynamic_thresholding_ratio=0.9)
    x0 = 1.5 * batch(5)[1]
    mine = ours(scheduler).reverse.clipped(Prediction(x0.double())).x0
    torch.testing.assert_close(scheduler._threshold_sample(x0).double(), mine, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(mine, x0.double().clamp(-1, 1))


def test_diffusers_learned_range():
    """The log-interpolation of its step() is ours from the second step on, given the same output."""
    from nelbo.model.reverse import LearnedRange

    scheduler = diffusers.DDPMScheduler(T, variance_type="learned_range")
    schedule = ours(scheduler).schedule
    u = batch(4)[1].clamp(-1, 1)
    for i in (1, 5, 100, 999):
        s, t = (schedule.at_index(torch.full((4,), k)) for k in (i - 1, i))
        v = LearnedRange().of_step(s, t, Prediction(u.double(), variance=u.double()))
        torch.testing.assert_close(scheduler._get_variance(i, u).double(), v.log(), rtol=1e-4, atol=1e-4)


def test_diffusers_fixed_large_log_is_nan():
    """It uses the logarithm of the variance as the variance, whose root is NaN. By its name it is β."""
    scheduler = diffusers.DDPMScheduler(T, variance_type="fixed_large_log")
    x, out = batch(2)
    assert bool(scheduler.step(out, 500, x).prev_sample.isnan().all())
    assert ours(scheduler).reverse.variance.kind == "beta"


@pytest.mark.parametrize("name", ["linear", "scaled_linear"])
def test_diffusers_zero_terminal_snr(name):
    """Lin et al. 2024 require ᾱ_T = 0. The peer uses 2^-24, and the linear table is then noisier *before* its end.

    The definition decides: ᾱ must fall. Ours falls to 2^-64, and equals theirs, to rounding, at all other levels.
    """
    scheduler = diffusers.EulerDiscreteScheduler(
        T, beta_schedule=name, rescale_betas_zero_snr=True, prediction_type="v_prediction"
    )
    peers = scheduler.alphas_cumprod.double()
    mine = torch.sigmoid(ours(scheduler).schedule.table)
    assert bool((mine.diff() < 0).all()) and float(mine[-1]) == pytest.approx(2**-64)
    torch.testing.assert_close(peers[:-1], mine[:-1], rtol=1e-3, atol=1e-6)
    assert float(peers[-1]) == 2**-24
    assert (float(peers[-1]) > float(mine[-2])) == (name == "linear")


def test_diffusers_forgets_predict_epsilon(tmp_path):
    """A configuration of 2022 with predict_epsilon = false: the peer reads it as "epsilon", ours as "sample"."""
    scheduler = diffusers.DDPMScheduler.from_config({"num_train_timesteps": T, "predict_epsilon": False})
    assert scheduler.config.prediction_type == "epsilon"
    assert chain("DDPMScheduler", {"num_train_timesteps": T, "predict_epsilon": False}).predicts == "x0"


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_diffusers_flow(shift):
    """scale_noise is the marginal; the scheduler's levels are on our law, and its network gets the same time."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(T, shift=shift)
    trained = chain("FlowMatchEulerDiscreteScheduler", dict(scheduler.config))
    assert trained.schedule.t_min == pytest.approx(float(scheduler.sigmas[-1]), rel=1e-6)
    i = torch.tensor([1, 100, 500, 998])
    tau = scheduler.sigmas[i].double()
    t = trained.schedule.at(trained.schedule.time_of(2 * torch.log((1 - tau) / tau)))
    x, eps = batch(4)
    peers = scheduler.scale_noise(x, scheduler.timesteps[i], eps)
    torch.testing.assert_close(peers.double(), forward.noised(x.double(), eps.double(), t), **FLOAT32)
    time = trained.adaptation.time_scale * t.time
    torch.testing.assert_close(time, scheduler.timesteps[i].double(), rtol=1e-5, atol=1e-3)


# ---------------------------------------------------------------- denoising-diffusion-pytorch


class Two(torch.nn.Module):
    """A network with a mean and a variance half, in the form that the peer expects."""

    channels, out_dim, self_condition = 3, 6, False

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv = torch.nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, z, t, *_):
        out = self.conv(z)
        return torch.cat([out[:, :3], out[:, 3:].tanh()], 1)


def ddp(schedule: str = "linear", learned: bool = False, **options):
    if learned:
        module = peer("denoising_diffusion_pytorch", "learned_gaussian_diffusion")
        return module.LearnedGaussianDiffusion(
            Two(), 1.0, image_size=4, timesteps=T, beta_schedule=schedule, objective="pred_noise", auto_normalize=False
        )
    net = Two()
    net.out_dim = 3
    module = peer("denoising_diffusion_pytorch", "denoising_diffusion_pytorch")
    return module.GaussianDiffusion(net, image_size=4, timesteps=T, beta_schedule=schedule, auto_normalize=False)


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
def test_ddp_marginals_and_posteriors(name):
    """q_sample, q_posterior, predict_start_from_noise and predict_start_from_v."""
    module = peer("denoising_diffusion_pytorch", "denoising_diffusion_pytorch")
    betas = {"linear": module.linear_beta_schedule, "cosine": module.cosine_beta_schedule}.get(
        name, module.sigmoid_beta_schedule
    )(T)
    schedule, peers = nelbo.schedules.from_betas(betas), ddp(name)
    i = torch.tensor([1, 10, 300, 700, 998])
    x, eps = batch(len(i))
    s, t = schedule.at_index(i - 1), schedule.at_index(i)
    z = forward.noised(x.double(), eps.double(), t)
    torch.testing.assert_close(peers.q_sample(x, i, eps).double(), z, **FLOAT32)
    mean, variance, _ = peers.q_posterior(x, z.float(), i)
    torch.testing.assert_close(mean.double(), forward.posterior_mean(x.double(), z, s, t), **FLOAT32)
    torch.testing.assert_close(variance.double().flatten(), forward.posterior(s, t).variance, rtol=1e-6, atol=0)
    for ask, output in ((peers.predict_start_from_noise, "eps"), (peers.predict_start_from_v, "v")):
        mine = x0_from(nelbo.process.prediction.Output(output), eps.double(), z, t)
        torch.testing.assert_close(ask(z.float(), i, eps).double(), mine, rtol=1e-4, atol=1e-4)


def _vb(peers, x, eps, i) -> torch.Tensor:
    """The peer's own variational term in bits/dim: its loss less its L_simple."""
    z = peers.q_sample(x, i, eps)
    simple = (peers.model(z, i)[:, :3] - eps).square().flatten(1).mean(1)
    return (peers.p_losses(x, i, noise=eps, loss_reduction="none") - simple).detach().double()


def test_ddp_learned_variance_terms():
    """Its vb loss is our KL of a learned range at every step but the first, on shared noise."""
    peers = ddp(learned=True)
    model = _learned(peers)
    i = torch.tensor([1, 2, 10, 100, 500, 999])
    x, eps = batch(len(i))
    s, t = model.schedule.at_index(i - 1), model.schedule.at_index(i)
    mine = at_noise.diffusion(model, x.double(), eps.double(), s, t) / (D * math.log(2))
    torch.testing.assert_close(_vb(peers, x, eps, i), mine.detach(), rtol=2e-3, atol=1e-5)


def test_ddp_clamps_the_first_variance():
    """Its first step interpolates from log 1e-20: 48.8 bits/dim for a network that is off by 0.01 everywhere.

    mpmath and nelbo give 2.37 (for a trained network it was 32.0 and 2.21).
    """
    peers = ddp(learned=True)
    model = _learned(peers)
    codes = torch.randint(0, 256, (1, 3, 4, 4), generator=torch.Generator().manual_seed(2))
    x, eps = model.domain.values(codes), batch(1, 3)[1].double()
    first = model.schedule.at_index(torch.zeros(1, dtype=torch.int64))
    z = forward.noised(x, eps, first)
    # a network that is nearly right about x, so that only the variance matters: half way between β̃ and β
    peers.model = _Near(x.float(), first)
    model = _learned(peers)
    mine = float(at_noise.reconstruction(model, x, codes, eps, first)) / (D * math.log(2))
    theirs = float(_vb(peers, x.float(), eps.float(), torch.zeros(1, dtype=torch.int64)))
    prediction = model.predict(z, first)
    b1, b2 = 1e-4, 1e-4 + (2e-2 - 1e-4) / (T - 1)
    v = math.sqrt(b1 * (b2 * b1 / (1 - (1 - b1) * (1 - b2))))
    exact = sum(
        _bin_nats(float(a), float(b), v, edge=int(k))
        for a, b, k in zip(x.flatten(), prediction.x0.flatten(), codes.flatten(), strict=True)
    ) / (D * math.log(2))
    assert mine == pytest.approx(exact, rel=1e-6)
    assert mine == pytest.approx(2.37, abs=0.01) and theirs == pytest.approx(48.8, abs=0.1)


def test_ddp_model_predictions_is_a_name_error():
    """`partial` and `identity` are never imported: the peer's sampler of learned variances cannot run."""
    peers = ddp(learned=True)
    x, _ = batch(2)
    with pytest.raises(NameError, match=r"identity|partial"):
        peers.model_predictions(x, torch.tensor([3, 3]))


class _Near(Two):
    """ε̂ such that x̂ = x + 0.01, and a variance half way."""

    def __init__(self, x, first):
        super().__init__()
        self.x, self.alpha, self.sigma = x, float(first.alpha), float(first.sigma)

    def forward(self, z, t, *_):
        x = self.x.to(z.dtype) + 0.01
        eps = (z - self.alpha * x) / self.sigma
        return torch.cat([eps, torch.zeros_like(eps)], 1)


def _learned(peers) -> nelbo.DiffusionModel:
    return nelbo.from_callable(
        peers.model,
        schedule=nelbo.schedules.linear(T),
        domain=nelbo.DataDomain((3, 4, 4), 256),
        variance="learned_range",
    )


def _bin_nats(x: float, mean: float, variance: float, edge: int = 1) -> float:
    """−log of the mass of N(mean, variance) in the bin about x, 60 digits; codes 0 and 255 are open."""
    with mpmath.workdps(60):
        s = mpmath.sqrt(mpmath.mpf(variance)) * mpmath.sqrt(2)
        low = -mpmath.inf if edge == 0 else (mpmath.mpf(x) - mpmath.mpf(1) / 255 - mean) / s
        high = mpmath.inf if edge == 255 else (mpmath.mpf(x) + mpmath.mpf(1) / 255 - mean) / s
        if low > 0:  # in the upper tail erfc keeps the digits
            return float(-mpmath.log((mpmath.erfc(low) - mpmath.erfc(high)) / 2))
        return float(-mpmath.log((mpmath.erfc(-high) - mpmath.erfc(-low)) / 2))


# ---------------------------------------------------------------- k-diffusion


def test_k_diffusion_discrete_schedule():
    """Its σ of a table is e^{−λ/2}; its x̂ of an ε or v network is ours at z = α (x + σ n)."""
    external = peer("k_diffusion", "external")
    schedule = nelbo.schedules.linear(T)
    alpha_bar = torch.sigmoid(schedule.table)

    def net(z, t):
        return torch.tanh(z) * (1 + t.to(z.dtype)[:, None, None, None] / T)

    for cls, output in ((external.DiscreteEpsDDPMDenoiser, "eps"), (external.DiscreteVDDPMDenoiser, "v")):
        peers = cls(net, alpha_bar, quantize=True)
        torch.testing.assert_close(peers.sigmas, torch.exp(-0.5 * schedule.table), rtol=1e-9, atol=0)
        i = torch.tensor([0, 3, 400, 999])
        t = schedule.at_index(i)
        x, n = (v.double() for v in batch(4))
        sigma = peers.sigmas[i]
        y = x + sigma[:, None, None, None] * n
        mine = NetworkDenoiser(net, output, "index")(t.alpha[:, None, None, None] * y, t).x0
        torch.testing.assert_close(peers(y, sigma), mine, rtol=1e-9, atol=1e-9)


def test_k_diffusion_edm_denoiser():
    """Its preconditioner is edm_F with time σ, and get_sigmas_karras the EDM schedule on an even grid."""
    layers, sampling = peer("k_diffusion", "layers"), peer("k_diffusion", "sampling")

    def net(z, sigma):
        return torch.tanh(z) + 0.1 * sigma[:, None, None, None].log()

    schedule = nelbo.schedules.edm(0.002, 80.0, 7.0)
    t = schedule.at(torch.tensor([0.0, 0.2, 0.6, 1.0]))
    x, n = (v.double() for v in batch(4))
    y = x + t.sigma[:, None, None, None] * n
    mine = NetworkDenoiser(net, "edm_F", "sigma", sigma_data=0.5)(y, t).x0
    torch.testing.assert_close(layers.Denoiser(net, sigma_data=0.5)(y, t.sigma), mine, rtol=1e-10, atol=1e-10)
    levels = nelbo.grids.even(19).levels(schedule, False)
    peers = sampling.get_sigmas_karras(20, 0.002, 80.0)[:-1].flip(0)
    torch.testing.assert_close(levels.sigma, peers.double(), rtol=2e-5, atol=0)
