"""Samplers in use: one sample is one sample in any batch and process, guidance, progress, tables, churn, refusals."""

from __future__ import annotations

import math

import pytest
import torch

import nelbo
from nelbo import sample
from nelbo.errors import NumericalError, ShapeError, UnknownNameError, UsageError
from nelbo.process import every_grid as grids
from nelbo.process import schedule as schedules
from nelbo.sampling import DDIM, NAMED, Ancestral, Euler, Heun, encode
from tests.sampling.cases import LAW, PLANE

ALL = [*(kind() for kind in NAMED.values()), DDIM(0.5), Euler(churn=5.0), Heun(churn=5.0), Ancestral("beta")]
NAMES = [f"{s.name}{'~' if s.stochastic else ''}" for s in ALL]


def pixelwise(scale: float = 0.25):
    """Five pixels, each by itself: x̂ = z/4 without a sum over anything, so that no order of summation enters."""
    return nelbo.from_callable(
        lambda z, t: scale * z,
        schedule=LAW, domain=nelbo.DataDomain((5,)), predicts="x0", time="logsnr", grid=grids.even(12),
    )  # fmt: skip


@pytest.mark.parametrize("sampler", ALL, ids=NAMES)
def test_bits_do_not_depend_on_the_batch(sampler):
    model = pixelwise()
    whole = sample(model, 64, sampler=sampler, seed=9, batch_size=64)
    assert torch.equal(sample(model, 64, sampler=sampler, seed=9, batch_size=1), whole)
    assert torch.equal(sample(model, 7, sampler=sampler, seed=9, batch_size=3), whole[:7])
    assert not torch.equal(sample(model, 64, sampler=sampler, seed=10), whole)
    assert whole.dtype == torch.float64 and len(torch.unique(whole)) == whole.numel()


class Worker:
    """Process `rank` of `size`; what it would send is kept."""

    stopping = False

    def __init__(self, rank: int, size: int):
        self.rank, self.size, self.mine = rank, size, torch.empty(0)

    def gather(self, values: torch.Tensor) -> list[torch.Tensor]:
        self.mine = values
        return [values]


@pytest.mark.parametrize(("n", "size"), [(7, 3), (2, 3), (6, 2)])
def test_processes_share_the_samples(n, size):
    """Joined in the order of ranks the shares are what one process draws, also where there are too few to go round."""
    model = pixelwise()
    shares = []
    for rank in range(size):
        worker = Worker(rank, size)
        sample(model, n, sampler=DDIM(0.5), workers=worker)
        assert worker.mine.dtype == torch.float64
        shares.append(worker.mine)
    assert torch.equal(torch.cat(shares), sample(model, n, sampler=DDIM(0.5)))
    with pytest.raises(UsageError, match="trajectory was asked of 3 processes"):
        sample(model, 2, trajectory=True, workers=Worker(0, 3))


# ---------------------------------------------------------------- evaluations, grids, tables


@pytest.mark.parametrize("sampler", ALL, ids=NAMES)
def test_progress_counts_calls(sampler):
    """Done and planned are network evaluations times samples, the decoder's and guidance's among them."""
    calls = 0

    def fn(z, t, y=None):
        nonlocal calls
        calls += len(z)
        return 0.1 * z

    model = nelbo.from_callable(fn, schedule=schedules.linear(40), domain=nelbo.DataDomain((3,), 8))
    y = torch.zeros(5, dtype=torch.int64)
    for options in ({}, {"condition": {"y": y}, "guidance": 2.0, "null_condition": {}}):
        calls, seen = 0, []
        sample(
            model,
            5,
            sampler=sampler,
            steps=6,
            batch_size=2,
            progress=lambda *counts, log=seen: log.append(counts),
            **options,
        )
        expected = 5 * (5 * sampler.evaluations + 1) * (2 if options else 1)
        assert calls == expected and seen[-1] == (expected, expected)
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("sampler", ALL, ids=NAMES)
@pytest.mark.parametrize("grid", ["even", "quadratic", "karras", "logsnr"])
def test_every_sampler_on_every_grid_of_a_table(sampler, grid):
    """On a table of betas the network is given indices, fractional ones between its levels."""
    times = []

    def fn(z, t):
        times.append(t)
        return 0.1 * z

    model = nelbo.from_callable(fn, schedule=schedules.linear(40), domain=nelbo.DataDomain((3,)))
    drawn = sample(model, 4, sampler=sampler, steps=8, grid=grid, trajectory=True)
    assert drawn.z.shape == drawn.denoised.shape == (8, 4, 3) and bool(torch.isfinite(drawn.z).all())
    assert all(bool(((t >= 0) & (t <= 39)).all()) for t in times)
    whole = all(bool((t == t.round()).all()) for t in times)
    between = sampler.name == "flow_midpoint" or (sampler.name in ("euler", "heun") and sampler.stochastic)
    assert whole != between


def test_grids_by_name_and_by_object():
    model = pixelwise()
    by_name = sample(model, 3, sampler="ddim", steps=9, grid="karras")
    assert torch.equal(by_name, sample(model, 3, sampler="ddim", grid=grids.karras(9)))
    assert torch.equal(sample(model, 3), sample(model, 3, steps=12)) and not torch.equal(
        by_name, sample(model, 3, steps=9)
    )
    assert sample(model, 3, sampler="ddim", grid="karras", trajectory=True).z.shape[0] == 13  # its own number of steps


def test_the_variance_of_the_chain_is_not_asked_by_others():
    """A table of variances belongs to the full chain: ancestral sampling respaced refuses it, DDIM does not care."""
    model = nelbo.from_callable(
        lambda z, t: 0.1 * z, schedule=schedules.linear(40), domain=nelbo.DataDomain((3,)), variance=[0.01] * 40
    )
    with pytest.raises(UsageError, match="belongs to the steps of the full chain"):
        sample(model, 2, steps=10)
    assert sample(model, 2, sampler="ddim", steps=10).shape == (2, 3)
    assert sample(model, 2, sampler=Ancestral("beta"), steps=10).shape == (2, 3)


# ---------------------------------------------------------------- guidance


def guided_model(clip: bool = False):
    """x̂ = (target, target): what is drawn is x̂ itself, in a chain that ends with little noise."""
    return nelbo.from_callable(
        lambda z, t, target: target[:, None].to(z.dtype).expand(z.shape),
        schedule=LAW, domain=nelbo.DataDomain((2,), None if not clip else 9), predicts="x0", time="logsnr",
        grid=grids.even(20), clip=clip,
    )  # fmt: skip


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_is_the_line_through_two_predictions(scale):
    targets = torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)
    drawn = sample(
        guided_model(), 3, sampler="ddim", condition={"target": targets}, guidance=scale, batch_size=2,
        null_condition={"target": torch.tensor(0.4, dtype=torch.float64)}, trajectory=True,
    )  # fmt: skip
    expected = 0.4 + scale * (targets - 0.4)
    torch.testing.assert_close(drawn.denoised[:-1], expected[:, None].expand(20, 3, 2), rtol=1e-12, atol=1e-12)


def test_what_is_guided_is_clipped_afterwards():
    targets = torch.tensor([1.0], dtype=torch.float64)
    drawn = sample(
        guided_model(clip=True), 1, sampler="ddim", condition={"target": targets}, guidance=3.0,
        null_condition={"target": torch.tensor(0.8, dtype=torch.float64)}, trajectory=True,
    )  # fmt: skip
    assert bool((drawn.denoised[0] == 1.0).all())  # 0.8 + 3 · 0.2 = 1.4, clipped; clipped first it is 1.4


def test_guided_codes():
    """A categorical head: the masses that the decoder draws by are p_c^w/p_u^(w−1), normalised."""
    torch.manual_seed(0)
    table = torch.randn(3, 4, 8, dtype=torch.float64)

    from nelbo.model.denoiser import CategoricalDenoiser
    from nelbo.sampling.guidance import make_guidance

    domain = nelbo.DataDomain((4,), 8)
    base = nelbo.exact.CategoricalData(torch.full((4, 8), 1 / 8)).model(LAW, grids.even(5), exact_ends=False)
    model = type(base)(**{**vars(base), "denoiser": CategoricalDenoiser(lambda z, t, y: table[y], domain)})
    guidance = make_guidance(2.0, {"y": torch.tensor(2)}, {"y": torch.tensor([0, 1])})
    assert guidance is not None
    level = LAW.at(torch.tensor([0.9])).expand(2)
    z = torch.zeros(2, 4, dtype=torch.float64)
    guided = guidance.predict(model, z, level, {"y": torch.tensor([0, 1])})
    p, u = (model.denoiser(z, level, {"y": torch.tensor(k)}).log_probs for k in ([0, 1], [2, 2]))
    assert p is not None and u is not None and guided.log_probs is not None
    weights = p.exp().square() / u.exp()
    torch.testing.assert_close(guided.log_probs.exp(), weights / weights.sum(-1, keepdim=True))
    codes = sample(model, 2, condition={"y": torch.tensor([0, 1])}, guidance=2.0, null_condition={"y": torch.tensor(2)})
    assert codes.dtype == torch.int64


Y = {"target": torch.zeros(2, dtype=torch.float64)}
ROW = torch.tensor(0.0, dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n": 0}, UsageError, "0 samples"),
        ({"n": 2.5}, UsageError, "2.5"),
        ({"steps": 0}, UsageError, "0 steps"),
        ({"batch_size": 0}, UsageError, "batch of 0"),
        ({"batch_size": -2}, UsageError, "batch of -2"),
        ({"seed": -1}, UsageError, "seed -1"),
        ({"start": torch.zeros(3, 2)}, ShapeError, r"a start of shape \(3, 2\) for 2 samples"),
        ({"condition": {"target": torch.zeros(3)}}, ShapeError, "'target' has 3 rows for 2 samples"),
        ({"guidance": 2.0, "condition": None}, UsageError, "guidance 2.0 with no condition"),
        ({"guidance": 2.0}, UsageError, "a condition and no null condition"),
        ({"null_condition": {"target": ROW}}, UsageError, "guidance None"),
        ({"guidance": 2.0, "null_condition": Y}, ShapeError, r"shape \(2,\) where one row has \(\)"),
        ({"sampler": "dddim"}, UnknownNameError, "did you mean 'ddim'.*dpmpp_2m_sde.*heun"),
        ({"grid": "even-ish"}, UnknownNameError, "did you mean 'even'"),
        ({"grid": grids.even(3), "steps": 4}, UsageError, "the grid 'even' and 4 steps were both given"),
        ({"grid": grids.continuous()}, UsageError, "the grid 'continuous' has no steps"),
    ],
)
def test_refusals(options, error, match):
    with pytest.raises(error, match=match):
        sample(guided_model(), **{"n": 2, "condition": Y, **options})


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: DDIM(1.1), "η = 1.1"),
        (lambda: DDIM(math.nan), "eta=nan is not finite"),
        (lambda: Euler(churn=-1.0), "churn -1.0"),
        (lambda: Heun(churn=1.0, s_min=2.0, s_max=1.0), r"between σ/α = 2.0 and 1.0"),
        (lambda: Heun(s_noise=0.0), "noise 0.0"),
        (lambda: Ancestral("betas"), "unknown variance policy"),
    ],
)
def test_settings_that_mean_nothing(make, match):
    with pytest.raises((UsageError, UnknownNameError), match=match):
        make()


@pytest.mark.parametrize("sampler", list(NAMED))
def test_a_network_that_breaks(sampler):
    with pytest.raises(NumericalError, match="level 12 of a sample is not finite"):
        sample(pixelwise(math.nan), 2, sampler=sampler)


def test_churn_is_kept_to_its_range():
    """Noise is added where s_min ≤ σ/α ≤ s_max alone: outside it the chains are those without churn."""
    model = PLANE.model(LAW, grids.even(12))
    plain = sample(model, 4, sampler="heun")
    assert torch.equal(sample(model, 4, sampler=Heun(churn=5.0, s_min=100.0, s_max=200.0)), plain)
    low = sample(model, 4, sampler=Heun(churn=5.0, s_max=1.0), trajectory=True)
    flow = sample(model, 4, sampler="heun", trajectory=True)
    scale = (-0.5 * low.logsnr).exp()
    above = int((scale > 1.0).sum())  # the first level that churns is the first with σ/α ≤ 1
    assert torch.equal(low.z[: above + 1], flow.z[: above + 1]) and not torch.equal(low.z[above + 1], flow.z[above + 1])


def test_describe():
    assert DDIM(0.5).describe() == {"name": "ddim", "eta": 0.5}
    assert Heun().describe() == {"name": "heun"} and Heun(churn=3.0).describe()["churn"] == 3.0
    assert {kind().name for kind in NAMED.values()} == set(NAMED)
    assert [s.name for s in ALL if s.stochastic][:2] == ["ancestral", "dpmpp_2m_sde"]


def test_encode_in_any_batch_and_with_progress():
    model = pixelwise()
    x = torch.linspace(-1, 1, 35, dtype=torch.float64).reshape(7, 5)
    seen: list[tuple[int, int]] = []
    whole = encode(model, x, sampler="heun", progress=lambda *counts: seen.append(counts))
    assert torch.equal(encode(model, x, sampler="heun", batch_size=1), whole) and seen[-1] == (7 * 24, 7 * 24)
