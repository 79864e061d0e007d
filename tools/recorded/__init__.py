"""The rows of the record: importing this package registers them all."""

from tools.recorded import comparing, evaluating, files, sampling, tightening, training
from tools.recorded.registry import ROWS, On, Row, written

__all__ = ["ROWS", "On", "Row", "comparing", "evaluating", "files", "sampling", "tightening", "training", "written"]
