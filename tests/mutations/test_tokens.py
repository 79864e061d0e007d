"""Chains over symbols broken on purpose: laws of survival, kernels, steps, counts, exact data, terms, controls."""

from __future__ import annotations

import functools

from tests.bound.tokens import checks as bound
from tests.bound.tokens import test_surprisal as surprisal
from tests.bound.tokens import test_units as units
from tests.model.tokens import checks as model
from tests.mutations.breaks import Break, each_is_noticed
from tests.mutations.places import call, choice, comparison, field, negation, number, operation, result, subscript
from tests.process.tokens import checks as process


def of(check, *names):
    return functools.partial(check, *names)


steps_uniform, steps_table = of(process.check_steps, "uniform"), of(process.check_steps, "steps")
kernels_uniform, kernels_rates = of(process.check_marginals, "uniform"), of(process.check_marginals, "rates")
one_out = of(process.check_leave_one_out, "uniform")
rate_mixture, rate_plugged = of(process.check_rate, "rates", False), of(process.check_rate, "rates", True)
every_count, three_steps = of(bound.check_counts, "every count"), of(bound.check_counts, "three steps")
drawn_counts = of(bound.check_draws_of_counts, "every count")
drawn_three = of(bound.check_draws_of_counts, "three steps")
drawn_masks = of(bound.check_draws_of_times, "masked, cosine")
drawn_table = of(bound.check_draws_of_times, "masked, table")
drawn_uniform = of(bound.check_draws_of_times, "uniform")
paths_masked, paths_matched = of(bound.check_paths, "masked, linear"), of(bound.check_paths, "masked, matched prior")
paths_uniform, paths_plugged = of(bound.check_paths, "uniform"), of(bound.check_paths, "uniform", "plug_in")
paths_one_out, respaced = of(bound.check_paths, "uniform", "leave_one_out"), of(bound.check_paths, "steps, respaced")
markov = of(model.check_data, "markov")
masked_control = of(bound.check_controls, "masked, cosine")

BREAKS = [
    # ------------------------------------------------------------ laws of survival
    Break("α_t = t − dt: a law that rises", "Linear.alpha", operation("-").to("+"),
          of(process.check_survival, "linear")),
    Break("the log-linear law forgets its ε", "Linear.noise", operation("-").keep_left(),
          of(process.check_survival, "log-linear")),
    Break("half the angle of the cosine", "Cosine.alpha", number(4).to(8), of(process.check_survival, "cosine")),
    Break("noise of the cosine by subtraction", "Cosine.noise", call("sin").to("cos"),
          of(process.check_survival, "cosine"), "token-schedule-invariance"),
    Break("geometric noise from the wrong end", "Geometric._sigma", operation("-").keep_right(),
          of(process.check_survival, "geometric")),
    Break("σ for 1 − e^−σ", "Geometric.noise", call("expm1").to("exp"), of(process.check_survival, "geometric")),
    Break("the inverse of the cosine without its π/2", "Cosine.time_of", operation("*").keep_left(),
          of(process.check_survival, "cosine")),
    # ------------------------------------------------------------ kernels and steps
    Break("noise is not spread over V symbols", "Uniform.likelihood", operation("/").keep_left(), kernels_uniform,
          "token-forward-uniform"),
    Break("a marginal forgets the mass of its weights", "Uniform.marginal", operation("*")[-1].keep_left(),
          steps_uniform),
    Break("a step survives with α_t for α_t/α_s", "Uniform.backward", operation("/")[0].keep_left(), kernels_uniform,
          "token-forward-uniform"),
    Break("the noise of a step without 1/α_s", "Uniform.backward", operation("/")[1].keep_left(), kernels_uniform),
    Break("a rate of 1 for 1/V", "Uniform.rates", operation("/").keep_left(), process.check_uniform_is_a_generator,
          "token-rate"),
    Break("a changed symbol is never the old one", "Uniform.noised", operation("*").times(0.9),
          of(process.check_noised, "uniform")),
    Break("τ = α", "Rates.cumulative", call("log1p").drop(), kernels_rates),
    Break("a step of a generator backwards in time", "Rates.between", operation("-").swapped(), kernels_rates),
    Break("rows of a generator for its columns", "Rates.rates", field("mT").drop(), rate_mixture),
    Break("columns of a matrix for its rows", "kernel:_columns", field("mT").drop(), kernels_rates),
    Break("matrices of a table are multiplied from the wrong side", "Steps._products", operation("@").swapped(),
          of(process.check_marginals, "steps")),
    Break("a respaced table forgets its last step", "Steps.respaced", subscript()[0].to("a : max(a + 1, b - 1)"),
          process.check_respaced, respaced),
    Break("D3PM's width without its 4", "gaussian_steps", number(4).to(1), process.check_gaussian,
          "token-gaussian-steps"),
    Break("D3PM's width by V for V − 1", "gaussian_steps", operation("-")[0].keep_left(), process.check_gaussian),
    Break("the mixture does not divide by q(z | k)", "mixture", call("_over").keep_argument(0), steps_uniform,
          "token-mixture-step"),
    Break("the plug-in without q(z_t | z_s)", "plug_in", operation("*").keep_right(), steps_table,
          "token-plug-in-step", "token-posterior"),
    Break("leave-one-out divides where it should multiply", "posterior_from_leave_one_out",
          operation("+").to("-"), one_out, paths_one_out, "token-leave-one-out"),
    Break("and the other way round", "leave_one_out_from_posterior", operation("-").to("+"), one_out),
    Break("the divergence of the model from the truth", "steps:divergence", operation("-").swapped(),
          process.check_divergence),
    Break("the rate's cost without b − a", "rate_divergence", operation("+").keep_left(), rate_mixture, "token-rate"),
    Break("the plug-in's rates as a mixture's", "rate_divergence", operation("/")[1].keep_left(), rate_plugged),
    Break("the prior is compared at the data", "prior_divergence", call("marginal").keep_argument(0),
          process.check_prior, paths_uniform),
    # ------------------------------------------------------------ counts
    Break("a chain of K steps ends one early", "counts:even", operation("+").keep_left(), process.check_counts),
    Break("one hidden place too many", "counts:subset", comparison("<").to("<="), process.check_subsets),
    Break("given places are hidden", "counts:subset", call("masked_fill").drop(), process.check_subsets),
    Break("hidden places are always the first ones", "counts:subset", call("argsort")[0].drop(), process.check_subsets),
    Break("no place is hidden for certain", "around_a_place", operation("|").keep_left(), process.check_around_a_place,
          "token-count-weight"),
    Break("neighbours change sides", "patterns", call("shifted").argument(1).negated(), process.check_patterns_by_hand),
    Break("patterns of independent places", "pattern_probabilities", operation("-")[5].keep_left(),
          process.check_patterns, bound.check_controls, "token-pattern-probability"),
    Break("a place counts among its neighbours", "pattern_probabilities", operation("-")[0].keep_left(),
          process.check_patterns),
    Break("visible neighbours of a rate are as likely as hidden ones", "independent_probabilities",
          operation("-").keep_right(), process.check_independent_patterns, masked_control),
    Break("a neighbour that is given may be hidden", "_neighbourhoods", operation("|")[0].keep_left(),
          process.check_patterns),
    # ------------------------------------------------------------ streams of sets
    Break("every set begins where the permutation does", "streams:subsets", operation("-")[0].keep_right(),
          process.check_streams),
    Break("a set is completed by places that it has", "streams:subsets", call("masked_fill")[0].drop(),
          process.check_streams),
    Break("what completes a set is taken again", "streams:subsets", call("masked_fill")[1].drop(),
          process.check_streams),
    Break("given places are in the stream", "streams:_ranks", call("masked_fill").drop(), process.check_streams),
    Break("strands are taken for independent draws", "error_bars:of_strands", call("sum")[1].drop(),
          bound.check_strands),
    Break("the sets of a strand are another one's", "MaskedChain._of_streams", operation("%")[2].times(0),
          bound.check_strands),
    # ------------------------------------------------------------ exact data, logits, priors
    Break("the recursion to the right forgets its evidence", "MarkovData.posterior", operation("*")[2].keep_left(),
          markov),
    Break("the recursion to the left forgets the transition", "MarkovData.posterior", field("T").drop(), markov),
    Break("entropy of a Markov chain one symbol short", "MarkovData.entropy", operation("-").keep_right(), markov),
    Break("a joint law forgets a place's evidence", "TokenData.posterior", subscript()[1].to(":, 0, every[:, i]"),
          model.check_posterior, "token-bayes-exact", "token-leave-one-out"),
    Break("probability of the mask is not removed", "TokenReverse._compared", call("masked_fill").drop(),
          model.check_the_masks_column, "token-mask-removed"),
    Break("a sum of exponentials that knows no largest", "TokenReverse.costs", operation("-")[1].keep_left(),
          model.check_costs),
    Break("the largest logit is forgotten", "TokenReverse.costs", operation("+")[0].keep_left(), model.check_costs),
    Break("logits are shifted the other way", "NetworkTokenDenoiser._checked", subscript()[-1].to(":, 1:"),
          model.check_shift, "token-logit-shift"),
    Break("the number of hidden places for their share", "TokenTime.of", call("mean").to("sum"), model.check_told),
    Break("σ = α", "TokenTime.of", call("log1p").drop(), model.check_told),
    Break("an infinite bound is let pass", "AllMasked.check", number(0).to(1), "token-prior-infinite"),
    Break("log V counts a mask that the vocabulary holds", "MatchedMask.divergence", operation("-").keep_left(),
          model.check_matched_prior),
    Break("the matched prior costs nothing", "MatchedMask.divergence", operation("*").times(0), paths_matched,
          "token-prior-matched"),
    Break("a symbol survives with 1 − α", "Absorbing.likelihood", field("alpha").to("noise"), "token-forward-masked"),
    Break("the prompt is scored, and nothing else", "scored_places", comparison("==")[1].to("!="), "token-prompt"),
    Break("a chain of K steps stops before its last place", "counts_of", call("even").argument(0).plus(-1),
          "token-steps-of-many"),
    Break("perplexity of bits", "units:of_tokens", call("exp").argument(0).times(1.443), "token-perplexity"),
    Break("bytes a token for tokens a byte", "units:of_tokens", operation("/").swapped(), "token-bits-per-byte"),
    Break("the spread of a ratio is that of a mean", "Spread.of_ratio", operation("-").keep_left(),
          "token-ratio-error"),
    # ------------------------------------------------------------ windows, units, shares of places
    Break("a window scores its context again", "Cut.places", operation("-")[-1].times(0),
          units.test_rolling_windows_add_up_to_the_chain_rule),
    Break("windows end a symbol too late", "Cut.places", call("arange")[-1].argument(0).plus(1),
          units.test_rolling_windows_add_up_to_the_chain_rule),
    Break("errors of bits for those of the perplexity", "units:of_tokens", operation("*")[-1].keep_left(),
          units.test_perplexity_by_the_delta_method),
    Break("noise of the estimate is taken for the data's", "Spread.variance", operation("+").keep_left(),
          units.test_the_error_of_a_ratio_is_its_spread_over_data_sets),
    Break("a place that is hidden twice is paid twice", "surprisal:_of_sequence", operation("/")[-1].keep_left(),
          of(surprisal.test_they_are_the_mean_over_orders, None)),
    Break("counts are drawn one too high", "surprisal:_of_sequence", call("ceil")[0].plus(1),
          of(surprisal.test_they_are_the_mean_over_orders, None)),
    # ------------------------------------------------------------ terms and chains
    Break("the sum over hidden places for their mean", "mean_over", operation("/").keep_left(), every_count,
          bound.check_bayes,
          "token-count-form", "token-any-order", "token-bound-steps", "token-first-level", "token-bound-continuous",
          "token-steps-of-many"),
    Break("visible places are averaged in", "mean_over", call("masked_fill").drop(), every_count),
    Break("a step reveals one place only", "terms:revealed", operation("*")[0].keep_right(), three_steps, drawn_three),
    Break("visible places change for nothing", "terms:revealed", operation("+").keep_left(),
          of(bound.check_counts, "no carry-over")),
    Break("hidden places are paid for as kept", "kept", operation("|").keep_right(),
          of(bound.check_counts, "no carry-over")),
    Break("−log p of another symbol", "TokenReverse.costs", call("gather")[0].argument(1).times(0),
          every_count),
    Break("the plug-in rule is taken for the mixture", "TokenModel.step", comparison("is").to("is not"), paths_uniform),
    Break("the plug-in is normalised by nothing", "steps:plug_in", operation("/").keep_left(), paths_plugged),
    Break("the step is scored from the wrong level", "terms:step", call("true_step").argument(2).becomes("t"),
          paths_uniform),
    Break("weight of a rate n times too small", "MaskedChain.weight_of", operation("*").keep_left(), paths_masked,
          drawn_masks, "token-posterior-masked", "token-bound-steps", "token-bound-continuous"),
    Break("the weight is that of the next step", "MaskedChain.weight_of", subscript()[0].to("examples, cells - 1"),
          drawn_three),
    Break("the network sees what is hidden", "MaskedChain.columns", call("costs").argument(1).becomes("x"),
          drawn_counts),
    Break("every draw hides the same places", "MaskedChain._sets", call("subset").argument(0).times(0), drawn_counts),
    Break("noise of a sequence is that of the first", "NoisedChain.drawn", call("uniform").argument(1).times(0),
          of(bound.check_draws_of_times, "uniform")),
    Break("times of a table are off by a level", "MaskedChain.drawn", subscript()[-1].to("cells - 1"), drawn_table),
    Break("a step from a level to itself", "NoisedChain._levels_of", operation("+").keep_left(), drawn_uniform),
    Break("a slice in u without 1/α", "NoisedChain._levels_of", operation("/").keep_left(),
          of(bound.check_continuous_limit, "uniform", "mixture")),
    Break("the exact step is counted twice", "MaskedChain.cells", subscript()[0].to(":"), drawn_counts),
    Break("lengths are rounded down to a count", "MaskedChain._sets", call("ceil").to("floor"),
          of(bound.check_ragged, "every count")),
    Break("a slice of counts keeps visible places once", "MaskedChain.columns", choice()[1].swapped(),
          of(bound.check_ragged, "every count, no carry-over")),
    Break("the first level is decoded for nothing", "MaskedChain.drawn", operation("*")[0].times(0),
          bound.check_first_level),
    Break("controls without their expectations", "controls:column", result().keep_left(), bound.check_controls,
          masked_control),
    Break("expectations of another pattern", "controls:expectation", operation("*").times(1.1), bound.check_controls),
    Break("neighbours of a text for those of the tables", "ForetoldChain.control", call("patterns").without(1),
          bound.check_controls),
    Break("a power of the share is forgotten", "PlaceFit.foretold", operation("*")[0].times(0),
          bound.check_place_fit),
    Break("probability for cost", "PlaceFit.foretold", call("exp").drop(), bound.check_place_fit),
    Break("patterns are fitted to what all leave by nothing", "PlaceFit.fit", call("solve")[2].times(0),
          bound.check_place_fit),
    Break("deviations of patterns are not eliminated", "PlaceFit.fit", call("solve")[0].times(0),
          bound.check_place_fit),
    Break("no ridge", "PlaceFit.fit", operation("*")[0].times(0), bound.check_place_fit),
    Break("neighbours that tell nothing", "ngrams:telling", negation()[0].drop(), bound.check_neighbours),
    Break("information without the symbols' own entropy", "ngrams:_information", operation("-")[-1].keep_right(),
          bound.check_neighbours),
    Break("neighbours however few places have them", "ngrams:_information", result().keep_left(),
          bound.check_neighbours),
]  # fmt: skip

test_breaks = each_is_noticed(BREAKS)
