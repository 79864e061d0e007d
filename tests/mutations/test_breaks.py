"""The checks bite: formulas broken on purpose, each caught by a named oracle or law, none by a golden number.

A row is (floor, what is broken, where, the expression, its broken form, the check that must refuse it). The checks are
those of the ordinary tests; each must pass as the code stands and raise AssertionError under its break.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.bound import checks as bound
from tests.bound import ddpm
from tests.bound.test_per_example import check_drawn_again
from tests.bound.test_sanity import check_without_network
from tests.codec import checks as codec
from tests.likelihood import checks as ode
from tests.maths import test_spline as spline
from tests.model import checks as model
from tests.model import fitted, learned
from tests.mutations import ground
from tests.mutations.mutate import apply
from tests.process import checks as process
from tests.tightening import covariance_checks as covariance


class Break(NamedTuple):
    floor: int
    what: str
    target: str
    old: str
    new: str
    check: Callable[[], None]


unbiased_finite = functools.partial(bound.check_unbiased, "stratified-finite")
unbiased_continuous = functools.partial(bound.check_unbiased, "stratified-continuous")
unbiased_exhaustive = functools.partial(bound.check_unbiased, "exhaustive-2")
levels_exhaustive = functools.partial(bound.check_levels_unbiased, "exhaustive-2")
error_exhaustive = functools.partial(bound.check_predicted_error, "exhaustive-2")
error_paired = functools.partial(bound.check_predicted_error, "exhaustive-1-paired")
without_network = functools.partial(check_without_network, "beta")
error_stratified = functools.partial(bound.check_predicted_error, "stratified-finite")

BREAKS = [
    # ------------------------------------------------------------ floor 0
    Break(0, "the KL loses its ½", "nelbo.maths.gaussian:kl_from_difference",
          "return 0.5 * (scale", "return (scale", ground.check_kl),
    Break(0, "the KL divides by the variance of q", "nelbo.maths.gaussian:kl_from_difference",
          "difference**2 / variance_p)", "difference**2 / variance_q)", ground.check_kl),
    Break(0, "a normal density without its log-variance", "nelbo.maths.gaussian:log_density",
          " + torch.log(variance)", "", ground.check_density_and_entropy),
    Break(0, "half a bin is 1/127.5 for 1/255", "nelbo.maths.bins:_bin",
          "h = 1.0 / (std * per_half)", "h = 2.0 / (std * per_half)", model.check_half_width),
    Break(0, "half a bin is 1/510 for 1/255", "nelbo.maths.bins:_bin",
          "h = 1.0 / (std * per_half)", "h = 0.5 / (std * per_half)", model.check_half_width),
    Break(0, "the tails are closed at the edge", "nelbo.maths.bins:_bin",
          "below, above = codes == 0, codes == bins - 1", "below, above = codes < 0, codes > bins - 1",
          model.check_open_tails),
    Break(0, "the upper tail is closed: masses no longer sum to one", "nelbo.maths.bins:_bin",
          "codes == bins - 1", "codes > bins - 1", model.check_all_pmf_sums),
    Break(0, "the sign of expm1 in log1mexp", "nelbo.maths.stable:log1mexp",
          "torch.log(-torch.expm1(-torch.where(small, x, 0.5)))", "torch.log(torch.expm1(torch.where(small, x, 0.5)))",
          process.check_from_betas),
    Break(0, "merged moments forget the distance of the means", "nelbo.maths.statistics:Moments.merge",
          " + delta**2 * n_a * share", "", ground.check_merge),
    Break(0, "the standard error is not divided by n", "nelbo.maths.statistics:Moments.standard_error",
          "self.variance / self.count", "self.variance", ground.check_merge),
    Break(0, "nats and bits are confused", "nelbo.maths.units:bits_per_dim",
          " * LOG_2", "", ground.check_units),
    Break(0, "the level is lost from the counter of the generator", "nelbo.maths.random:_chunks",
          "level[rows]", "0 * level[rows]", ground.check_keys),
    # ------------------------------------------------------------ floor 1
    Break(1, "α for ᾱ: the product over steps is lost", "nelbo.process.schedule:from_betas",
          "torch.log1p(-betas).cumsum(0)", "torch.log1p(-betas)", process.check_linear),
    Break(1, "t − 1 for t: positions are off by one", "nelbo.process.schedule:Table.at_index",
          "(index + 1)", "index", process.check_table_positions),
    Break(1, "the cosine table without its offset's normaliser", "nelbo.process.schedule:cosine",
          "(u + offset) / (1 + offset)", "(u + offset / 1)", process.check_cosine),
    Break(1, "the slope of λ has the wrong sign", "nelbo.process.schedule:LogSNRLinear.dlogsnr_dt",
          "self.logsnr_min - self.logsnr_max", "self.logsnr_max - self.logsnr_min", process.check_slope),
    Break(1, "σ = 1 − α for σ² = 1 − α² on the VP path", "nelbo.process.levels:Path.log_sigma",
          "return 0.5 * torch.nn.functional.logsigmoid(-logsnr)",
          "return torch.log1p(-torch.exp(self.log_alpha(logsnr)))", process.check_paths),
    Break(1, "ᾱ_t for α_t in the transition", "nelbo.process.forward:transition",
          "(t.log_alpha - s.log_alpha).exp()", "t.log_alpha.exp()", process.check_transition_ddpm),
    Break(1, "the transition's variance is that of the marginal", "nelbo.process.forward:transition",
          "t.sigma.square() * one_minus_snr_ratio(s, t)", "t.sigma.square()", process.check_transition),
    Break(1, "the sign of expm1 in 1 − SNR ratio", "nelbo.process.forward:one_minus_snr_ratio",
          "-torch.expm1(t.logsnr - s.logsnr)", "torch.expm1(s.logsnr - t.logsnr)", process.check_posterior_schur),
    Break(1, "β for β̃ in the posterior", "nelbo.process.forward:posterior",
          "s.sigma.square() * c", "t.sigma.square() * c", process.check_posterior_ho),
    Break(1, "t for t − 1 in the posterior mean's x", "nelbo.process.forward:posterior",
          "s.alpha * c", "t.alpha * c", process.check_posterior_schur),
    Break(1, "the sign of v", "nelbo.process.prediction:x0_from",
          "(alpha * z - sigma * value)", "(alpha * z + sigma * value)", process.check_conversions),
    Break(1, "the sign of v on the way back", "nelbo.process.prediction:from_x0",
          "alpha * eps - sigma * x0", "sigma * x0 - alpha * eps", process.check_conversions),
    Break(1, "a level is forgotten where the decoder does not call the network", "nelbo.process.grid:Even.levels",
          "self.steps + 1 - int(decoder_calls_network)", "self.steps", process.check_steps),
    Break(1, "the sign of the score", "nelbo.process.prediction:x0_from",
          "(z + sigma.square() * value) / alpha", "(z - sigma.square() * value) / alpha", process.check_conversions),
    Break(1, "the score is divided by σ once too often", "nelbo.process.prediction:from_x0",
          "return -eps / sigma", "return -eps / sigma.square()", process.check_conversions),
    Break(1, "a velocity without dλ/dt", "nelbo.process.prediction:x0_from",
          "value / column(_slope(t), z)", "value", process.check_conversions),
    Break(1, "the slope of log σ on the flow path is that of VP", "nelbo.process.levels:Path.dlog_sigma",
          "torch.sigmoid(0.5 * logsnr)", "torch.sigmoid(1.0 * logsnr)", process.check_conversions),
    Break(1, "EDM's c_skip is c_out", "nelbo.process.prediction:preconditioning",
          "sigma_data**2 / total,", "sigma * sigma_data / total.sqrt(),", process.check_conversions),
    Break(1, "EDM's c_in is forgotten", "nelbo.process.prediction:preconditioning",
          "1 / total.sqrt())", "total.sqrt() / total.sqrt())", process.check_network_inputs),
    Break(1, "EDM's network sees z for z/α", "nelbo.process.prediction:network_input",
          "y = z / column(t.alpha, z)", "y = z", process.check_network_inputs),
    Break(1, "the slope of the flow law", "nelbo.process.schedule:Flow.dlogsnr_dt",
          "-2 * (self.t_max", "-1 * (self.t_max", process.check_slope),
    Break(1, "the slope of EDM's law", "nelbo.process.schedule:EDM.dlogsnr_dt",
          "-2 * self.rho * (b - a)", "-2 * (b - a)", process.check_slope),
    # ------------------------------------------------------------ floor 2
    Break(2, "a learned range interpolates the variance, not its logarithm", "nelbo.model.reverse:LearnedRange.of_step",
          "((1 - f) * log_beta_tilde + f * log_beta).exp()", "(1 - f) * log_beta_tilde.exp() + f * log_beta.exp()",
          learned.check_learned_range),
    Break(2, "a learned range from β to β̃", "nelbo.model.reverse:LearnedRange.of_step",
          "for level in (t, s)", "for level in (s, t)", learned.check_learned_range),
    Break(2, "v in [−1, 1] is taken for a fraction", "nelbo.model.reverse:LearnedRange.of_step",
          "0.5 * (u + 1)", "u", learned.check_learned_range),
    Break(2, "the decoder's range is linear in the variance", "nelbo.model.decoder:RangeSpread.of",
          "((1 - f) * math.log(self.low) + f * math.log(self.high)).exp()",
          "(1 - f) * self.low + f * self.high", learned.check_learned_decoder),
    Break(2, "the decoder's range ends at β̃", "nelbo.model.reverse:LearnedRange.of_decoder",
          "Beta().of_decoder(first, second)", "Beta().of_decoder(second, second)", learned.check_learned_decoder),
    Break(2, "a learned log variance is taken for a log standard deviation", "nelbo.model.decoder:LogSpread.of",
          "prediction.raw_variance().exp()", "(2 * prediction.raw_variance()).exp()", learned.check_learned_log),
    Break(2, "the halves of the output are swapped", "nelbo.model.denoiser:NetworkDenoiser.forward",
          "value, variance = value.chunk", "variance, value = value.chunk", learned.check_split),
    Break(2, "β for β̃ in the reverse step", "nelbo.model.reverse:BetaTilde.of_step",
          "forward.posterior(s, t).variance", "forward.transition(s, t).variance", model.check_reverse_kls),
    Break(2, "the KL's arguments are swapped", "nelbo.model.reverse:Reverse.kl",
          "(difference, column(q.variance, x), self.variance.of_step(s, t, prediction))",
          "(difference, self.variance.of_step(s, t, prediction), column(q.variance, x))", model.check_reverse_kls),
    Break(2, "the summed KL forgets that the variances differ in every element", "nelbo.model.reverse:Reverse.kl_sum",
          "x.shape[1:].numel() * gaussian", "gaussian", model.check_reverse_kls),
    Break(2, "the decoder's variance is β_1 for β̃_2", "nelbo.model.reverse:BetaTilde.of_decoder",
          "forward.posterior(first, second).variance", "first.sigma.square()", model.check_decoder_variance),
    Break(2, "the first-level variance is σ for σ²", "nelbo.model.decoder:DiscretizedGaussian._moments",
          "math.sqrt(self.variance)", "self.variance", model.check_half_width),
    Break(2, "the prior term without its log-variance part", "nelbo.model.prior:GaussianPrior.kl",
          "gaussian.kl_from_difference(alpha * x - self.mean, sigma.square(), variance)",
          "(0.5 * ((alpha * x - self.mean).square() + sigma.square() - variance) / variance)", model.check_prior_kl),
    Break(2, "σ for σ² in the categorical head", "nelbo.model.denoiser:CategoricalDenoiser.forward",
          "((z[..., None] - alpha * lattice) / sigma).square()", "(z[..., None] - alpha * lattice).square() / sigma",
          model.check_categorical_head),
    Break(2, "α is lost in VDM's decoder", "nelbo.model.decoder:Categorical.log_pmf",
          "alpha * lattice", "lattice", model.check_categorical_decoder),
    Break(2, "codes over K for K − 1", "nelbo.model.domain:DataDomain.values",
          "self._bins() - 1", "self._bins()", model.check_values),
    Break(2, "clipping that is asked for is not done", "nelbo.model.reverse:Reverse.clipped",
          "if self.clip is None else", "if True else", model.check_clipping),
    Break(2, "the oracle's gain has σ for σ²", "nelbo.model.exact.gaussian:ExactGaussianDenoiser.forward",
          "sigma.square())", "sigma)", model.check_gaussian_denoiser),
    Break(2, "responsibilities ignore the noise", "nelbo.model.exact.mixture:ExactMixtureDenoiser.forward",
          "component_log_prob(z, alpha, sigma)", "component_log_prob(z, alpha)", model.check_mixture_denoiser),
    Break(2, "the KL is taken in the pixels where the policy has a basis", "nelbo.model.reverse:Reverse.kl",
          "self.variance.coordinates(x - prediction.x0, t)", "(x - prediction.x0)", fitted.check_kls),
    Break(2, "noise of coordinates is added to pixels", "nelbo.model.reverse:Reverse.draw",
          "self.variance.values(variance.sqrt() * noise, t.expand(len(z_t)))", "variance.sqrt() * noise",
          fitted.check_draws),
    Break(2, "α_s c for its square before V", "nelbo.model.fitted.variance:Fitted.of_step",
          "column(q.x_coefficient, V).square()", "column(q.x_coefficient, V)", fitted.check_optimum),
    Break(2, "β̃ is forgotten beside V", "nelbo.model.fitted.variance:Fitted.of_step",
          "column(q.variance, V) + ", "", fitted.check_optimum),
    Break(2, "V does not fall above the first level", "nelbo.model.fitted.variance:log_error_at",
          " - column((t.logsnr - nodes[0].to(t.logsnr)).clamp_min(0), log_V)", "", fitted.check_tables),
    Break(2, "the nearest node for the line between two", "nelbo.model.fitted.variance:interpolated",
          "column(part, values)", "column(part.round(), values)", fitted.check_tables),
    Break(2, "a hybrid takes its parts the wrong way round", "nelbo.model.fitted.variance:HybridVariance._each",
          "(self.fine, fine.nonzero()[:, 0]), (self.coarse, (~fine).nonzero()[:, 0])",
          "(self.coarse, fine.nonzero()[:, 0]), (self.fine, (~fine).nonzero()[:, 0])", fitted.check_rows),
    Break(2, "a product of reflections with a whole diagonal", "nelbo.model.fitted.basis:_product",
          "0.5 * gram.diagonal()", "gram.diagonal()", fitted.check_reflections),
    Break(2, "reflections are undone in their own order", "nelbo.model.fitted.basis:Reflections.values",
          "T.mT", "T", fitted.check_reflections),
    Break(2, "the constant cosine is not normalised", "nelbo.model.fitted.basis:cosines",
          "matrix[0] = 1 / math.sqrt(n)", "matrix[0] = 1", fitted.check_cosines),
    Break(2, "colours are turned back the wrong way", "nelbo.model.fitted.basis:Cosine.values",
          "bdhw->bchw", "bchw->bdhw", fitted.check_bases),
    # ------------------------------------------------------------ floor 3
    Break(3, "the prior term is dropped from the sum", "nelbo.bound.estimate:Estimate.of",
          "nats = prior + diffusion[0]", "nats = diffusion[0]", ddpm.check_ddpm),
    Break(3, "the prior term is scored at the first level", "nelbo.bound.problem:Problem.prior",
          "self.levels[-1:]", "self.levels[:1]", unbiased_exhaustive),
    Break(3, "t for t − 1: a step leads nowhere near the level before", "nelbo.bound.problem:Problem.cell_columns",
          "self.levels[j - 1], at", "self.levels[(j - 2).clamp(min=0)], at", levels_exhaustive),
    Break(3, "noise of the level before: z_s for z_t", "nelbo.bound.terms:diffusion",
          "forward.noised(x, eps, t)", "forward.noised(x, eps, s)", bound.check_gaps),
    Break(3, "reconstruction is scored at the second level", "nelbo.bound.problem:Problem.reconstruction_columns",
          "self.levels[:1]", "self.levels[1:2]", unbiased_exhaustive),
    Break(3, "the continuous term loses its ½", "nelbo.bound.terms:diffusion_rate_of",
          "-0.5 * dlogsnr_dt", "-dlogsnr_dt", bound.check_continuous_gaussian),
    Break(3, "the continuous term is the ε-loss, without dλ/dt", "nelbo.bound.terms:diffusion_rate_of",
          "-0.5 * dlogsnr_dt", "0.5", bound.check_continuous_codes),
    Break(3, "the weight is off by one level: L for L − 1", "nelbo.bound.problem:Problem.diffusion_total",
          "return M *", "return (M + 1) *", unbiased_finite),
    Break(3, "positions off by one level", "nelbo.bound.problem:Problem.diffusion_total",
          ".clamp(max=M - 1)", ".clamp(min=1, max=M - 1)", unbiased_finite),
    Break(3, "the continuous grid ends halfway", "nelbo.bound.cells:Cells.of",
          "edges = first + (last - first) *", "edges = first + 0.5 * (last - first) *", unbiased_continuous),
    Break(3, "a slice of λ weighs twice its width", "nelbo.bound.problem:Problem.cell_columns",
          "at, -2 * c, condition", "at, -4 * c, condition", unbiased_continuous),
    Break(3, "noise is reused across levels", "nelbo.bound.problem:Problem._batch",
          "examples, keys, draws,", "examples, 0 * keys, draws,", error_exhaustive),
    Break(3, "noise is reused across examples", "nelbo.bound.problem:Problem._batch",
          "examples, keys, draws,", "0 * examples, keys, draws,", bound.check_noise_keys),
    Break(3, "noise is reused across draws", "nelbo.bound.problem:Problem._batch",
          "examples, keys, draws,", "examples, keys, 0 * draws,", error_exhaustive),
    Break(3, "the variance of a mean is not divided by its draws", "nelbo.bound.estimators:Exhaustive._level",
          "by_draw.var(0) / self.draws", "by_draw.var(0)", error_exhaustive),
    Break(3, "the variance of paired examples is that of one draw", "nelbo.bound.estimators:Exhaustive._level",
          "float(difference.square().mean()) / 2", "float(difference.square().mean())", error_paired),
    Break(3, "the variance of a stratum is not divided by its two draws", "nelbo.bound.estimators:Stratified.estimate",
          ".square() / 4 / self.strata**2", ".square() / 2 / self.strata**2", error_stratified),
    Break(3, "draws that are added do not shorten the errors they have", "nelbo.bound.per_example:_beside",
          "= share * errors", "= errors", check_drawn_again),
    Break(3, "draws that were there do not lose their share", "nelbo.bound.per_example:_beside",
          "*= 1 - share", "*= 1", check_drawn_again),
    Break(3, "no network is the worse of two guesses", "nelbo.bound.sanity:without_network",
          "torch.minimum(", "torch.maximum(", without_network),
    Break(3, "no network errs by the spread, not its root", "nelbo.bound.sanity:without_network",
          "spread)).sqrt()", "spread))", without_network),
    Break(3, "the data error keeps the estimator's noise", "nelbo.bound.estimate:TermEstimate.of",
          "spread - share", "spread", bound.check_data_error),
    Break(3, "the flow's drift without its ½: the reverse SDE's", "nelbo.likelihood.ode:drift",
          "0.5 * column(at.alpha, z) * x0", "column(at.alpha, z) * x0", ode.check_drift),
    Break(3, "the flow's drift without α", "nelbo.likelihood.ode:drift",
          "0.5 * column(at.alpha, z) * x0", "0.5 * x0", ode.check_exact),
    Break(3, "the flow's drift shrinks z the wrong way", "nelbo.likelihood.ode:drift",
          "return column(at.path", "return -column(at.path", ode.check_exact),
    Break(3, "the divergence has the wrong sign", "nelbo.likelihood.ode:log_density",
          "solution.divergence", "-solution.divergence", ode.check_exact),
    Break(3, "the flow is followed from noise to data", "nelbo.likelihood.ode:span",
          "float(levels.logsnr[0]), float(levels.logsnr[-1])", "float(levels.logsnr[-1]), float(levels.logsnr[0])",
          ode.check_exact),
    Break(3, "the trace is that of one dimension", "nelbo.likelihood.ode:with_divergence",
          "trace += row.flatten(1)[:, d]", "trace += row.flatten(1)[:, 0]", ode.check_exact),
    Break(3, "a change of scale without its D log", "nelbo.likelihood.ode:solve",
          "total + D * (scales[0] - scales[1])", "total", ode.check_exact),
    Break(3, "the end of the flow is scored where it began", "nelbo.likelihood.ode:log_density",
          "end_density(model, solution.z)", "end_density(model, z)", ode.check_exact),
    Break(3, "uniform dequantisation without its Jacobian", "nelbo.likelihood.dequantisation:uniform",
          "-domain.dimensions * width.log()", "torch.zeros_like(width)", ode.check_dequantisation),
    Break(3, "uniform dequantisation adds to one side", "nelbo.likelihood.dequantisation:uniform",
          "(u - 0.5)", "u", ode.check_dequantisation),
    Break(3, "a bin is 1/K of the range", "nelbo.likelihood.dequantisation:bin_width",
          "(domain._bins() - 1)", "domain._bins()", ode.check_dequantisation),
    Break(3, "a cut normal without its normaliser", "nelbo.likelihood.dequantisation:truncated_normal",
          "(first.log_sigma + log_mass)", "first.log_sigma", ode.check_dequantisation),
    Break(3, "a cut normal without log σ", "nelbo.likelihood.dequantisation:truncated_normal",
          "(first.log_sigma + log_mass)", "log_mass", ode.check_dequantisation),
    Break(3, "a fitted start without the slope of its spline", "nelbo.likelihood.fitted:DequantisationFlow.start",
          "-log_slope.flatten(1).sum(1) - domain", "-domain", ode.check_fitted),
    Break(3, "a fitted start without its Jacobian", "nelbo.likelihood.fitted:DequantisationFlow.start",
          "domain.dimensions * width.log()", "0 * width.log()", ode.check_fitted),
    Break(3, "the fit climbs away from the density", "nelbo.likelihood.fitted:fit",
          "begun.log_q - gained", "begun.log_q + gained", ode.check_fit_finds_the_law),
    Break(3, "the score without σ²", "nelbo.likelihood.fitted:score",
          "column(first.sigma, z).square()", "1.0", ode.check_fit_finds_the_law),
    Break(3, "a spline's slope has one s for two", "nelbo.maths.spline:rational_quadratic",
          "2 * s.log() +", "s.log() +", spline.check_spline),
    Break(3, "the entropy of the start is left out", "nelbo.likelihood.scores:_solved",
          "begun.log_q.cpu(), begun", "0 * begun.log_q.cpu(), begun", ode.check_codes),
    Break(3, "the residual below the first level is left out", "nelbo.likelihood.scores:_solved",
          "begun.reconstruction.cpu()", "0 * begun.reconstruction.cpu()", ode.check_residual),
    Break(3, "the density of z_1 for that of x", "nelbo.likelihood.dequantisation:start",
          "-first.log_alpha * domain.dimensions", "0 * first.log_alpha", ode.check_real),
    # ------------------------------------------------------------ floor 4
    Break(4, "the cost of a step has ρ² for ρ", "nelbo.tightening.steps:expected",
          "rho * (square - V)", "rho**2 * (square - V)", covariance.check_expected),
    Break(4, "the cost of a step without its logarithm's ½", "nelbo.tightening.steps:expected",
          "0.5 * (rho", "(rho", covariance.check_expected),
    Break(4, "the length of a step is e^{λ_s − λ_t}, not that less one", "nelbo.tightening.steps:StepCost.of",
          "torch.expm1(s.logsnr - t.logsnr)", "torch.exp(s.logsnr - t.logsnr)", covariance.check_costs),
    Break(4, "short steps cost what the shortest of the table does", "nelbo.tightening.steps:StepCost.at",
          " + short", "", covariance.check_costs),
    Break(4, "first moments for second", "nelbo.tightening.families:Diagonal.take",
          ".double().square()", ".double().abs()", covariance.check_scalar),
    Break(4, "the gradient of the regression forgets the squares", "nelbo.tightening.gamma:_value",
          "rest = y * (-eta).exp()", "rest = (-eta).exp()", covariance.check_gamma),
    Break(4, "the regression's slope has V for y", "nelbo.tightening.regress:_derivatives",
          "r * (V - y)", "r * V", covariance.check_regress),
    Break(4, "the regression is of the squares, whatever the step", "nelbo.tightening.regress:cost",
          "total += (r * (y - V) / (1 + x) + torch.log1p(x)).mean(1)",
          "total += (y / V + V.log()).mean(1)", covariance.check_regress),
    Break(4, "an input-dependent variance is priced against another constant than it is fitted from",
          "nelbo.tightening.regressions:Regression.chosen",
          "self.base.banded()", "self.base.found().cost", covariance.check_prices),
    Break(4, "what is fitted to one half is scored on the same", "nelbo.tightening.regressions:Regression.close",
          "half, X_half = self._fit(F[:, ~left], y[:, ~left], rho, whole[\"w\"])", "half, X_half = whole, X[:, ~left]",
          covariance.check_turns),
    Break(2, "slopes to the right only", "nelbo.model.fitted.pixel_map:_slopes",
          " + pad(across, (1, 0))", "", covariance.check_surroundings),
    Break(2, "distances to one end twice", "nelbo.model.fitted.pixel_map:surroundings",
          "(1 - position)", "(1 + 1 * position)", covariance.check_surroundings),
    Break(4, "noise of z is told to the features as that of x̂", "nelbo.model.fitted.local:energies",
          "(z - column(t.alpha, z) * x0)", "(z - column(t.alpha, z) * z)", covariance.check_energies),
    Break(4, "blocks are put back transposed", "nelbo.model.fitted.local:from_blocks",
          "permute(0, 1, 4, 2, 5, 3)", "permute(0, 1, 5, 2, 4, 3)", covariance.check_energies),
    Break(4, "a word of the network is taken for a fraction", "nelbo.model.fitted.variance:predicted_log_variance",
          "0.5 * (u + 1)", "0.5 * (u + 2)", covariance.check_learned),
    Break(4, "the slope of what a network says keeps the scale of the fit",
          "nelbo.tightening.regressions:Learned.found",
          'tables["w"][:, 0, 1] / tables["scale"][:, 0, 0]', 'tables["w"][:, 0, 1]', covariance.check_learned),
    # ------------------------------------------------------------ floor 4: the codec
    Break(4, "latents drawn without the signal's decay", "nelbo.codec.lattice:LatticeChain.forward_mean",
          "self._ratio(j) * ", "", codec.check_draws),
    Break(4, "lattice points of twice their width", "nelbo.codec.lattice:LatticeChain.coordinates",
          "2**MEAN_BITS", "2 * 2**MEAN_BITS", codec.check_draws),
    Break(4, "a width of the wrong level", "nelbo.codec.lattice:LatticeChain.reverse",
          "self.delta[j - 2]", "self.delta[j - 1]", codec.check_path),
    Break(4, "a variance for a standard deviation", "nelbo.codec.lattice:LatticeChain.reverse",
          "0.5 * variance", "variance", codec.check_path),
    Break(4, "latents that are not turned back", "nelbo.codec.lattice:LatticeChain.values",
          "self.model.reverse.variance.values(z, self.level(j + 1, len(z)))", "z", codec.check_path_in_a_basis),
    Break(4, "exceptions rounded the other way", "nelbo.codec.lattice:Guard.__call__",
          "+ bit", "+ 1 - bit", codec.check_guard),
    Break(4, "a guard band of half its width", "nelbo.codec.lattice:Guard.__call__",
          "< self.tau", "< 0.5 * self.tau", codec.check_guard),
]  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_truth():
    """Exact values are computed with the code as it stands, never kept from one that was broken."""
    bound._EXACT.clear()
    yield
    bound._EXACT.clear()


def _name(check: Callable[[], None]) -> str:
    return f"{check.func.__name__}({check.args[0]})" if isinstance(check, functools.partial) else check.__name__


@functools.cache
def passes(check: Callable[[], None]) -> bool:
    """The check passes on the code as it stands (once a check, whatever the number of its breaks)."""
    check()
    return True


@pytest.mark.parametrize("broken", BREAKS, ids=[f"{b.floor}: {b.what} -> {_name(b.check)}" for b in BREAKS])
def test_break_is_caught(broken: Break, monkeypatch: pytest.MonkeyPatch):
    assert passes(broken.check)
    bound._EXACT.clear()
    apply(monkeypatch, broken.target, broken.old, broken.new)
    with pytest.raises(AssertionError):
        broken.check()


@pytest.mark.parametrize("floor", [0, 1, 2, 3])
def test_every_floor_is_broken_often_enough(floor):
    assert sum(b.floor == floor for b in BREAKS) >= 8
    assert len({b.target for b in BREAKS if b.floor == floor}) >= 5


def test_a_stale_break_says_so(monkeypatch):
    with pytest.raises(AssertionError, match=r"holds 'no such text' 0 times: update the break"):
        apply(monkeypatch, "nelbo.maths.units:bits_per_dim", "no such text", "")


def test_a_break_is_undone(monkeypatch):
    with monkeypatch.context() as patch:
        apply(patch, "nelbo.maths.units:bits_per_dim", " * LOG_2", "")
        with pytest.raises(AssertionError):
            ground.check_units()
    ground.check_units()


@pytest.mark.parametrize(
    "check",
    [
        ground.check_kl,
        ground.check_density_and_entropy,
        ground.check_log1mexp,
        ground.check_interval,
        ground.check_merge,
        ground.check_units,
        ground.check_keys,
    ],
    ids=_name,
)
def test_the_ground_stands(check):
    check()
