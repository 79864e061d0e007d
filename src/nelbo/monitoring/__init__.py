"""The bound of a network that is being trained: the same draws each time, so that the curve moves as it does."""

from nelbo.monitoring.loss import bound_loss
from nelbo.monitoring.monitor import Monitor
from nelbo.monitoring.others import lightning_callback, torchmetrics_metric, transformers_callback
from nelbo.monitoring.planned import planned_times
from nelbo.monitoring.ratio import RatioEstimator
from nelbo.monitoring.reading import Reading

__all__ = [
    "Monitor",
    "RatioEstimator",
    "Reading",
    "bound_loss",
    "lightning_callback",
    "planned_times",
    "torchmetrics_metric",
    "transformers_callback",
]
