"""Networks that nelbo trains, by name. Each takes z and the log-SNR, and returns a value or K logits an element."""

from nelbo.nets.build import NETS, build

__all__ = ["NETS", "build"]
