"""Tests for your own models and adapters.

    from nelbo import testing

    def test_my_model():
        testing.check_model(my_model(), codes)                      # a model: its network, as it will be evaluated

    def test_my_adapter():
        testing.check_adapter(my_adapter, schedule=schedule, predicts="v", time="sigma")

`check_model` tests what every bound assumes: a prediction depends on its own example, level and condition and on
nothing else. `check_adapter` gives the adapter a network that returns the exact posterior mean of known data in the
adapter's convention, and compares with the exact likelihood. A broken law raises AssertionError with the law, the place
and the size of the error. Everything is deterministic: no check fails by chance.
"""

from nelbo.testing.laws import check_adapter, check_model
from nelbo.testing.networks import as_network, levels_of, oracle

__all__ = ["as_network", "check_adapter", "check_model", "levels_of", "oracle"]
