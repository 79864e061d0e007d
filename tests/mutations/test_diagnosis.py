"""The comparison of declarations, broken on purpose."""

from __future__ import annotations

from tests.diagnosis import test_draws, test_lines
from tests.mutations.breaks import Break, each_is_noticed
from tests.mutations.places import call, comparison, number, operation

values = test_draws.test_values_are_the_bound_within_their_errors
pooled = test_draws.test_pooled_stages_weigh_by_their_strata
first = test_draws.test_what_is_better_for_sure_comes_first
usual = test_draws.test_a_usual_declaration_that_is_about_as_good_is_preferred
little = test_draws.test_little_is_no_evidence_where_a_network_may_do_anything


def check_variances() -> None:
    for key in ("square", "root", "reversed"):
        test_lines.test_the_line_of_a_table_of_variances(key, list)


BREAKS = [
    Break("a bound without its first level", "diagnosis.draws:Values.total", operation("+")[0].keep_left(), values,
          pooled),
    Break("pairs of draws with half of their variance", "bound.paired:estimate", number(4).to(8), values,
          pooled),
    Break("the first level without an error", "bound.paired:estimate", operation("+")[-1].keep_left(), pooled),
    Break("1/p forgotten", "diagnosis.draws:evaluated", operation("/")[-1].keep_left(), values),
    Break("shares of stages that are not squared", "diagnosis.draws:pooled", operation("**").keep_left(), pooled),
    Break("draws at the ends of a range are not inside", "diagnosis.draws:Values.inside", comparison(">=").to(">"),
          pooled),
    Break("half a standard error is enough", "diagnosis.ranking:better", call("max").argument(1).becomes(0.0), first),
    Break("what differs by nothing is better", "diagnosis.ranking:better", call("max").argument(0).becomes(0.0), first),
    Break("a usual declaration must save all that the best does", "diagnosis.ranking:_best",
          operation("*")[-1].keep_right(), usual),
    Break("the uniform distribution in nats", "diagnosis.ranking:_worse_than_uniform", call("log2").to("log"), little),
    Break("a share of one bit, not of the bound", "diagnosis.ranking:_best", call("abs").becomes(1.0), little),
    Break("the square for the root of a table", "diagnosis.steps:_variance", call("square").to("sqrt"),
          check_variances),
]  # fmt: skip

test_break_is_noticed = each_is_noticed(BREAKS)
