"""Operations of an evaluation, counted by hand for a network of two matrices."""

from __future__ import annotations

import nelbo
from nelbo.model.cost import flops_per_evaluation
from tests.model.cases import Tiny, network_model


def test_by_hand():
    """3 inputs, 8 features, 3 outputs: 2 · (3·8 + 8·3), the same for any grid."""
    assert flops_per_evaluation(network_model()) == 2 * (3 * 8 + 8 * 3)
    model = network_model()
    model.denoiser.train()
    flops_per_evaluation(model)
    assert model.denoiser.training


def test_unknown():
    def conditional(z, t, *, y):
        return Tiny(3)(z, t) * y

    domain, law = nelbo.DataDomain((3,), 16), nelbo.schedules.logsnr_linear()
    of = [nelbo.from_callable(f, schedule=law, domain=domain, predicts="x0", time="unit", decoder="categorical")
          for f in (conditional, lambda z, t: 0 * z)]  # fmt: skip
    assert [flops_per_evaluation(m) for m in of] == [None, None]
