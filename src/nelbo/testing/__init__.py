"""Laws that a model of somebody's own network must keep, and oracles to try an adapter on. For tests of third parties.

    from nelbo import testing

    def test_my_model():
        testing.check_model(my_model(), codes)                      # a model: its network, as it will be evaluated

    def test_my_adapter():
        testing.check_adapter(my_adapter, schedule=schedule, predicts="v", time="sigma")

`check_model` asks what every bound takes for granted: a prediction depends on its own example, level and condition and
on nothing else. `check_adapter` hands the adapter a network that says the exact posterior mean of known data in the
adapter's convention, and looks whether the exact likelihood comes out. Broken laws raise AssertionError with the law,
where it broke, and by how much. Everything is deterministic: no check can fail by chance.
"""

from nelbo.testing.adapter import check_adapter
from nelbo.testing.model import check_model
from nelbo.testing.networks import as_network, levels_told, oracle

__all__ = ["as_network", "check_adapter", "check_model", "levels_told", "oracle"]
