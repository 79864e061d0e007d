"""Formulas of latent models and of examples of different size, broken on purpose: a law notices each break."""

from __future__ import annotations

from tests.mutations.breaks import Break, each_is_noticed
from tests.mutations.places import call, number, operation
from tests.process import checks as process

BREAKS = [
    Break("the entropy of a Gaussian without its ½", "negative_entropy", number(0.5).to(1.0), "latent-bound"),
    Break("a width in the place of its log", "negative_entropy", call("log")[0].drop(), "latent-rescaling",
          "latent-width"),
    Break("the prior's cost of a latent forgets its spread", "normal_cross_entropy", operation("+")[0].keep_left(),
          "vae-loss-split", "vae-elbo"),
    Break("z_t has the noise alone", "noised_spread", operation("+")[0].keep_left(), process.check_noised_spread),
    Break("x given z_t forgets z_t", "noised_spread", operation("+")[2].keep_left(), process.check_noised_spread),
    Break("x given z_t is as wide as x", "noised_spread", operation("/")[1].keep_left(), process.check_noised_spread),
    Break("a mean is scaled and a width is not", "LatentUnits.spread", operation("*").keep_right(), "latent-rescaling"),
    Break("a shift that is scaled", "LatentUnits.to_prior", operation("-").keep_left(), "latent-rescaling"),
    Break("the way back forgets the shift", "LatentUnits.from_prior", operation("+").keep_left(), "latent-rescaling"),
    Break("pixels of twice the error", "LatentModel.pixels", call("decode").times(2), "latent-bound"),
]  # fmt: skip

test_breaks = each_is_noticed(BREAKS)
