"""Contrasts, broken on purpose."""

from __future__ import annotations

from tests.bound import test_compare, test_contrast, test_log_ratio, test_pilot, test_profile, test_race, test_score
from tests.maths import test_student
from tests.mutations.breaks import Break, each_is_noticed
from tests.mutations.places import call, comparison, number, operation

looks = test_race.test_looks_double_and_weigh_by_their_strata
by_what = test_race.test_differences_of_the_eliminated_go_by_what_they_were_compared_with
in_common = test_race.test_the_error_of_the_posterior_does_not_count_what_all_have_in_common
kept = test_race.test_what_is_eliminated_keeps_its_difference


def right() -> None:
    """Differences, errors and posterior of an exact network."""
    found = test_contrast.to_tolerance.__wrapped__()
    test_contrast.test_differences_and_their_errors_are_right(found)
    test_contrast.test_the_posterior_is_that_of_the_differences(found)


expected = test_pilot.test_what_strata_are_expected_to_say
grown, by_itself = test_pilot.test_variances_grow_with_differences, test_pilot.test_a_first_level_is_drawn_by_itself
covariance = test_contrast.test_the_covariance_is_that_of_many_runs
finite = test_contrast.test_a_finite_chain_with_a_decoder_that_asks_the_network
opposite = test_contrast.test_pairs_of_noise_and_its_opposite_are_one_draw
planned = test_contrast.test_draws_go_where_differences_vary_and_opposites_pay


def level() -> None:
    test_race.test_the_level_where_all_conditions_are_equal(6)


def quantiles() -> None:
    test_student.test_quantiles(4.0, 1e-5)


def profiled() -> None:
    test_profile.test_the_maximum_and_its_errors(test_profile.found.__wrapped__())


ends = test_compare.test_it_ends_when_the_sign_is_known
one_number, several = test_score.test_one_number, test_score.test_several_numbers
ratio = test_log_ratio.test_the_ratio_is_exact_within_its_errors


def few() -> None:
    test_compare.test_short_chains_of_few_examples(5)


signed = test_compare.test_terms_of_either_sign_are_fitted_with_their_sign
whole = test_log_ratio.test_first_level_and_prior_are_counted_where_they_differ
summed = test_profile.test_looks_add_up
polynomial = test_profile.test_a_curve_that_is_a_polynomial_is_read_exactly

BREAKS = [
    Break("a step's loss without its 1 −", "process.forward:one_minus_snr_ratio", call("expm1").to("exp"),
          "contrast-difference"),
    Break("pairs without their opposite", "bound.gaussian_chain:GaussianChain._noise", call("column").becomes(1.0),
          opposite, "contrast-odd"),
    Break("a posterior upside down", "bound.contrast.race:Race.posterior", operation("-")[0].to("+"),
          "contrast-posterior"),
    Break("1/p forgotten", "bound.contrast.places:drawn", operation("/")[-1].keep_left(), right, finite),
    Break("the mean of a pair for its sum", "bound.contrast.places:drawn", call("mean").to("sum"), right, finite),
    Break("draws that are made evenly", "bound.contrast.places:by_squares", operation("+")[-1].keep_right(), planned),
    Break("looks that weigh alike", "bound.contrast.looks:Looks.add", operation("/")[0].becomes(0.5), looks),
    Break("a variance of half the strata", "bound.contrast.looks:Looks.add", operation("/")[-1].keep_left(),
          covariance),
    Break("errors that are variances", "bound.contrast.race:Race._tested", call("sqrt").drop(), right),
    Break("one look of two conditions", "bound.contrast.race:threshold", call("quantile").becomes(1.645), level),
    Break("a pilot's strata that are alike", "bound.contrast.pilot:expectations", operation("-")[0].keep_left(),
          expected),
    Break("as large a variance near zero", "bound.contrast.spread:Spread.growth", operation("**").keep_left(), grown),
    Break("a first level that is drawn as often as a stratum", "bound.contrast.race:Race.next_firsts",
          operation("*")[0].keep_right(), by_itself),
    Break("what went later is counted first", "bound.contrast.race:Race._order",
          call("argsort").receiver().negated(), by_what),
    Break("a posterior that is the prior", "bound.contrast.race:Race.posterior", operation("-")[0].swapped(), right),
    Break("a posterior's error without the mean", "bound.contrast.race:Race.posterior", operation("-")[2].keep_left(),
          right),
    Break("a posterior's error with what all share", "bound.contrast.race:Race.posterior",
          operation("-")[1].keep_left(), in_common),
    Break("Monte Carlo errors without the curvature", "bound.contrast.profile_result:Profile.monte_carlo_error",
          operation("/").keep_left(), profiled),
    Break("an interval of half the rise", "bound.contrast.profile_result:Profile.interval",
          operation("*")[0].keep_right(), profiled),
    Break("a covariance that grows with looks", "bound.contrast.profile:Sums.with_look",
          operation("**")[0].becomes(1.0), summed),
    Break("a step that is not Newton's", "bound.contrast.curve:Curve.minimum", call("deriv")[1].argument(0).to(1),
          polynomial),
    Break("a gradient of one side", "bound.contrast.score:_summed", operation("-").keep_left(), one_number),
    Break("twice the step forgotten", "bound.contrast.score:_summed", operation("/")[-1].keep_left(), one_number),
    Break("the gradient of a mean", "bound.contrast.score:_gradient", call("sum").to("mean"), several),
    Break("the ratio upside down", "bound.contrast.log_ratio:log_ratio", operation("-")[0].swapped(), ratio),
    Break("the priors forgotten", "bound.contrast.contrast:raced", operation("+")[-2].keep_left(), whole),
    Break("a decoder of its own is forgotten", "bound.contrast.alternatives:Chains.first_differs",
          call("any").becomes(False), whole),
    Break("a sign that is known where it is not", "bound.planned.sign:Sign.look", comparison(">").to("<"), ends),
    Break("the sum of two terms", "bound.paired_chain:PairedChain.columns", operation("-")[0].to("+"), few),
    Break("B is A", "bound.compare:_sides", operation("-")[0].to("+"), few),
    Break("a mean without its sign", "bound.planned.regression:spread_over_cells", call("along")[3].becomes(1.0),
          signed),
    Break("two tails for one", "maths.student:quantile", number(2)[0].to(1), quantiles),
]  # fmt: skip

test_break_is_noticed = each_is_noticed(BREAKS)
