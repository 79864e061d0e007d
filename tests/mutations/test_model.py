"""Floor 2 broken on purpose: denoiser, reverse process, decoder, prior, fitted variances, models with closed forms."""

from __future__ import annotations

import pytest

from tests.model import checks as model
from tests.model import fitted, learned
from tests.mutations.breaks import Break, assert_noticed, cases
from tests.mutations.places import call, comparison, display, field, negation, number, operation
from tests.tightening import covariance_checks as covariance

BREAKS = [
    # ------------------------------------------------------------ reverse process
    Break("β for β̃ in the reverse step", "BetaTilde.of_step", call("posterior").to("transition"),
          model.check_reverse_kls, "elbo-gap-identity", "snr-ddpm-equivalence"),
    Break("β̃ for β in the reverse step", "Beta.of_step", call("transition").to("posterior"),
          "chain-conditional-to-joint", "kl-route-negate", "reverse-transition", "sigma-choices"),
    Break("the decoder's variance is β_2 for β̃_2", "BetaTilde.of_decoder", call("posterior").to("transition"),
          model.check_decoder_variance),
    Break("the step's mean with the levels swapped", "Reverse.step", call("posterior_mean").swapped(2, 3),
          "kl-route-linearity", "model-mean-eps", "rao-blackwell-gradient", "vlb-pull-prior"),
    Break("the step's noise has its variance for its standard deviation", "Reverse.draw", call("sqrt").drop(),
          "latent-marginal", "sampling-step"),
    Break("noise of coordinates is added to pixels", "Reverse.draw", call("values").keep_argument(0),
          fitted.check_draws),
    Break("the KL's arguments are swapped", "Reverse.kl", call("kl_from_difference").swapped(1, 2),
          model.check_reverse_kls),
    Break("the KL from the coefficient of z", "Reverse.kl", field("x_coefficient").to("z_coefficient"),
          "snr-discrete-loss"),
    Break("the KL is taken in the pixels where the policy has a basis", "Reverse.kl",
          call("coordinates").keep_argument(0), fitted.check_kls),
    Break("the summed KL counts one element", "Reverse.kl_sum", operation("*")[0].keep_right(),
          model.check_reverse_kls),
    Break("the summed KL from the coefficient of z", "Reverse.kl_sum", field("x_coefficient").to("z_coefficient"),
          "loss-term-denoise", "rao-blackwell-random-t", "rao-blackwell-term", "snr-monotone-refinement"),
    Break("clipping that is asked for is not done", "Reverse.clipped", comparison("is").becomes(True),
          model.check_clipping),
    Break("a learned range from β to β̃", "LearnedRange.of_step", display(2).swapped(), learned.check_learned_range),
    Break("a learned range takes v in [−1, 1] for [−½, ½]", "LearnedRange.of_step", operation("*")[0].keep_right(),
          learned.check_learned_range),
    Break("the decoder's range is linear in the variance", "RangeSpread.of", call("log")[0].drop(),
          learned.check_learned_decoder),
    Break("a learned log variance is taken for a log standard deviation", "LogSpread.of", call("raw_variance").times(2),
          learned.check_learned_log),
    # ------------------------------------------------------------ prior, decoder, denoiser
    Break("the prior is scored with σ for σ²", "GaussianPrior.kl", call("square").drop(), model.check_prior_kl),
    Break("the prior forgets its mean", "GaussianPrior.kl", operation("-").keep_left(), model.check_prior_kl),
    Break("the prior term looks at clean data", "GaussianPrior.kl", operation("*").keep_right(), "forward-limit-prior",
          "loss-term-prior", "prior-term-constant", "rao-blackwell-independent-draws", "vae-as-one-step-diffusion",
          "vdm-prior", "weighted-loss-abel-discrete"),
    Break("the prior is drawn with a wrong spread", "GaussianPrior.draw", call("sqrt").times(1.1), "prior-normal"),
    Break("the first-level variance is σ for σ²", "DiscretizedGaussian._moments", call("sqrt")[1].drop(),
          model.check_half_width),
    Break("the mass of a code under another mean", "DiscretizedGaussian.nll",
          call("bin_log_mass").argument(1).times(0.5), "delta-posterior-kl"),
    Break("α is lost in VDM's decoder", "Categorical.log_pmf", operation("*")[1].keep_right(),
          model.check_categorical_decoder, "bayes-rule", "map-equals-mle-flat-prior", "posterior-of-truth-is-not-one",
          "variational-diffusion", "vdm-reconstruction"),
    Break("the decoder of real data is centred at z and not at z/α", "ContinuousGaussian._moments",
          operation("/").keep_left(), "latent-posterior-bayes"),
    Break("the decoder of real data takes σ for σ²", "ContinuousGaussian._moments", field("variance")[1].power(0.5),
          "delta-posterior-insert", "kl-route-drop-kl", "kl-route-flip-ratio", "vae-to-diffusion", "vdm-sign"),
    Break("the sign of the decoder of real data", "ContinuousGaussian.nll", negation().drop(), "loss-term-recon",
          "posterior-kl-not-the-objective"),
    Break("a decoder that forgets z", "NetworkMixture._near", operation("+")[3].keep_left(), "mixture-posterior"),
    Break("σ for σ² in the categorical head", "CategoricalDenoiser.forward", operation("/").right().power(0.5),
          model.check_categorical_head),
    Break("the halves of the output are swapped", "NetworkDenoiser.forward", call("chunk").reversed(),
          learned.check_split),
    Break("codes over K for K − 1", "DataDomain.values", operation("-")[-1].keep_left(), model.check_values,
          "pixel-scaling"),
    # ------------------------------------------------------------ closed forms
    Break("the Gaussian's gain has σ for σ²", "ExactGaussianDenoiser.forward", call("square")[1].drop(),
          model.check_gaussian_denoiser, "pf-ode-likelihood"),
    Break("the Gaussian's posterior variance is not normalised", "ExactGaussianDecoder._posterior",
          operation("/")[1].keep_left(), "bayes-normaliser"),
    Break("responsibilities ignore the noise", "ExactMixtureDenoiser.forward", call("component_log_prob").without(2),
          model.check_mixture_denoiser, "dsm-esm", "eps-optimal-predictor", "mmse-information", "param-score-tweedie",
          "pf-ode", "probability-flow"),
    Break("the exact reverse conditional multiplies by p(x)", "ExactMixtureDecoder.nll", operation("-")[1].to("+"),
          "forward-bayes-marginal", "reverse-gaussian-small-beta"),
    Break("standard deviations of noises added", "MixtureData.noised", operation("**")[0].keep_left(),
          "gaussian-merge"),
    Break("Simpson's rule divides by 2", "MixtureData.entropy", number(3).to(2), "mle-to-kl"),
    # ------------------------------------------------------------ fitted variances
    Break("α_s c for its square before V", "Fitted.of_step", call("square").drop(), fitted.check_optimum),
    Break("β̃ is forgotten beside V", "Fitted.of_step", operation("+").keep_right(), fitted.check_optimum),
    Break("V does not fall above the first level", "log_error_at", operation("-")[0].keep_left(), fitted.check_tables),
    Break("the right node for the line between two", "interpolated", call("column").power(0.5), fitted.check_tables),
    Break("a hybrid takes its parts the wrong way round", "HybridVariance._each", comparison(">=").to("<"),
          fitted.check_rows),
    Break("a product of reflections with a whole diagonal", "_product", operation("*").keep_right(),
          fitted.check_reflections),
    Break("reflections are undone in their own order", "Reflections.values", field("mT")[0].drop(),
          fitted.check_reflections),
    Break("the constant cosine is not normalised", "cosines", operation("/")[-1].keep_left(), fitted.check_cosines),
    Break("colours are turned back the wrong way", "Cosine.values", call("einsum").argument(1).transposed(),
          fitted.check_bases),
    Break("slopes to the right only", "_slopes", operation("+")[-1].keep_left(), covariance.check_surroundings),
    Break("distances to one end twice", "surroundings", operation("-")[-1].to("+"), covariance.check_surroundings),
    Break("noise of z is told to the features as that of x̂", "local:energies", operation("*")[0].right().becomes("z"),
          covariance.check_energies),
    Break("blocks are put back transposed", "from_blocks", call("permute").swapped(2, 4), covariance.check_energies),
    Break("what the network says of its error is taken for a fraction", "predicted_log_variance", number(1).to(2),
          covariance.check_learned),
]  # fmt: skip


@pytest.mark.parametrize(("broken", "check"), cases(BREAKS))
def test_break_is_noticed(broken, check, monkeypatch: pytest.MonkeyPatch):
    assert_noticed(monkeypatch, broken, check)
