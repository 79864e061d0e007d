"""Training a model for its bound."""

from nelbo.training.config import TrainConfig
from nelbo.training.loop import train
from nelbo.training.settings import check_config, read_config, schema

__all__ = ["TrainConfig", "check_config", "read_config", "schema", "train"]
