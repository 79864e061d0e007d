"""The laws and data on which samplers are tested."""

from __future__ import annotations

from nelbo.model.exact import GaussianData, MixtureData
from nelbo.process import schedule as schedules

LAW = schedules.logsnr_linear(6.0, -6.0)
"""σ/α from 0.05 to 20."""
PATHS = ("vp", "ve", "flow")
PLANE = GaussianData([0.4, -1.0], [[0.6, 0.25], [0.25, 0.3]])
LINE = MixtureData([0.3, 0.5, 0.2], [-1.2, 0.3, 1.6], [0.15, 0.3, 0.2])
DETERMINISTIC = ("ddim", "euler", "heun", "dpmpp_2m", "flow_euler", "flow_midpoint")
