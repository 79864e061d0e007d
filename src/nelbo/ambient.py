"""Settings of torch that surround a call and would change its numbers or its errors: here they do not.

`torch.autocast`, the default dtype and device, inference mode and the precision of float32 matrix products belong to
whoever set them. A result says in which precision it was computed, and that is the precision that was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def neutral() -> Iterator[None]:
    """No autocast, float32 and the CPU as defaults, no inference mode, float32 products in full; all as before after.

    Gradients are recorded, as outside of `torch.no_grad`; what needs none says so itself.
    """
    with ExitStack() as inside:
        inside.enter_context(torch.inference_mode(False))
        inside.enter_context(torch.set_grad_enabled(True))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                inside.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            inside.enter_context(torch.device("cpu"))
        dtype, products = torch.get_default_dtype(), torch.get_float32_matmul_precision()
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            inside.callback(torch.set_default_dtype, dtype)
        if products != "highest":
            torch.set_float32_matmul_precision("highest")
            inside.callback(torch.set_float32_matmul_precision, products)
        yield
