"""Floors 0 and 1 broken on purpose: mathematics, levels, schedules, the forward process, what a network predicts."""

from __future__ import annotations

import functools

from tests.maths import test_gaussian as gaussian
from tests.maths import test_random as random
from tests.maths import test_spline as spline
from tests.maths import test_stable as stable
from tests.maths import test_units as units
from tests.model import checks as model
from tests.mutations.breaks import Break, each_is_noticed
from tests.mutations.places import call, comparison, display, field, number, operation, result
from tests.process import checks as process
from tests.process import test_grid as grid
from tests.process import test_schedule as schedules

pmf_sums = functools.partial(model.check_pmf_sums, "discretized_gaussian", 17)
law_path = functools.partial(schedules.test_law, "logsnr-vp", process.law_path)
law_slope = functools.partial(schedules.test_law, "logsnr-vp", schedules.law_slope)
law_slope_of_flow = functools.partial(schedules.test_law, "flow", schedules.law_slope)
law_composition = functools.partial(schedules.test_law, "linear-20", process.law_composition)
law_schur = functools.partial(schedules.test_law, "betas", process.law_schur)

BREAKS = [
    # ------------------------------------------------------------ Gaussians
    Break("the KL loses its ½", "kl_from_difference", operation("*").keep_right(), gaussian.test_kl_against_quadrature),
    Break("the logarithm of the KL with a plus", "kl_from_difference", operation("-")[2].to("+"), "chain-to-kl",
          "kl-definition", "kl-gaussian-isotropic", "kl-nonnegative", "noise-loss", "rao-blackwell-total",
          "vae-loss-split", "vlb-three-terms"),
    Break("the KL adds the means", "kl", operation("-").to("+"), "vae-elbo"),
    Break("a KL of vectors with its log-determinant turned", "kl_multivariate", operation("+").to("-"),
          "joint-kl-chain-rule", "kl-gaussian-multivariate"),
    Break("a normal density without its log-variance", "gaussian:log_density", operation("+")[0].keep_left(),
          gaussian.test_density_and_entropy, "chain-merge-prior", "likelihood-to-bound", "mle-objective", "vlb-add-kl",
          "vlb-expand-kl", "vlb-split-log"),
    Break("the entropy without its 1", "gaussian:entropy", operation("+")[0].keep_right(), "joint-kl-chain-rule"),
    # ------------------------------------------------------------ bins and stable forms
    Break("half a bin is a whole one", "_bin", operation("/")[1].times(2), model.check_half_width),
    Break("the upper end bin is closed: masses no longer sum to one", "_bin", comparison("==")[1].to(">"),
          pmf_sums),
    Break("the open end ends at the middle of its bin", "_bin", call("where").argument(1).negated(),
          "decoder-likelihood", "decoder-mass-monotone", "decoder-normalised", "delta-posterior-merged"),
    Break("the mean of a narrow bin without its curvature", "_narrow", call("mul").times(0), "decoder-dropped"),
    Break("edges a whole level away", "bin_edges", operation("-")[0].keep_left(), "decoder-bin-edges"),
    Break("the sign of expm1 in log1mexp", "log1mexp", call("expm1").argument(0).times(2), stable.test_log1mexp),
    Break("a spline's slope has one s for two", "rational_quadratic",
          operation("*").within(operation("-")[-1])[0].keep_right(), spline.test_spline),
    # ------------------------------------------------------------ units, noise
    Break("bits for nats", "bits_per_dim", operation("*").keep_left(), units.test_uniform_bytes_have_eight_bits,
          "vlb-average-data"),
    Break("the level is lost from the counter of the generator", "_chunks", display(4)[0].argument(2).times(0),
          random.test_normal_is_box_muller_of_the_documented_words),
    # ------------------------------------------------------------ levels and schedules
    Break("α² for α on the VP path", "Path.log_alpha", operation("*")[0].keep_right(), law_path),
    Break("σ² for σ on the VP path", "Path.log_sigma", operation("*")[0].keep_right(), law_path,
          "forward-transition-general", "pointwise-bound-fallacy", "snr-definition"),
    Break("the slope of log σ on the flow path is that of VP", "Path.dlog_sigma", number(0.5)[2].to(1.0),
          process.check_conversions),
    Break("α for ᾱ: the product over steps is lost", "from_betas", call("cumsum").drop(), process.check_linear,
          "schedule-definitions", "vlb-cancel-evidence"),
    Break("levels without −log(1 − ᾱ)", "from_betas", operation("-").keep_left(), process.check_from_betas),
    Break("√ᾱ taken for ᾱ", "from_alphas_cumprod", call("logit").argument(0).power(0.5), "schedule-definitions"),
    Break("the table of betas is one too long", "schedule:linear", call("linspace").argument(2).plus(1),
          "reparam-marginal"),
    Break("the cosine table without its offset's normaliser", "schedule:cosine", operation("/")[2].keep_left(),
          process.check_cosine),
    Break("t − 1 for t: positions are off by one", "Table.at_index", operation("+").keep_left(),
          process.check_table_positions),
    Break("the slope of λ has the wrong sign", "LogSNRLinear.dlogsnr_dt", operation("-").swapped(),
          law_slope),
    Break("the slope of the flow law", "Flow.dlogsnr_dt", number(2).to(1), law_slope_of_flow),
    Break("a level is forgotten where the decoder does not call the network", "Even.levels",
          operation("+")[0].keep_left(), process.check_steps),
    Break("the Karras grid is quadratic in its root", "Karras.times", operation("*")[-1].right().power(2),
          grid.test_spaced_on_a_law),
    Break("the density's shares are not summed", "of_bound", operation("/")[0].keep_left(),
          grid.test_where_the_bound_sits),
    # ------------------------------------------------------------ the forward process
    Break("ᾱ_t for α_t in the transition", "forward:transition", operation("-").keep_left(),
          process.check_transition_ddpm, "chain-factorise", "chain-markov-insert", "five-lines",
          "forward-chain-product", "forward-kernel", "kl-route-bayes", "kl-route-split", "markov-conditioning",
          "reparam-two-step", "vdm-joint-kl"),
    Break("the transition's variance is that of the marginal", "forward:transition", operation("*").keep_left(),
          law_composition),
    Break("1 − SNR ratio with a root too much", "one_minus_snr_ratio", result().power(0.5),
          law_schur, "loss-eps-weighted", "vlb-substitute-kernels"),
    Break("noise that keeps α² of the image", "noised", field("alpha").power(2), "argmin-bound-vs-mle",
          "chain-joint-to-conditional-x0", "chain-telescope", "diffusion-kernel-jump", "forward-marginal",
          "reparam-step", "telescoping-product"),
    Break("α_t for α_s before x in the posterior", "forward:posterior", field("alpha").receiver().becomes("t"),
          law_schur, "chain-cancel-qx0", "chain-joint-refactor", "chain-log-expand",
          "forward-bayes-conditional", "forward-posterior", "loss-mean-matching", "posterior-mean", "thirteen-lines",
          "vdm-posterior"),
    Break("the posterior's variance is β", "forward:posterior", field("sigma").receiver().becomes("t"),
          process.check_posterior_ho, "posterior-variance"),
    Break("the posterior's mean without its noisy part", "forward:posterior_mean", operation("+").keep_right(),
          "chain-absorb-first", "kl-route-rearrange", "posterior-mean-eps"),
    Break("responsibilities of a mixture without the noise", "Mixture.posterior_mean", operation("+")[0].keep_left(),
          "mixture-posterior"),
    # ------------------------------------------------------------ predictions
    Break("σ² for σ in x̂ from the noise", "x0_from", operation("*").within(operation("/")[0]).left().power(2),
          process.check_conversions, "vlb-jensen", "x0-from-eps"),
    Break("the sign of v", "x0_from", operation("-")[-1].to("+"), process.check_conversions, "param-v"),
    Break("v loses α before ε", "from_x0", operation("*")[-2].keep_right(), process.check_conversions,
          "loss-conversions"),
    Break("the score is not divided by σ", "from_x0", operation("/")[-1].keep_left(), process.check_conversions),
    Break("EDM's c_in is forgotten", "preconditioning", operation("/")[-1].power(0), process.check_network_inputs),
    Break("EDM's network sees z for z/α", "network_input", operation("/").keep_left(), process.check_network_inputs),
    Break("clipping at the upper end only", "Prediction.clipped", call("clamp").argument(0).times(100.0),
          "reverse-transition"),
]  # fmt: skip

test_break_is_noticed = each_is_noticed(BREAKS)
