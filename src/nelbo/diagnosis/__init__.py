"""Diagnosis: which declaration suits a network, among its siblings. `nelbo.diagnose` is the verb."""

from nelbo.diagnosis.diagnose import diagnose
from nelbo.diagnosis.result import Check, Diagnosis, Row, Skipped, Verdict

__all__ = ["Check", "Diagnosis", "Row", "Skipped", "Verdict", "diagnose"]
