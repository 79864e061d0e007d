"""The bound and the likelihood of the ODE broken on purpose: terms, problem, estimators, error bars, the flow."""

from __future__ import annotations

import functools

from tests.bound import checks as bound
from tests.bound import ddpm
from tests.bound import test_checks as warned
from tests.bound import test_collapsed as single
from tests.bound.ragged import test_sets as sets
from tests.bound.test_cost import check_what_the_pilot_knows
from tests.bound.test_passes import check_variance as passes
from tests.bound.test_per_example import test_draws_of_the_same_examples_are_averaged as drawn_again
from tests.bound.test_pooled import check_credit, check_what_laps_save
from tests.bound.test_surrogate import check_local_surrogate as local_surrogate
from tests.bound.test_taught_surrogate import check_taught as taught
from tests.bound.test_unseen import check_missing as unseen
from tests.likelihood import checks as ode
from tests.mutations.breaks import Break, each_is_noticed
from tests.mutations.places import call, display, field, number, operation, result, subscript

unbiased_finite = functools.partial(bound.check_unbiased, "stratified-finite")
unbiased_continuous = functools.partial(bound.check_unbiased, "stratified-continuous")
unbiased_exhaustive = functools.partial(bound.check_unbiased, "exhaustive-2")
levels_exhaustive = functools.partial(bound.check_levels_unbiased, "exhaustive-2")
error_exhaustive = functools.partial(bound.check_predicted_error, "exhaustive-2")
error_paired = functools.partial(bound.check_predicted_error, "exhaustive-1-paired")
error_stratified = functools.partial(bound.check_predicted_error, "stratified-finite")
continuous_gaussian = functools.partial(bound.check_continuous, "gaussian", 4.0, -5.0)
continuous_codes = functools.partial(bound.check_continuous, "codes", 5.0, -6.0)
gap = functools.partial(bound.check_gap, bound.LINES["imperfect"], "beta", 5)
laps_save = functools.partial(check_what_laps_save, "unequal")
without_network = functools.partial(warned.test_no_network_is_what_it_is_said_to_be, "beta", warned.DOMAIN)

BREAKS = [
    # ------------------------------------------------------------ terms and problem
    Break("a step is one from a level to itself", "terms:diffusion", call("kl_sum").argument(2).becomes("t"),
          gap, "vdm-denoising-matching", "loss-term-denoise"),
    Break("the network sees no noise", "GaussianChain.term", call("predict").argument(0).becomes("x"),
          unbiased_exhaustive),
    Break("the continuous term loses its ½", "terms:diffusion_rate", number(0.5).to(1.0),
          continuous_gaussian, "snr-and-limit", "snr-continuous-limit", "time-derivative-kl",
          "weighted-loss", "weighted-loss-elbo-augmentation"),
    Break("the continuous term is the ε-loss, without dλ/dt", "terms:diffusion_rate", operation("*")[0].keep_left(),
          continuous_codes),
    Break("the first step scores the state itself", "terms:reconstruction", call("nll").argument(0).becomes("z"),
          "chain-split-first", "vlb-sum-form"),
    Break("bits/dim of sets are of twice their numbers", "Estimate.a_number", call("int").times(2),
          sets.test_gaussians_of_every_length),
    Break("the prior term is dropped from the sum", "Estimate.of", operation("+")[0].keep_right(), ddpm.check_ddpm),
    Break("the prior term is scored at the first level", "GaussianChain.prior", subscript()[-1].to(":1"),
          unbiased_exhaustive),
    Break("reconstruction is scored at the second level", "GaussianChain._levels_of", subscript()[0].to("1:2"),
          unbiased_exhaustive),
    Break("every step leads to the first level", "GaussianChain.term", call("diffusion").argument(3).to(":1"),
          levels_exhaustive, "loss-index-convention"),
    Break("a slice of λ weighs twice its width", "GaussianChain.term", number(2).to(4), unbiased_continuous),
    Break("the weight is off by one level: L for L − 1", "diffusion_total", result().left().plus(1),
          unbiased_finite),
    Break("positions off by one level", "diffusion_total", call("floor").to("ceil"), unbiased_finite),
    Break("the continuous grid ends halfway", "cells_of", operation("-")[0].times(0.5), unbiased_continuous,
          "snr-schedule-invariance"),
    Break("the scale of a cell without its ½", "cells_of", operation("*")[1].keep_right(), "snr-eps-expm1"),
    Break("noise is reused across examples", "GaussianChain._noise", call("normal").argument(1).times(0),
          bound.check_noise_keys),
    Break("noise is reused across levels", "GaussianChain._noise", call("normal").argument(2).times(0),
          error_exhaustive),
    Break("the local surrogate's products count once", "LocalSurrogate.excess", number(2)[-1].to(1), local_surrogate),
    Break("neighbourhoods alone, without their band", "local_surrogate:_variances", operation("*")[0].keep_left(),
          local_surrogate),
    Break("a network's law without the strength of the noise", "_Sums.of", operation("/")[0].keep_left(), taught),
    Break("and with a mean that is the data's", "_Sums.law", subscript()[-1].times(0), taught),
    # ------------------------------------------------------------ estimators and error bars
    Break("a level is forgotten by the exhaustive estimator", "Exhaustive.estimate", call("range").argument(0).plus(-1),
          "vlb-average-data"),
    Break("the variance of a mean is not divided by its draws", "Exhaustive._by_example", operation("/")[0].keep_left(),
          error_exhaustive),
    Break("the variance of a stratum is not divided by its two draws", "Stratified.estimate", number(4).to(2),
          error_stratified),
    Break("draws that are added do not shorten the errors they have", "with_errors", operation("*").keep_right(),
          drawn_again),
    Break("the variance of passes is not over their draws", "error_bars:of_samples", operation("/")[1].keep_left(),
          passes),
    Break("examples of passes count once for all", "_Draws.summary", operation("/")[0].keep_left(), passes),
    Break("an exhaustive error bar is of one level", "Exhaustive.estimate", call("_squares")[0].times(0), passes),
    Break("the mean's share of squares is that of a sum", "Exhaustive._squares", operation("/")[0].keep_left(), passes),
    Break("what is missing weighs as the neighbour's draws", "unseen:missing", operation("*")[1].keep_left(), unseen),
    Break("all levels lack errors", "unseen:missing", operation("*")[-1].keep_left(), unseen),
    Break("the side with more noise lacks errors", "unseen:missing", subscript()[-1].to("1:"), unseen),
    Break("a single draw varies as the mean of two", "collapsed:of_strata", number(2)[0].to(4), single.check_ratio),
    Break("a pair's third cumulant for a draw's", "collapsed:third_of_single", number(4).to(2), single.check_third),
    Break("of three neighbours the first two are weighed as a pair", "collapsed:errors",
          call("sqrt").argument(0).becomes(1), single.check_contrasts),
    Break("errors of single draws are multiplied as squares", "with_ratio", call("sqrt").drop(), single.check_scaled),
    Break("wild examples that are drawn twice are not cut off", "collapsed:ratio", call("clamp_max").drop(),
          single.check_weights),
    Break("examples that are drawn twice stand for one each", "collapsed:ratio", operation("*")[1].keep_right(),
          single.check_weights),
    Break("single draws at the first level vary by the square of two", "collapsed:of_one", call("var").times(2),
          single.check_design),
    Break("the data error keeps the estimator's noise", "TermEstimate.of", call("Spread").argument(1).times(0),
          bound.check_data_error),
    Break("the control variate forgets the mean of the data", "GaussianSurrogate.coordinates",
          operation("-").keep_left(), "eps-optimal-predictor"),
    Break("no network errs by the spread, not its root", "without_network", call("sqrt").drop(), without_network),
    Break("a plan that is cut off says that it is enough", "blocks_plan:for_error", operation("*")[7].keep_left(),
          check_what_the_pilot_knows),
    Break("the pilot's value is that of the first level", "of_pilot", operation("+")[5].keep_left(),
          check_what_the_pilot_knows),
    Break("a repeated example counts as often as it is drawn", "Folds.repeats", operation("/")[1].keep_left(),
          laps_save),
    Break("numbers of draws for their squares", "Folds.repeats", call("square")[0].drop(), laps_save),
    Break("pairs of draws of one lap", "Folds.repeats", operation("-")[-1].keep_left(), laps_save),
    Break("a credit without its error", "laps:credit", operation("-")[-1].keep_left(), check_credit),
    Break("a pilot that counts as much as draws", "laps:credit", operation("/")[3].keep_left(), check_credit),
    # ------------------------------------------------------------ the flow
    Break("the flow's drift without its ½: the reverse SDE's", "drift", number(0.5).to(1.0), ode.check_drift),
    Break("the flow's drift shrinks z the wrong way", "drift", call("column")[0].negated(), ode.check_exact),
    Break("the flow is followed from noise to data", "span", display(2)[-1].swapped(), ode.check_exact),
    Break("the trace is that of one dimension", "trace:divergence", subscript()[-2].to(":, 0"), ode.check_exact),
    Break("a change of scale without its D log", "solve", operation("+")[-1].keep_left(), ode.check_exact),
    Break("the divergence has the wrong sign", "ode:log_density", field("divergence").negated(), ode.check_exact),
    Break("the end of the flow is scored where it began", "ode:log_density", field("z").becomes("z"), ode.check_exact),
    # ------------------------------------------------------------ where the flow starts
    Break("uniform dequantisation without its Jacobian", "dequantisation:uniform", call("_numbers").times(0),
          ode.check_dequantisation),
    Break("a bin is 1/K of the range", "bin_width", operation("-")[-1].keep_left(), ode.check_dequantisation),
    Break("a cut normal without its normaliser", "truncated_normal", operation("+")[1].keep_left(),
          ode.check_dequantisation),
    Break("a fitted start without the slope of its spline", "DequantisationFlow.start", call("sum").times(0),
          ode.check_fitted),
    Break("a fitted start without its Jacobian", "DequantisationFlow.start", field("dimensions")[1].times(0),
          ode.check_fitted),
    Break("the fit climbs away from the density", "dequantisation:fit", operation("-")[0].to("+"),
          ode.check_fit_finds_the_law),
    Break("the entropy of the start is left out", "_solved", call("cpu")[2].times(0), ode.check_codes),
    Break("the residual below the first level is left out", "_solved", call("cpu")[3].times(0), ode.check_residual),
    Break("the density of z_1 for that of x", "dequantisation:start", field("log_alpha").times(0), ode.check_real),
]  # fmt: skip

test_break_is_noticed = each_is_noticed(BREAKS)
