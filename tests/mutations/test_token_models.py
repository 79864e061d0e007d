"""Models of symbols broken on purpose: blocks, what networks say, folders of transformers, and diagnosis."""

from __future__ import annotations

import functools

from tests.adapters import test_transformers as transformers
from tests.bound.tokens import test_blocks as blocks
from tests.diagnosis.tokens import test_mistakes as diagnosis
from tests.model.tokens import test_outputs as outputs
from tests.mutations.breaks import Break, each_is_noticed
from tests.mutations.places import call, comparison, operation
from tests.nets import test_transformer as nets
from tests.tightening import test_tokens as tightening

two_places = functools.partial(blocks.test_against_all_orders, 2)
found = functools.partial(functools.partial, diagnosis.test_a_diagnosis_finds_it)

BREAKS = [
    # ------------------------------------------------------------ blocks
    Break("earlier blocks come first", "later_blocks_first", operation("-").to("+"), two_places),
    Break("a block is one place longer", "block_of", operation("-").keep_left(), two_places),
    Break("hidden places of later blocks are averaged in", "BlockChain.mean_cost", operation("&").keep_left(),
          two_places),
    Break("the block after the one that is revealed", "BlockChain.mean_cost", operation("//").plus(1), two_places),
    Break("shares of places for counts are rounded down", "BlockChain.columns", call("ceil").to("floor"),
          blocks.test_places_that_are_given),
    Break("a step of many places weighs as one", "BlockChain.columns", call("diff").times(0.5),
          blocks.test_a_few_steps_a_block),
    Break("samples reveal places of any block", "reveals", call("later_blocks_first").keep_argument(0),
          blocks.test_samples_have_the_law_of_the_blocks),
    # ------------------------------------------------------------ what networks say
    Break("the lowest noised probability is forgotten", "NetworkTokenDenoiser._read", operation("-").keep_left(),
          outputs.test_ratios_of_uniform_noise),
    Break("the ratio at the symbol that is there is read", "NetworkTokenDenoiser._read", call("scatter").drop(),
          outputs.test_ratios_of_uniform_noise),
    Break("a law of ratios without 1/α", "NetworkTokenDenoiser._read", operation("/")[1].keep_left(),
          outputs.test_ratios_of_no_law),
    Break("ratios of no law have a law of less than nothing", "NetworkTokenDenoiser._read", call("clamp_min").drop(),
          outputs.test_ratios_of_no_law),
    Break("probabilities are logits", "NetworkTokenDenoiser._read", call("log")[0].drop(), outputs.test_probabilities),
    # ------------------------------------------------------------ the transformer
    Break("places are turned alike", "transformer:_turned", operation("-").to("+"),
          nets.test_queries_and_keys_meet_by_distance),
    # ------------------------------------------------------------ folders of transformers
    Break("the end symbol is not attended", "MaskedNetwork._around", operation("+")[-1].keep_left(),
          transformers.test_what_a_network_is_shown),
    # ------------------------------------------------------------ calibrations
    Break("a calibration that is no law", "Calibration.combined", call("log_softmax").drop(),
          tightening.test_a_calibration_is_a_law),
    Break("the end of a curve is its beginning", "Calibration.combined", operation("-")[0].to("+"),
          tightening.test_a_calibration_is_a_law),
    Break("n-grams of the first neighbour alone", "NGrams.log_law", operation(">>")[-1].keep_left(),
          tightening.test_ngrams_say_what_the_tables_hold),
    Break("a draw counts once for each of its places", "answers:_masked", operation("/").keep_left(),
          tightening.test_a_known_fault_is_undone),
    Break("a step costs what the next one does", "best_counts", operation("-")[0].plus(1),
          tightening.test_chosen_steps_are_the_cheapest),
    # ------------------------------------------------------------ diagnosis
    Break("the shift is not tried", "siblings:_shift", call("_network").keep_argument(0),
          found("logits of the next place")),
    Break("any symbol may be the mask", "siblings:_masks", comparison("!=").to("=="),
          found("a mask of its own that is a symbol")),
    Break("blocks are hidden in any order", "draws:_of_masks", comparison("is not").to("is"),
          diagnosis.test_blocks_are_looked_at_as_blocks),
]  # fmt: skip

test_breaks = each_is_noticed(BREAKS)
