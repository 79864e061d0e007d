"""Training a model for its bound."""

from nelbo.training.config import TrainConfig, check_config, read_config, schema
from nelbo.training.loop import train

__all__ = ["TrainConfig", "check_config", "read_config", "schema", "train"]
