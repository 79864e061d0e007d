"""transformers: masked language models and masked diffusion models in its folders as complete models of sequences.

transformers itself is imported when one is read.
"""

from nelbo.adapters.transformers.checkpoint import is_folder
from nelbo.adapters.transformers.load import from_transformers

__all__ = ["from_transformers", "is_folder"]
