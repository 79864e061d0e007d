"""What a diagnosis costs, what it looks at by itself, and what it says: table, JSON, command, report."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

import nelbo
from nelbo import testing
from nelbo.bound.runner import Runner
from nelbo.cli.main import execute
from nelbo.diagnosis import draws
from nelbo.diagnosis.asked import Answers, Negated, Remembering
from nelbo.diagnosis.draws import Stage, Values
from nelbo.model.exact import GaussianData
from nelbo.report import write
from nelbo.workers import Run
from tests.diagnosis.cases import CODES, DOMAIN, SCHEDULES, SHAPE, TRUE, diagnosed, model, network
from tests.tables import refusals

pytestmark = pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")


class Counted:
    """A network that counts the rows it is asked, also those of its copies."""

    def __init__(self, net):
        self.net, self.asked = net, []

    def __call__(self, z, t):
        self.asked.append(len(z))
        return self.net(z, t)

    def __deepcopy__(self, memo):
        return self

    @property
    def rows(self) -> int:
        return sum(self.asked)


# ---------------------------------------------------------------- cost


@pytest.mark.parametrize("max_nfe", [400, 900, 1500])
@pytest.mark.parametrize("where", ["table", "edm"])
def test_no_more_is_spent_than_is_said(where, max_nfe):
    counted = Counted(network(where))
    diagnosis = diagnosed(where, lambda net: counted, max_nfe=max_nfe)
    assert counted.rows == diagnosis.nfe_total <= max_nfe == diagnosis.max_nfe
    assert diagnosis.nfe_total > 0.6 * max_nfe


def test_progress_is_told():
    seen = []
    nelbo.diagnose(model("law"), CODES, max_nfe=400, progress=lambda done, planned: seen.append((done, planned)))
    assert seen == sorted(seen) and seen[-1][0] > 200 and {planned for _, planned in seen} == {400}


def test_batch_size_and_order_change_nothing():
    one, other = (nelbo.diagnose(model("law"), CODES, max_nfe=400, batch_size=size) for size in (7, 512))
    assert [row.name for row in one.rows] == [row.name for row in other.rows]
    for a, b in zip(one.rows, other.rows, strict=True):
        assert math.isclose(a.bits_per_dim, b.bits_per_dim, rel_tol=1e-4, abs_tol=1e-4)


def test_the_network_is_left_as_it_was():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Dropout(0.5), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    table = SCHEDULES["table"]
    one = nelbo.from_callable(lambda z, t: net(z), schedule=table, domain=DOMAIN, predicts="eps", time="index")
    diagnosis = nelbo.diagnose(one, CODES, max_nfe=400)
    assert net.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert "training mode" in {row.name for row in diagnosis.rows}


# ---------------------------------------------------------------- asking


def test_no_question_is_asked_twice():
    counted, answers = Counted(network("law")), Answers()
    net = Remembering(counted, answers)
    z, t = torch.randn(5, *SHAPE, dtype=torch.float64), torch.linspace(-3, 3, 5, dtype=torch.float64)
    first = net(z, t)
    torch.testing.assert_close(net(z.flip(0), t.flip(0)), first.flip(0), rtol=0, atol=0)
    torch.testing.assert_close(first, counted.net(z, t))
    assert counted.rows == answers.nfe == 5
    net(z + 1e-9, t), net(z, t + 1e-9), net(z.float(), t)
    assert answers.nfe == 20


def test_answers_are_forgotten_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr("nelbo.diagnosis.asked.MEMORY", 8 * 12 * 3)
    counted, answers = Counted(lambda z, t: 2 * z), Answers()
    net = Remembering(counted, answers)
    z, t = torch.randn(6, *SHAPE, dtype=torch.float64), torch.zeros(6)
    torch.testing.assert_close(net(z, t), 2 * z)
    assert len(answers.kept) == 3
    torch.testing.assert_close(net(z, t), 2 * z)
    assert answers.nfe == 9


def test_the_sign_of_a_learned_variance_stays():
    value = Negated(lambda z, t: torch.cat([z, z + 1], 1), 3)(torch.ones(2, *SHAPE), torch.zeros(2))
    assert bool((value[:, :3] == -1).all()) and bool((value[:, 3:] == 2).all())


# ---------------------------------------------------------------- draws


def test_values_are_the_bound_within_their_errors():
    """The mean of many stages against the exhaustive estimate; the errors that stages expect are those they have."""
    one = model("law", grid=nelbo.grids.even(12))
    exact = nelbo.evaluate(one, CODES, estimator="exhaustive")
    from nelbo.bound.prepare import prepare

    chain = prepare(one, CODES, Run()).chain
    runner, p = Runner(Run(), 12), draws.density(chain)
    assert math.isclose(float(p.sum()), 1.0) and bool((p > 0).all())
    prior = float(chain.priors().mean())
    found = []
    for k in range(40):
        stage = Stage.of(0, k % 60, 200 * k, 6, 6, len(CODES))
        got = draws.evaluated(chain, runner, stage, p)
        found.append(Values(got.along, got.first, prior))
    totals = torch.tensor([v.total for v in found])
    value, variance = draws.pooled(found)
    expected = exact.bits_per_dim * 12 * math.log(2)
    assert math.isclose(value, float(totals.mean()), rel_tol=1e-5)
    assert abs(value - expected) < 4 * variance**0.5 + 4 * exact.standard_error.estimator * 12 * math.log(2)
    assert 0.6 < float(totals.var()) / (40 * variance) < 1.7


def test_differences_are_paired():
    """Two declarations that are the same differ by nothing; two bins differ by far less than either's own error."""
    diagnosis = diagnosed("law")
    row = next(row for row in diagnosis.rows if row.name == "bins 257")
    assert row.difference_error < 0.3 * row.standard_error
    assert not any(row.name == "predicts v" for row in diagnosis.rows)


# ---------------------------------------------------------------- looks

GROUPS = [GaussianData(torch.full((12,), m), 0.05 * torch.ones(12)) for m in (-0.6, 0.0, 0.6)]
LABELS = torch.arange(150) % 3
GROUPED = torch.stack([GROUPS[y].sample(150)[i] for i, y in enumerate(LABELS.tolist())]).reshape(-1, *SHAPE)


def by_group(z, t, y):
    """The exact network given the group."""
    nets = [testing.as_network(testing.oracle(group), SCHEDULES["law"], "v", "logsnr") for group in GROUPS]
    every = torch.stack([net(z, t) for net in nets])
    return every[y, torch.arange(len(z))]


def of_condition(rows: torch.Tensor, net=by_group):
    one = nelbo.from_callable(net, schedule=SCHEDULES["law"], domain=DOMAIN, **TRUE["law"])
    diagnosis = nelbo.diagnose(one, DOMAIN.codes(GROUPED), condition={"y": rows}, max_nfe=900)
    return diagnosis, next(check for check in diagnosis.checks if check.name == "condition y")


def test_rows_of_the_right_examples():
    diagnosis, check = of_condition(LABELS)
    assert diagnosis.verdict.ok and check.ok and "cost +" in check.text
    assert next(row for row in diagnosis.rows if row.kind == "control").difference > 0


def test_rows_of_other_examples():
    shuffled = LABELS[torch.randperm(150, generator=torch.Generator().manual_seed(0))]
    diagnosis, check = of_condition(shuffled)
    assert not diagnosis.verdict.ok and not check.ok and check.text in diagnosis.verdict.text


def test_rows_that_count_from_another_number():
    diagnosis, _ = of_condition((LABELS + 2) % 3)  # y + 1, modulo 3
    assert diagnosis.best.name == "y + 1" or not diagnosis.verdict.ok


def test_rows_that_are_not_read():
    _, check = of_condition(LABELS, lambda z, t, y: network("law")(z, t))
    assert check.ok and check.text == "the network does not read it"


def looked(wrap, where="law", **otherwise):
    diagnosis = diagnosed(where, wrap, max_nfe=400, **otherwise)
    return diagnosis, {check.name: check for check in diagnosis.checks}


def test_chance_and_company():
    def chance(net):
        return lambda z, t: net(z, t) + 0.1 * torch.randn_like(z)

    def company(net):
        return lambda z, t: net(z, t) - 0.1 * z.mean(0, keepdim=True)

    diagnosis, checks = looked(chance)
    assert not checks["determinism"].ok and not diagnosis.verdict.ok
    assert checks["determinism"].text in diagnosis.verdict.text
    _, checks = looked(company)
    assert checks["determinism"].ok and not checks["batch mates"].ok
    _, checks = looked(lambda net: net)
    assert all(check.ok for check in checks.values())


def test_a_chain_that_does_not_end_at_its_prior():
    _, checks = looked(lambda net: net, schedule=nelbo.schedules.logsnr_linear(7.0, 0.0))
    assert not checks["terminal level"].ok


def test_an_output_that_is_cut_off():
    diagnosis, checks = looked(lambda net: lambda z, t: net(z, t).clamp(-0.5, 0.5), "table")
    assert not checks["output"].ok and "[-0.5, 0.5]" in diagnosis.verdict.text


# ---------------------------------------------------------------- what cannot be asked, and what cannot be finite


def test_what_a_network_cannot_be_asked_is_named():
    """An embedding takes whole numbers of its table alone."""

    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(100, 3)

        def forward(self, z, t):
            return 0.9 * z + self.table(t)[:, :, None, None]

    net = Embedded()
    one = nelbo.from_callable(net, schedule=SCHEDULES["table"], domain=DOMAIN, predicts="eps", time="index")
    diagnosis = nelbo.diagnose(one, CODES, max_nfe=600)
    skipped = {one.name: one.reason for one in diagnosis.skipped}
    assert "told log-SNR" in skipped and "told unit time" in skipped and "predicts velocity" in skipped
    assert all(skipped.values()) and "told T − 1 − index" in {row.name for row in diagnosis.rows}


def test_a_declaration_whose_terms_are_not_finite():
    """As declared the network returns NaN; another declaration is right."""

    def wrap(net):
        return lambda z, t: torch.where((t.abs() > 1.01)[:, None, None, None], torch.nan, net(z, 100 * t))

    diagnosis = diagnosed("table", wrap)
    assert math.isnan(diagnosis.declared.bits_per_dim) and diagnosis.best.name in ("told index/T", "told unit time")
    assert not diagnosis.verdict.ok and "not infinitely many" in diagnosis.verdict.text
    assert diagnosis.to_dict()["rows"][-1] is not None and "null" in json.dumps(diagnosis.to_dict())


def test_models_whose_output_is_their_own(tmp_path):
    """A model that nelbo trained: its data and choices are tried, its output is not."""
    from tests.training.cases import BINS, codes, small

    nelbo.train(codes(), tmp_path / "run", config=small(bins=BINS, steps=30))
    diagnosis = nelbo.diagnose(tmp_path / "run", codes(seed=3), max_nfe=600)
    names = {row.name for row in diagnosis.rows}
    assert {"as declared", "values inverted", "rows as columns"} <= names
    assert any(one.name.startswith("predicts") for one in diagnosis.skipped) or "predicts eps" in names


def test_an_exact_model_has_no_network_to_ask():
    one = GROUPS[1].model(SCHEDULES["law"], nelbo.grids.continuous())
    diagnosis = nelbo.diagnose(one, GROUPS[1].sample(64), max_nfe=900)
    assert diagnosis.verdict.ok and diagnosis.nfe_total <= 900


test_refusals = refusals(
    (lambda: diagnosed("law", max_nfe=60), r"max_nfe=60 is less than one look at \d+ declarations\s+hint: .*least \d+"),
    (lambda: diagnosed("law", max_nfe=0), "max_nfe=0"),
)


# ---------------------------------------------------------------- what it says


def test_table_and_json():
    diagnosis = diagnosed("law", predicts="eps")
    text = str(diagnosis)
    assert text.startswith(diagnosis.verdict.text) and 'change: predicts="v"' in text
    assert "as declared" in text and f"{diagnosis.nfe_total} network evaluations of at most 900" in text
    document = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))
    assert document["schema"] == "nelbo.diagnosis/1" and document["nfe_total"] == diagnosis.nfe_total
    assert document["verdict"] == {"ok": False, "text": diagnosis.verdict.text, "change": 'predicts="v"'}
    first, declared = document["rows"][0], next(row for row in document["rows"] if row["as_declared"])
    assert first["declaration"] == {"predicts": "v"} and declared["declaration"] == {} and declared["difference"] == 0
    assert math.isclose(first["difference"], first["bits_per_dim"] - declared["bits_per_dim"], abs_tol=1e-9)
    ranked = [row["bits_per_dim"] for row in document["rows"] if row["kind"] in ("declared", "declaration")]
    assert ranked == sorted(ranked)
    assert {"determinism", "batch mates", "bins", "terminal level"} <= {check["name"] for check in document["checks"]}


PLUGIN = """
from tests.diagnosis.cases import model

def wrong():
    return model("law", predicts="eps")
"""


def test_the_command_and_the_report(tmp_path, monkeypatch, capsys):
    import numpy as np

    (tmp_path / "theirs_diagnosed.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    np.save(tmp_path / "codes.npy", CODES.numpy())
    out = tmp_path / "diagnosis.json"
    command = ["diagnose", "theirs_diagnosed:wrong", "--data", str(tmp_path / "codes.npy"), "--max-nfe", "700"]
    assert execute([*command, "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert "this network predicts v" in told.out and "at most 700 network evaluations" in told.err
    assert execute([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == json.loads(out.read_text())["rows"]
    page = write(tmp_path, tmp_path / "report.html").read_text()
    assert "<h2>Diagnosis</h2>" in page and "this network predicts v" in page and "predicts=&#34;v&#34;" in page
    document = json.loads(out.read_text())
    for broken, message in (
        ({**document, "schema": "x"}, "has the schema 'x'"),
        ({"schema": document["schema"]}, "lacks"),
    ):
        out.write_text(json.dumps(broken))
        with pytest.raises(nelbo.NelboError, match=message):
            write(tmp_path, tmp_path / "report.html")
