"""Training a model for its bound."""

from nelbo.training.config import TrainConfig, read_config
from nelbo.training.loop import train

__all__ = ["TrainConfig", "read_config", "train"]
