"""Every mistake of the table is the first row of a diagnosis or fails one of its checks, with the right number beside
the printed one; `evaluate` warns of some by name, and others are refused before there is a number."""

from __future__ import annotations

import math
import re
import warnings

import pytest
import torch
from torch import nn

import nelbo
from nelbo.errors import NelboError
from tests.diagnosis.cases import ALARMS, CODES, DOMAIN, SCHEDULES, SHAPE, TRUE, VALUES, model, network
from tests.diagnosis.mistakes import COARSE, COARSE_CODES, RANKED, REAL, Mistake
from tests.diagnosis.test_inspection import GROUPED, LABELS, by_group

QUICK = ("scaled linear for linear", "data at t = 1", "σ for c_noise")


def near(row, bits: float) -> bool:
    """Whether a row's bound is this one, within four standard errors and 3 % (both numbers are estimates)."""
    if math.isnan(bits):
        return math.isnan(row.bits_per_dim)
    return abs(row.bits_per_dim - bits) < 4 * row.standard_error + 0.03 * abs(bits) + 0.03


@pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in RANKED])
def test_a_diagnosis_finds_it(name):
    """The first row, the line to write, both numbers, and the check that fails."""
    mistake: Mistake = RANKED[name]
    diagnosis = nelbo.diagnose(mistake.model(), mistake.data, max_nfe=mistake.max_nfe)
    verdict = diagnosis.verdict
    assert not verdict.ok and diagnosis.nfe_total <= mistake.max_nfe
    if mistake.row is not None:
        assert re.search(mistake.row, diagnosis.best.name), diagnosis
        assert verdict.change is not None and mistake.line in verdict.change
        assert diagnosis.best.claim in verdict.text
    if mistake.check is not None:
        check = next(check for check in diagnosis.checks if check.name == mistake.check)
        assert not check.ok and check.text in verdict.text
    if diagnosis.unit == "bits/dim":
        assert near(diagnosis.declared, mistake.printed), (diagnosis.declared, mistake.printed)
    same = mistake.row is not None and not re.search("schedule|first level|variance|bins|codes|data as", mistake.row)
    if same:  # of other rows the chain is another one, or the data are
        assert near(diagnosis.best, mistake.right), (diagnosis.best, mistake.right)
    else:
        assert abs(mistake.right - mistake.printed) > 0.02


SILENT = {"√ᾱ for ᾱ", "the index for index/T"}
"""Mistakes of which the draws of an evaluation say too little."""
FINITE = [name for name in RANKED if math.isfinite(RANKED[name].printed)]


@pytest.mark.parametrize(
    "name", [n if n == "unit time for the log-SNR" else pytest.param(n, marks=pytest.mark.slow) for n in FINITE]
)
@pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")
def test_an_evaluation_warns_of_it(name):
    """By name or by what it shows, beside the number that is printed."""
    mistake: Mistake = RANKED[name]
    bound = nelbo.evaluate(mistake.model(), mistake.data, max_nfe=4000)
    assert any(re.search(mistake.warning or ALARMS, note) for note in bound.warnings) == (name not in SILENT), bound
    spread = 4 * bound.standard_error.estimator + 0.03 * abs(mistake.printed) + 0.03
    assert abs(bound.bits_per_dim - mistake.printed) < spread


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")
def test_codes_declared_real():
    """A density on a lattice is multiplied by its step, so that it compares with the code length of codes."""
    diagnosis = nelbo.diagnose(model("law", domain=REAL), COARSE.values(COARSE_CODES), max_nfe=1200)
    assert diagnosis.unit == "bits/dim (density × step)" and not diagnosis.verdict.ok
    row = next(row for row in diagnosis.rows if row.name == "codes of 17 levels")
    mistake = RANKED["values k/8 − 1 declared real"]
    assert abs(row.bits_per_dim - mistake.right) < 4 * row.standard_error + 0.1
    declared = diagnosis.declared
    assert abs(declared.bits_per_dim - (mistake.printed + 3)) < 4 * declared.standard_error + 0.1  # −log2(1/8)


# ---------------------------------------------------------------- what is refused before there is a number


class Embedded(nn.Module):
    """A network that looks its time up in a table of 100."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(100, 3)

    def forward(self, z, t):
        return 0.9 * z + self.table(t)[:, :, None, None]


class Drops(nn.Module):
    """A network that puts its dropout into training mode."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, z, t):
        self.drop.train()
        return self.drop(z)


def scored(net, where="law", data=CODES, condition=None, **declared):
    """The evaluation of a network as it is declared."""
    declared = {"schedule": SCHEDULES[where], "domain": DOMAIN, **TRUE[where], **declared}
    return nelbo.evaluate(nelbo.from_callable(net, **declared), data, max_nfe=600, condition=condition)


LAW_NET = network("law")
GAPS = VALUES.where(VALUES.max() > VALUES, torch.nan)
REFUSED = {
    "the log-SNR for an embedding": (lambda: scored(Embedded()), "time|index"),
    "an index past the table": (
        lambda: scored(Embedded(), "table", schedule=nelbo.schedules.linear(200)), "time|index|table|100",
    ),
    "an index on a law": (lambda: scored(LAW_NET, time="index"), "table position"),
    "arguments swapped": (lambda: scored(lambda t, z: LAW_NET(z, t)), "."),
    "another shape returned": (lambda: scored(lambda z, t: LAW_NET(z, t)[:, :2]), "returned shape"),
    "a tuple returned": (lambda: scored(lambda z, t: (LAW_NET(z, t),)), "returned tuple"),
    "twice the channels": (lambda: scored(lambda z, t: LAW_NET(z, t).repeat(1, 2, 1, 1)), "learned_range"),
    "no variance where one is learned": (lambda: scored(LAW_NET, variance="learned_range"), "doubles the channels"),
    "F without σ_data": (lambda: scored(network("edm"), "edm", sigma_data=None), "sigma_data"),
    "σ_data of another output": (lambda: scored(LAW_NET, sigma_data=0.5), "sigma_data"),
    "a velocity on a table": (lambda: scored(network("table"), "table", predicts="velocity"), "velocity"),
    "dropout": (lambda: scored(Drops()), "dropout is active in drop"),
    "noise": (lambda: scored(lambda z, t: z + torch.randn_like(z)), "differently when it is asked twice"),
    "the mean of the batch": (lambda: scored(lambda z, t: z - z.mean(0)), "others of its batch"),
    "codes beyond the bins": (lambda: scored(LAW_NET, domain=nelbo.DataDomain(SHAPE, 200)), "255|200"),
    "real values for codes": (lambda: scored(LAW_NET, data=VALUES), "float"),
    "channels last": (lambda: scored(LAW_NET, data=CODES.permute(0, 2, 3, 1)), r"\(3, 2, 2\)"),
    "a missing value": (lambda: scored(LAW_NET, domain=REAL, data=GAPS), "NaN"),
    "a condition that is missing": (lambda: scored(by_group, data=DOMAIN.codes(GROUPED)), "y"),
    "a condition of too few rows": (
        lambda: scored(by_group, data=DOMAIN.codes(GROUPED), condition={"y": LABELS[:9]}), "9",
    ),
    "a condition that nothing takes": (lambda: scored(LAW_NET, condition={"y": torch.zeros(200)}), "y"),
    "an unknown output": (lambda: scored(LAW_NET, predicts="noise"), "eps"),
    "an unknown time": (lambda: scored(LAW_NET, time="t"), "logsnr"),
}  # fmt: skip


# ---------------------------------------------------------------- what a training is given


def trained(folder, data, **settings) -> None:
    """One step of a small network on the data."""
    one = {"steps": 1, "batch_size": 8, "net": {"name": "mlp", "width": 8}}
    nelbo.train(data, folder / "run", config={**one, **settings})


OF_TRAINING = {
    "codes of 17 levels in 256 bins": (
        torch.randint(0, 17, (200, 12)), {"bins": 256}, "no code is above 16.*declare bins=17",
    ),
    "codes times 15": (15 * COARSE_CODES, {"bins": 256}, r"multiples of 15.*codes // 15"),
    "codes as 0..1": (COARSE_CODES / 16.0, {}, "17 evenly spaced numbers from 0 to 1.*bins=17, low=0, high=1"),
    "columns of unlike scales": (
        torch.randn(64, 3) * torch.tensor([1.0, 1e6, 1e-6]), {}, "standard deviations from .*ratio",
    ),
    "no bins": (COARSE_CODES, {}, r"not known.*\s*hint: .*bins=17"),
    "real values in 17 bins": (COARSE_CODES / 16.0, {"bins": 17}, "holds real numbers"),
    "values 0..255 as floats": (15.0 * COARSE_CODES, {}, "codes of 256 values"),
    "channels last": (torch.randint(0, 17, (16, 8, 8, 3)), {"bins": 17}, "in the last place"),
    "negative codes": (-COARSE_CODES, {"bins": 17}, "from -16 to 0"),
    "a missing value": (GAPS, {}, "NaN or infinity"),
    "classes without labels": (
        COARSE_CODES, {"bins": 17, "net": {"name": "mlp", "classes": 10}}, "conditional on 'y'",
    ),
    "an unknown output": (COARSE_CODES, {"bins": 17, "net": {"predicts": "noise"}}, "eps.*x0"),
}  # fmt: skip
"""Data, settings, and what is warned of or refused."""


@pytest.mark.parametrize("name", OF_TRAINING)
def test_a_training_says_it(name, tmp_path):
    """Before the first step: a warning, or an error with a remedy."""
    data, settings, pattern = OF_TRAINING[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trained(tmp_path, data, **settings)
            said = " ".join(str(one.message) for one in caught)
        except NelboError as error:
            said = str(error)
            assert "hint:" in said
    assert re.search(pattern, said, re.DOTALL), said


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name):
    """With an error of nelbo's that names it and a remedy."""
    call, pattern = REFUSED[name]
    with pytest.raises(NelboError, match=pattern) as caught:
        call()
    assert "hint:" in str(caught.value)
