"""What one does with a model broken on purpose: training, sampling, tightening, the codec."""

from __future__ import annotations

import ast
import functools

import torch

from nelbo.process import every_grid as grids
from nelbo.sampling import sample
from tests.codec import checks as codec
from tests.codec.test_off_bound import test_the_bits_of_codes_are_the_decoders
from tests.mutations.breaks import Break, each_is_noticed
from tests.mutations.places import call, field, negation, number, operation
from tests.sampling import test_laws, test_orders, test_samplers
from tests.sampling.cases import LAW, PLANE
from tests.sampling.test_ancestral import worst_z
from tests.tightening import covariance_checks as covariance


def check_order(name: str, path: str = "vp") -> None:
    test_orders.test_order_on_gaussian_data(name, path)


def check_law(name: str, path: str = "vp") -> None:
    """Moments against the closed form, and nothing about power."""
    z = test_laws.drawn(PLANE, *test_laws.STOCHASTIC[name], path).numpy()
    assert worst_z(z, *test_laws.exact_moments(path)) < 4.5


def check_four_names_of_one_step() -> None:
    test_orders.test_four_names_of_one_step("flow")


def check_eta_is_ancestral() -> None:
    model = PLANE.model(LAW, grids.even(20))
    one = sample(model, 5, sampler=test_samplers.DDIM(1.0))
    torch.testing.assert_close(one, sample(model, 5), rtol=1e-11, atol=1e-11)


def from_zero(rows: ast.expr) -> ast.expr:
    """rows → rows − rows[0]."""
    return ast.BinOp(rows, ast.Sub(), ast.Subscript(rows, ast.Constant(0), ast.Load()))


order = {name: functools.partial(check_order, name) for name in test_orders.ORDERS}
law = {name: functools.partial(check_law, name) for name in test_laws.STOCHASTIC}
any_batch = functools.partial(test_samplers.test_bits_do_not_depend_on_the_batch, test_samplers.ALL[0])
guidance = functools.partial(test_samplers.test_guidance_is_the_line_through_two_predictions, 2.5)

off_bound = functools.partial(test_the_bits_of_codes_are_the_decoders, "discretised")

BREAKS = [
    # ------------------------------------------------------------ training
    Break("the diffusion term weighs too much", "BoundObjective.losses", call("over")[0].times(1.1),
          "sum-objective", "vdm-elbo"),
    Break("L_simple never draws the last step", "SimpleObjective.losses", call("len")[0].plus(-1), "loss-simple",
          "loss-simple-reparam"),
    Break("the bound teaches the mean too", "HybridObjective.losses", call("detach").drop(), "loss-hybrid"),
    Break("times that crowd towards data", "TimeSampler.draw", operation("%").times(0.95), "implied-weight-cosine"),
    Break("1/p forgotten", "inverse_transform", operation("/")[-1].power(0), "importance-sampled-t"),
    Break("the shape follows the loss, not its noise", "TrainableSchedule.backward", operation("*")[0].becomes(1.0),
          "schedule-variance-gradient"),
    Break("the sigmoid weight the wrong way round", "Sigmoid.__call__", operation("-").swapped(), "weighting-monotone"),
    Break("EDM's weight left as it is on the noisy side", "EDMMonotone.__call__", call("clamp").drop(),
          "weighting-monotone"),
    Break("min-SNR as a weight of x̂", "MinSNR.__call__", negation().drop(), "loss-min-snr"),
    Break("noise levels of a mixture crowd towards one end", "augmentation_level", operation("*")[0].left().power(2),
          "weighted-loss-elbo-augmentation"),
    # ------------------------------------------------------------ sampling
    Break("the sampler steps from the level that it goes to", "Ancestral.step", field("t")[1].to("s"), "reverse-joint"),
    Break("the last step is the noisy state itself", "_down", call("mean").becomes("z"), "sampling-last-step"),
    Break("ε̂ keeps x̂ whole", "eps_of", operation("*").keep_right(), order["flow_euler"]),
    Break("DDIM's x̂ grows with the whole log-SNR", "along", number(0.5).to(1.0), order["ddim"]),
    Break("DDIM's direction keeps the share of the noise", "DDIM.step", operation("**").keep_left(), law["ddim-0.7"]),
    Break("DDIM's noise has a variance for its standard deviation", "DDIM.step", call("sqrt")[1].drop(),
          law["ddim-0.7"]),
    Break("Euler divides by the noise it goes to", "Euler.step", call("_slope").argument(2).becomes("scale_s"),
          order["euler"]),
    Break("Heun without its half", "edm:Heun.step", number(0.5)[1].to(0.6), order["heun"]),
    Break("churn adds the difference of variances, not its root", "_Churned.churned", call("sqrt")[1].drop(),
          law["heun-churned"]),
    Break("2M extrapolates a whole step", "extrapolated", number(0.5).to(1.0), order["dpmpp_2m"]),
    Break("SDE-2M has no root of its variance", "SDEDPMSolver2M.step", call("sqrt").drop(), law["dpmpp_2m_sde"]),
    Break("flow Euler forgets x̂ in its velocity", "FlowEuler.step", operation("-")[-1].keep_left(),
          order["flow_euler"]),
    Break("flow time with λ for λ/2", "flow_time", number(0.5).to(1.0), check_four_names_of_one_step),
    Break("midpoint is elsewhere", "FlowMidpoint.step", number(0.5)[0].to(0.4), order["flow_midpoint"]),
    Break("every level draws the same noise", "Paths.normal", call("normal").argument(2).becomes(0), law["ancestral"]),
    Break("noise is keyed by the place in the batch", "Paths.normal", call("normal").argument(1).edit(from_zero),
          any_batch),
    Break("guidance from the wrong end", "Guidance.predict", operation("-")[-1].swapped(), guidance),
    # ------------------------------------------------------------ tightening
    Break("the cost of a step without its ½", "expected_kl", number(0.5).to(1.0), covariance.check_expected),
    Break("the length of a step is e^{λ_s − λ_t}, not that less one", "StepCost.of", call("expm1").to("exp"),
          covariance.check_costs),
    Break("short steps cost what the shortest of the table does", "StepCost.at", operation("+")[2].keep_left(),
          covariance.check_costs),
    Break("first moments for second", "DiagonalFitter.add", call("square").to("abs"), covariance.check_scalar),
    Break("the gradient of the regression forgets the squares", "_gamma_value", operation("*")[0].keep_right(),
          covariance.check_gamma),
    Break("the regression's slope has V for y", "_derivatives", operation("-").keep_left(), covariance.check_regress),
    Break("the regression's cost without its logarithm", "regression:cost", operation("+")[-1].keep_left(),
          covariance.check_regress),
    Break("the slope of what a network says keeps the scale of the fit", "CalibrationFitter.result",
          operation("/").keep_left(), covariance.check_learned),
    # ------------------------------------------------------------ the codec
    Break("latents drawn without the signal's decay", "LatticeChain.forward_mean", operation("*")[1].keep_right(),
          codec.check_draws, "bits-back-code-length"),
    Break("latents that are not turned back", "LatticeChain.values", call("values").keep_argument(0),
          codec.check_path_in_a_basis),
    Break("a variance for a standard deviation", "LatticeChain.reverse", number(0.5).to(1.0), codec.check_path),
    Break("the noise of q by σ² for σ", "LatticeChain._std_of_q", call("sqrt").drop(), "bits-back-code-length"),
    Break("a draw of q is taken from the image for the latent before", "Coder.push",
          call("_pop_forward")[1].argument(5).times(0), "bits-back-code-length"),
    Break("the tally of a latent without its width", "gaussian_bits", operation("+")[0].keep_left(), codec.check_path),
    Break("the tally of a code in nats", "GaussianSymbols.push", operation("/").keep_left(), off_bound),
    Break("exceptions rounded the other way", "Guard.__call__", operation("+")[2].to("-"), codec.check_guard),
]  # fmt: skip

test_break_is_noticed = each_is_noticed(BREAKS)
