"""Archives that were written once: any change of what the encoder writes, or of what the decoder reads, shows here.

A new format has a new version, and these files stay readable. `python -m tests.codec.test_golden` writes them anew.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from nelbo.codec.compress import compress
from nelbo.codec.decompress import decompress
from nelbo.model.decoder import DiscretizedGaussian
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.fitted.basis import Reflections
from nelbo.model.fitted.context import KAPPA, ContextGaussian
from nelbo.model.fitted.neighbours import ENERGIES, mean_features
from nelbo.model.fitted.variance import FittedVariance
from nelbo.model.reverse import Reverse
from tests.codec import models

FOLDER = Path(__file__).parent / "golden"


def golden() -> dict[str, DiffusionModel]:
    """Masses; a Gaussian with variances in a basis of reflections; pixel after pixel."""
    exact = models.exact(5)
    nodes = torch.tensor([4.0, 0.0, -5.0]).double()
    axes = Reflections(torch.linspace(-1, 1, 24).double().reshape(12, 2))
    turned = Reverse(FittedVariance(axes, nodes, torch.linspace(-5, -1, 36).double().reshape(3, 12)))
    causal = ContextGaussian(
        torch.zeros(1, mean_features(1)).double().index_fill(1, torch.tensor([0, 14, 20]), 0.3),
        torch.linspace(-0.2, 0.2, ENERGIES).double()[None],
        torch.tensor([-1.0, 0.0]).double(),
        torch.full((3, 1 + len(KAPPA)), 1 / 6).double().log(),
        torch.tensor([0.125, 0.25, 0.5, 0.125]).double().log(),
    )
    return {
        "masses": exact,
        "gaussian": dataclasses.replace(exact, reverse=turned, decoder=DiscretizedGaussian(0.0625)),
        "context": dataclasses.replace(exact, decoder=causal),
    }


@pytest.mark.parametrize("name", ["masses", "gaussian", "context"])
def test_the_encoder_writes_what_it_wrote(name, tmp_path):
    compress(golden()[name], models.codes(40, seed=4), tmp_path / "x.nelbo", few=True, chunk_size=25, seed=7)
    assert (tmp_path / "x.nelbo").read_bytes() == (FOLDER / f"{name}.nelbo").read_bytes(), (
        "the encoder's output changed: that is a breaking change, and needs a new version of the format"
    )


@pytest.mark.parametrize("name", ["masses", "gaussian", "context"])
def test_the_decoder_reads_what_was_written(name):
    assert torch.equal(decompress(golden()[name], FOLDER / f"{name}.nelbo"), models.codes(40, seed=4))


if __name__ == "__main__":
    for name, model in golden().items():
        compress(model, models.codes(40, seed=4), FOLDER / f"{name}.nelbo", few=True, chunk_size=25, seed=7)
