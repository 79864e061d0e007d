"""diffusers: its folders, pipelines, networks and schedulers as complete models, and models as its folders.

`from_diffusers` reads, `save_pretrained` writes. diffusers itself is imported when one of them is called.
"""

from nelbo.adapters.diffusers.folder import fetched, is_folder, is_hub_id, uploaded
from nelbo.adapters.diffusers.load import from_diffusers
from nelbo.adapters.diffusers.save import save_pretrained

__all__ = ["fetched", "from_diffusers", "is_folder", "is_hub_id", "save_pretrained", "uploaded"]
