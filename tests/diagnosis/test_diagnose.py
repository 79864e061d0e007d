"""What a diagnosis costs, what it leaves as it was, what it cannot try, and what it says: table, JSON, report."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

import nelbo
from nelbo.cli.main import execute
from nelbo.diagnosis.diagnose import ends_the_process
from nelbo.report import write
from tests.diagnosis.cases import CODES, DOMAIN, SCHEDULES, Counted, diagnosed, mistaken, model, network
from tests.diagnosis.test_inspection import GROUPS
from tests.tables import refusals

pytestmark = pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")

# ---------------------------------------------------------------- cost


def check_cost(where: str, max_nfe: int, **run) -> None:
    counted = Counted(network(where))
    diagnosis = nelbo.diagnose(model(where, lambda net: counted), CODES, max_nfe=max_nfe, **run)
    assert counted.rows == diagnosis.nfe_total <= max_nfe == diagnosis.max_nfe
    assert diagnosis.nfe_total > 0.6 * max_nfe


def test_no_more_is_spent_than_is_allowed():
    seen = []
    check_cost("table", 400, progress=lambda done, planned: seen.append((done, planned)))
    assert seen == sorted(seen) and seen[-1][0] > 200 and {planned for _, planned in seen} == {400}


@pytest.mark.slow
@pytest.mark.parametrize(("where", "max_nfe"), [("table", 1500), ("edm", 400), ("edm", 900)])
def test_no_more_is_spent_than_is_allowed_elsewhere(where, max_nfe):
    check_cost(where, max_nfe)


@pytest.mark.slow
def test_batch_size_and_order_change_nothing():
    one, other = (nelbo.diagnose(model("law"), CODES, max_nfe=400, batch_size=size) for size in (7, 512))
    assert [row.name for row in one.rows] == [row.name for row in other.rows]
    for a, b in zip(one.rows, other.rows, strict=True):
        assert math.isclose(a.bits_per_dim, b.bits_per_dim, rel_tol=1e-4, abs_tol=1e-4)


def test_the_network_is_left_as_it_was():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Dropout(0.5), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    one = nelbo.from_callable(lambda z, t: net(z), schedule=SCHEDULES["law"], domain=DOMAIN, time="logsnr")
    diagnosis = nelbo.diagnose(one, CODES, max_nfe=300)
    assert net.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert "training mode" in {row.name for row in diagnosis.rows}


test_refusals = refusals(
    (lambda: diagnosed("law", max_nfe=60), r"max_nfe=60 is less than one look at \d+ declarations\s+hint: .*least \d+"),
    (lambda: diagnosed("law", max_nfe=0), "max_nfe=0"),
)

# ---------------------------------------------------------------- what cannot be tried, and what cannot be finite


@pytest.mark.slow
def test_what_a_network_cannot_be_given_is_named():
    """An embedding takes whole numbers of its table alone."""

    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(100, 3)

        def forward(self, z, t):
            return 0.9 * z + self.table(t)[:, :, None, None]

    one = nelbo.from_callable(Embedded(), schedule=SCHEDULES["table"], domain=DOMAIN, predicts="eps", time="index")
    diagnosis = nelbo.diagnose(one, CODES, max_nfe=600)
    skipped = {one.name: one.reason for one in diagnosis.skipped}
    assert "time log-SNR" in skipped and "time unit" in skipped and "predicts velocity" in skipped
    assert all(skipped.values()) and "time T − 1 − index" in {row.name for row in diagnosis.rows}


def test_tables_are_not_looked_up_past_their_end_on_a_gpu():
    table = nelbo.from_callable(nn.Embedding(9, 3), schedule=SCHEDULES["law"], domain=DOMAIN, time="logsnr")
    for one, expected in ((table, True), (model("law"), False)):
        assert ends_the_process(one, torch.device("cuda")) is expected
        assert not ends_the_process(one, torch.device("cpu"))


@pytest.mark.slow
def test_a_declaration_whose_terms_are_not_finite():
    """As declared the network returns NaN; another declaration is right."""

    def wrap(net):
        return lambda z, t: torch.where((t.abs() > 1.01)[:, None, None, None], torch.nan, net(z, 100 * t))

    diagnosis = diagnosed("table", wrap)
    assert math.isnan(diagnosis.declared.bits_per_dim) and diagnosis.best.name in ("time index/T", "time unit")
    assert not diagnosis.verdict.ok and "not infinitely many" in diagnosis.verdict.text
    assert diagnosis.to_dict()["rows"][-1] is not None and "null" in json.dumps(diagnosis.to_dict())


@pytest.mark.slow
def test_models_whose_output_is_their_own(tmp_path):
    """A model that nelbo trained: its data and choices are tried, its output is not."""
    from tests.training.cases import BINS, codes, small

    nelbo.train(codes(), tmp_path / "run", config=small(bins=BINS, steps=30))
    diagnosis = nelbo.diagnose(tmp_path / "run", codes(seed=3), max_nfe=600)
    names = {row.name for row in diagnosis.rows}
    assert {"as declared", "values inverted", "rows as columns"} <= names
    assert any(one.name.startswith("predicts") for one in diagnosis.skipped) or "predicts eps" in names


@pytest.mark.slow
def test_an_exact_model_has_no_network_to_evaluate():
    one = GROUPS[1].model(SCHEDULES["law"], nelbo.grids.continuous())
    diagnosis = nelbo.diagnose(one, GROUPS[1].sample(64), max_nfe=900)
    assert diagnosis.verdict.ok and diagnosis.nfe_total <= 900


# ---------------------------------------------------------------- what it says


def test_table_and_json():
    diagnosis = mistaken()
    text = str(diagnosis)
    assert text.startswith(diagnosis.verdict.text) and 'change: predicts="v"' in text
    assert "as declared" in text and f"{diagnosis.nfe_total} network evaluations of at most 900" in text
    document = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))
    assert document["schema"] == "nelbo.diagnosis/1" and document["nfe_total"] == diagnosis.nfe_total
    verdict = {"ok": False, "text": diagnosis.verdict.text, "change": 'predicts="v"', "alike": []}
    assert document["verdict"] == verdict and diagnosis.verdict.text.startswith("this network predicts v: ")
    first, declared = document["rows"][0], next(row for row in document["rows"] if row["as_declared"])
    assert first["declaration"] == {"predicts": "v"} and declared["declaration"] == {} and declared["difference"] == 0
    assert math.isclose(first["difference"], first["bits_per_dim"] - declared["bits_per_dim"], abs_tol=1e-9)
    ranked = [row["bits_per_dim"] for row in document["rows"] if row["kind"] in ("declared", "declaration")]
    assert ranked == sorted(ranked)
    assert {check["name"] for check in document["checks"]} == {"repeatability", "output", "bins", "terminal level"}
    assert all(check["ok"] for check in document["checks"])


def test_the_bound_of_every_row_is_that_of_evaluate():
    """Within four standard errors of both: the wrong declaration and the right one."""
    diagnosis = mistaken()
    for row, output in ((diagnosis.best, "v"), (diagnosis.declared, "eps")):
        bound = nelbo.evaluate(model("law", predicts=output), CODES, tolerance=0.03, any_cost=True)
        error = (row.standard_error**2 + bound.standard_error.estimator**2) ** 0.5
        assert abs(row.bits_per_dim - bound.bits_per_dim) < 4 * error


PLUGIN = """
from tests.diagnosis.cases import model

def wrong():
    return model("law", predicts="eps")
"""


def test_the_command(tmp_path, monkeypatch, capsys):
    import numpy as np

    (tmp_path / "theirs_diagnosed.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    np.save(tmp_path / "codes.npy", CODES.numpy())
    out = tmp_path / "diagnosis.json"
    command = ["diagnose", "theirs_diagnosed:wrong", "--data", str(tmp_path / "codes.npy"), "--max-nfe", "400"]
    assert execute([*command, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "this network predicts v" in printed.out and "at most 400 network evaluations" in printed.err
    document = json.loads(out.read_text())
    assert document["max_nfe"] == 400 and document["data"]["name"].endswith("codes.npy")


@pytest.mark.slow
def test_json_of_the_command(tmp_path, monkeypatch, capsys):
    import numpy as np

    (tmp_path / "theirs_diagnosed.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    np.save(tmp_path / "codes.npy", CODES.numpy())
    assert execute(["diagnose", "theirs_diagnosed:wrong", "--data", str(tmp_path / "codes.npy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["max_nfe"] == 2000


def test_the_section_of_a_report(tmp_path):
    document = mistaken().to_dict()
    file = tmp_path / "diagnosis.json"
    file.write_text(json.dumps(document))
    page = write(tmp_path, tmp_path / "report.html").read_text()
    assert "<h2>Diagnosis</h2>" in page and "this network predicts v" in page and "predicts=&#34;v&#34;" in page
    for broken, message in (
        ({**document, "schema": "x"}, "has the schema 'x'"),
        ({"schema": document["schema"]}, "lacks"),
    ):
        file.write_text(json.dumps(broken))
        with pytest.raises(nelbo.NelboError, match=message):
            write(tmp_path, tmp_path / "report.html")
