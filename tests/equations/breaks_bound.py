"""Library formulas of the bound and of its terms broken on purpose: each fails its entry.

A row is (what is broken, function, text that it holds exactly once, broken text, entry whose check must fail).
"""

from __future__ import annotations

DENSITY = "nelbo.maths.gaussian:log_density"
DIFFERENCE = "nelbo.maths.gaussian:kl_from_difference"
VECTORS = "nelbo.maths.gaussian:kl_multivariate"
TRANSITION = "nelbo.process.forward:transition"
POSTERIOR = "nelbo.process.forward:posterior"
MEAN = "nelbo.process.forward:posterior_mean"
NOISED = "nelbo.process.forward:noised"
RATIO = "nelbo.process.forward:one_minus_snr_ratio"
BETAS = "nelbo.process.schedule:from_betas"
STEP = "nelbo.model.reverse:Reverse.step"
STEP_KL = "nelbo.model.reverse:Reverse.kl_sum"
PRIOR = "nelbo.model.prior:GaussianPrior.kl"
DIFFUSION = "nelbo.bound.terms:diffusion"
RECONSTRUCTION = "nelbo.bound.terms:reconstruction"
DIFFUSION_AT, RECONSTRUCTION_AT = f"{DIFFUSION}_at", f"{RECONSTRUCTION}_at"
DECODER = "nelbo.model.decoder:ContinuousGaussian"
PUSH = "nelbo.codec.bitswap:Coder.push"
CHAIN = "nelbo.codec.lattice:LatticeChain"
EXHAUSTIVE = "nelbo.bound.estimators:Exhaustive"

BREAKS = [
    # ------------------------------------------------------------ D: the five lines
    ("a density without its log-variance", DENSITY, " + torch.log(variance)", "", "vlb-add-kl"),
    ("a density without log 2π", DENSITY, " + LOG_2PI", "", "vlb-expand-kl"),
    ("a density with σ for σ²", DENSITY, "** 2 / variance + torch", "** 2 / variance.sqrt() + torch", "vlb-split-log"),
    ("levels without −log(1 − ᾱ)", BETAS, " - log1mexp(-log_alpha_bar)", "", "vlb-cancel-evidence"),
    ("a level is forgotten by the exhaustive estimator", f"{EXHAUSTIVE}.estimate",
     "range(1, problem.transitions + 1)", "range(1, problem.transitions)", "vlb-average-data"),
    ("bits for nats in the result", "nelbo.maths.units:bits_per_dim", "* LOG_2", "* 1.0", "vlb-average-data"),
    ("x̂ from ε̂ is not divided by α", "nelbo.process.prediction:x0_from",
     "(z - sigma * value) / alpha", "z - sigma * value", "vlb-jensen"),
    ("β for β̃ in the variance policy `beta_tilde`", "nelbo.model.reverse:BetaTilde.of_step",
     "forward.posterior(s, t)", "forward.transition(s, t)", "elbo-gap-identity"),
    ("σ² = α on the VP path", "nelbo.process.levels:Path.log_sigma",
     "return 0.5 * torch.nn.functional.logsigmoid(-logsnr)", "return 0.5 * torch.nn.functional.logsigmoid(logsnr)",
     "pointwise-bound-fallacy"),
    # ------------------------------------------------------------ D: the route and the sum
    ("a kernel scaled by α_t for α_{t|s}", TRANSITION, "(t.log_alpha - s.log_alpha).exp()", "t.log_alpha.exp()",
     "kl-route-bayes"),
    ("a kernel with the variance of the level before", TRANSITION,
     "t.sigma.square() * one", "s.sigma.square() * one", "kl-route-split"),
    ("the step's mean from the clean image", STEP, "prediction.x0, z_t, s, t), self", "z_t, z_t, s, t), self",
     "kl-route-linearity"),
    ("the posterior's mean without its noisy part", MEAN, "column(q.z_coefficient, x) * z_t + ", "",
     "kl-route-rearrange"),
    ("the decoder ignores the network", f"{DECODER}._moments", "_given(prediction).x0, torch", "z, torch",
     "kl-route-drop-kl"),
    ("the decoder takes σ for σ²", f"{DECODER}._moments", "(self.variance, ", "(self.variance**0.5, ",
     "kl-route-flip-ratio"),
    ("β̃ for β in the variance policy `beta`", "nelbo.model.reverse:Beta.of_step",
     "forward.transition(s, t)", "forward.posterior(s, t)", "kl-route-negate"),
    ("c without its sign in the exponent", RATIO, "t.logsnr - s.logsnr", "0.9 * t.logsnr - s.logsnr",
     "vlb-substitute-kernels"),
    ("the step's mean with the levels swapped", STEP, "z_t, s, t), self", "z_t, t, s), self", "vlb-pull-prior"),
    ("the first step's network sees twice the state", RECONSTRUCTION_AT,
     "model.predict(z, first, condition)", "model.predict(2 * z, first, condition)", "vlb-sum-form"),
    # ------------------------------------------------------------ D: the objective and the VAE
    ("the entropy without its 1", "nelbo.maths.gaussian:entropy", "(1.0 + ", "(", "joint-kl-chain-rule"),
    ("a KL of vectors with its log-determinant turned", VECTORS, "+ log_ratio", "- log_ratio", "joint-kl-chain-rule"),
    ("a KL of vectors without the distance of the means", VECTORS, "(mean_q - mean_p)", "(mean_q - mean_q)",
     "joint-kl-chain-rule"),
    ("the negative log-likelihood squared away", f"{DECODER}.nll", "(target, mean, ", "(target, 0.9 * mean, ",
     "posterior-kl-not-the-objective"),
    ("noise by σ² for σ", NOISED, "column(t.sigma, x)", "column(t.sigma.square(), x)", "argmin-bound-vs-mle"),
    ("the KL adds the means", "nelbo.maths.gaussian:kl", "mean_q - mean_p", "mean_q + mean_p", "vae-elbo"),
    ("the KL's scale term with its ratio turned", DIFFERENCE, "(variance_q - variance_p) / variance_p",
     "(variance_p - variance_q) / variance_q", "vae-loss-split"),
    ("the prior term looks at clean data", PRIOR, "(alpha * x - self.mean,", "(x - self.mean,",
     "vae-as-one-step-diffusion"),
    # ------------------------------------------------------------ D: the code
    ("a draw of q is taken from the image for the latent before", PUSH, "j, base, None, k)", "j, base, None, 0 * k)",
     "bits-back-code-length"),
    ("what the network says is asked of the level before", PUSH, "j, base, k_next,", "j, base, k,",
     "bits-back-code-length"),
    ("lattice widths from the variance for the deviation", f"{CHAIN}.reverse", "0.5 * variance", "variance",
     "bits-back-code-length"),
    ("the noise of q by σ² for σ", f"{CHAIN}._std_of_q", "math.sqrt(float(v))", "float(v)", "bits-back-code-length"),
    ("z_1 scaled by α²", f"{CHAIN}.forward_mean", "float(self.levels.alpha[0])", "float(self.levels.alpha[0]) ** 2",
     "bits-back-code-length"),
    ("a lattice point is worth twice its bin", f"{CHAIN}.values", "* self.delta[j - 1])", "* 2 * self.delta[j - 1])",
     "bits-back-code-length"),
    # ------------------------------------------------------------ E: the thirteen lines
    ("a kernel without its noise ratio", TRANSITION, " * one_minus_snr_ratio(s, t)", "", "chain-factorise"),
    ("the first step predicts at the wrong level", RECONSTRUCTION, "forward.noised(x, eps, first)", "x",
     "chain-split-first"),
    ("a kernel's α over a whole step too far", TRANSITION, "t.log_alpha - s.log_alpha",
     "t.log_alpha - 2 * s.log_alpha", "chain-markov-insert"),
    ("the step's variance is a level's", "nelbo.model.reverse:Beta.of_step", "forward.transition(s, t).variance",
     "t.sigma.square()", "chain-conditional-to-joint"),
    ("α_t for α_s before x in the posterior", POSTERIOR, "s.alpha * c", "t.alpha * c", "chain-joint-refactor"),
    ("noise that keeps all of the image", NOISED, "column(t.alpha, x), x", "torch.ones_like(x), x",
     "chain-joint-to-conditional-x0"),
    ("the posterior's variance is β", POSTERIOR, "s.sigma.square() * c", "t.sigma.square() * c", "chain-cancel-qx0"),
    ("the posterior's z coefficient with σ for σ²", POSTERIOR, "2 * (s.log_sigma", "1 * (s.log_sigma",
     "chain-log-expand"),
    ("the posterior's mean with x and z swapped", MEAN, "* z_t + column(q.x_coefficient, x) * x",
     "* x + column(q.x_coefficient, x) * z_t", "chain-absorb-first"),
    ("noise that keeps α² of the image", NOISED, "column(t.alpha, x), x", "column(t.alpha.square(), x), x",
     "chain-telescope"),
    ("a density at twice the distance", DENSITY, "(x - mean) ** 2", "(2 * x - 2 * mean) ** 2", "chain-merge-prior"),
    ("the KL divides by the variance of q", DIFFERENCE, "difference**2 / variance_p)", "difference**2 / variance_q)",
     "chain-to-kl"),
    ("noise that grows the image", NOISED, "column(t.alpha, x), x", "1 / column(t.alpha, x), x", "telescoping-product"),
    # ------------------------------------------------------------ E: the terms
    ("the KL loses its ½", DIFFERENCE, "return 0.5 * (scale", "return (scale", "vlb-three-terms"),
    ("a term is left out of the sum", "nelbo.bound.estimate:Estimate.of", "nats = prior + diffusion[0]",
     "nats = diffusion[0]", "vlb-three-terms"),
    ("one draw for two in the exhaustive mean", f"{EXHAUSTIVE}._level", "by_draw.mean(0), by", "by_draw.sum(0), by",
     "vlb-three-terms"),
    ("the prior is scored with σ for σ²", PRIOR, "sigma.square(), variance", "sigma, variance", "loss-term-prior"),
    ("the prior forgets its mean", PRIOR, "alpha * x - self.mean", "alpha * x", "loss-term-prior"),
    ("the KL of a step from the coefficient of z", STEP_KL, "q.x_coefficient.square()",
     "q.z_coefficient.square()", "loss-term-denoise"),
    ("the network is asked at the level before", DIFFUSION_AT, "model.predict(z, t, condition)",
     "model.predict(z, s, condition)", "loss-term-denoise"),
    ("the decoder's sign", f"{DECODER}.nll", "return -gaussian", "return gaussian", "loss-term-recon"),
    ("the KL of a step with the noise of another", DIFFUSION, "forward.noised(x, eps, t)", "forward.noised(x, eps, s)",
     "loss-index-convention"),
    ("the diffusion term weighs one step too many", "nelbo.training.objective:BoundObjective.losses",
     "diffusion = steps *", "diffusion = (steps + 1) *", "sum-objective"),
    # ------------------------------------------------------------ E: variances
    ("the KL of a step with σ for the variance of q", STEP_KL, "q.variance, v)", "q.variance.sqrt(), v)",
     "rao-blackwell-term"),
    ("the KL's scale term left out", DIFFERENCE, "0.5 * (scale + ", "0.5 * (", "rao-blackwell-total"),
    ("the prior term at twice the distance", PRIOR, "alpha * x - self.mean", "2 * alpha * x - self.mean",
     "rao-blackwell-independent-draws"),
    ("the squared error of a step halved", STEP_KL, "+ 0.5 * q", "+ 0.25 * q",
     "rao-blackwell-random-t"),
    ("the step's mean at the level itself", STEP, "z_t, s, t), self", "z_t, t, t), self", "rao-blackwell-gradient"),
    # ------------------------------------------------------------ E: the point mass
    ("the decoder takes its variance for σ", f"{DECODER}._moments", "(self.variance, ", "(self.variance**2, ",
     "delta-posterior-insert"),
    ("the mass of the code beside", "nelbo.model.decoder:DiscretizedGaussian.nll", "bin_log_mass(target, ",
     "bin_log_mass((target + 1) % 4, ", "delta-posterior-kl"),
    ("half a bin is a whole one", "nelbo.maths.bins:_bin", "h = 1.0 / (std * per_half)",
     "h = 2.0 / (std * per_half)", "delta-posterior-merged"),
]  # fmt: skip
