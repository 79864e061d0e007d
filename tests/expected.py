"""Warnings that tests about something else expect; another one fails a quick test (`filterwarnings` in pyproject.toml).

Use one as a decorator, or `pytestmark = [untrained, early_end]` for a whole file.
"""

from __future__ import annotations

import pytest

untrained = pytest.mark.filterwarnings(
    "ignore:the network is worse than none", "ignore:the network's output is not calibrated"
)
"""Networks that nobody trained."""
early_end = pytest.mark.filterwarnings("ignore:the chain does not end at its prior")
"""Schedules that keep some signal at the last level."""
arrays = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword", "ignore:__array_wrap__ must accept context"
)
"""Schedulers of diffusers that hand tensors to numpy, which finds torch's arrays old."""
seen = pytest.mark.filterwarnings(r"ignore:\d+ of \d+ examples are among those the model was trained on")
"""Evaluation of training examples."""
