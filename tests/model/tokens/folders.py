"""Models of symbols that a folder can hold: every kind of kernel, survival and prior, and what a network is told."""

from __future__ import annotations

import torch

from nelbo.model.tokens.calibration import Calibration, NGramTable
from nelbo.model.tokens.description import make_denoiser
from nelbo.model.tokens.domain import TokenDomain
from nelbo.model.tokens.model import TokenModel, grid_for, prior_for
from nelbo.model.tokens.reverse import MatchedMask, SymbolPrior, TokenReverse
from nelbo.process.grid import Even
from nelbo.process.tokens import survival
from nelbo.process.tokens.kernel import Absorbing, Rates, Uniform, gaussian_steps
from nelbo.process.tokens.masks_and_uniform import MasksAndUniform

V, L = 4, 3
R = torch.full((V, V), 0.5).double() - 2 * torch.eye(V).double()
CASES: dict[str, dict] = {
    "counts": {},
    "counts, even, told the count": {"time": "count", "grid": Even(2)},
    "the mask is a symbol": {"kernel": Absorbing(0), "time": "mask_fraction"},
    "rules": {"reverse": TokenReverse("mixture", remove_mask=False, carry_over=False)},
    "shifted": {"shift": True},
    "blocks": {"reverse": TokenReverse(block=2)},
    "log-ratios": {
        "predicts": "log_ratios",
        "kernel": Uniform(),
        "law": "leave_one_out",
        "time": "sigma",
        "schedule": survival.Geometric(0.1, 3.0),
    },
    "linear, matched": {"time": "unit", "schedule": survival.Linear(0.1), "prior": MatchedMask()},
    "cosine": {"time": "unit", "schedule": survival.Cosine()},
    "geometric": {"kernel": Uniform(), "time": "sigma", "schedule": survival.Geometric(0.1, 3.0)},
    "table": {"time": "unit", "schedule": survival.AlphaTable(torch.tensor([0.7, 0.3, 0.0]))},
    "plug-in": {
        "kernel": Uniform(),
        "time": "unit",
        "schedule": survival.Linear(0.05),
        "reverse": TokenReverse("plug_in"),
        "law": "leave_one_out",
        "prior": SymbolPrior(torch.tensor([0.1, 0.2, 0.3, 0.4])),
    },
    "rates": {"kernel": Rates(R), "time": "unit", "schedule": survival.Linear(0.1)},
    "steps": {"kernel": gaussian_steps(V, torch.tensor([0.5, 2.0])), "time": "unit"},
    "masks and uniform": {
        "kernel": MasksAndUniform(torch.tensor([0.2, 0.5])),
        "schedule": survival.AlphaTable(torch.tensor([0.6, 0.1])),
        "time": "unit",
        "reverse": TokenReverse(absent=(0,)),
    },
    "calibrated": {
        "calibration": Calibration(
            torch.tensor([1.2, 0.1, -0.1]),
            torch.tensor([0.0, 0.3, -0.2, 0.1]),
            torch.full((16,), 0.2),
            NGramTable.of(torch.arange(60).remainder(4).reshape(20, 3), V),
        )
    },
    "provenance": {"provenance": {"seed": 3}, "trained_on": torch.arange(5)},
}


def make(name: str, seed: int = 0, **settings) -> TokenModel:
    changes = dict(CASES[name])
    domain, kernel, schedule = TokenDomain(V, L), changes.pop("kernel", Absorbing(V)), changes.pop("schedule", None)
    config = {
        "kind": "network",
        "time": changes.pop("time", "none"),
        "law": changes.pop("law", "posterior"),
        "predicts": changes.pop("predicts", "logits"),
        "shift": changes.pop("shift", False),
        "stochastic": False,
        "net": {"name": "transformer", "settings": {"width": 8, "blocks": 1, "heads": 2, **settings}},
    }
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        denoiser = make_denoiser(config, domain).eval()
        for p in denoiser.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    grid = changes.pop("grid", None) or grid_for(kernel, schedule)
    prior = changes.pop("prior", None) or prior_for(kernel, schedule, grid, V)
    return TokenModel(domain, kernel, denoiser, schedule, grid, prior=prior, **changes)
