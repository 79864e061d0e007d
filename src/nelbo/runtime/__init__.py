"""What accelerate is needed for: several processes that share work, and trackers. Nothing else imports it."""

from nelbo.runtime.processes import (
    Processes,
    check_first,
    device,
    finish,
    launched,
    leads,
    leave,
    reports_failure,
    workers,
)
from nelbo.runtime.trackers import Tracker, tracker

__all__ = [
    "Processes",
    "Tracker",
    "check_first",
    "device",
    "finish",
    "launched",
    "leads",
    "leave",
    "reports_failure",
    "tracker",
    "workers",
]
