"""One site for all its tests, with the figures of a few quick checks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nelbo.equations import verify
from nelbo.equations.derivation import verify_derivations
from nelbo.equations.pages import Built, build

VERIFIED = ("bayes-rule", "schedule-definitions", "posterior-mean")


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results") / "checks.json"
    report = verify(*VERIFIED).to_dict()
    report["derivations"] = verify_derivations("five-lines").to_dict()["entries"]
    path.write_text(json.dumps(report))
    return path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, results: Path) -> Built:
    return build(tmp_path_factory.mktemp("pages") / "site", verify=results)


@pytest.fixture(scope="session")
def site(built: Built) -> Path:
    return built.out
